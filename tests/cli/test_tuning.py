"""A search gives every method equal effort, and its file loses no scores."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searches import peak, search_at

from dora import tune
from dora.cli import tuning as tuning_module
from dora.cli.line import read
from dora.cli.search_rule import Candidate
from dora.cli.spelling import is_sweep
from dora.cli.tuning import Tuning
from dora.collect import collect
from dora.configuration import search_file
from dora.configuration.rates_from import METHOD_FILE
from dora.errors import NotNow, UserError
from dora.records import packed
from runs import (
    command,
    configure,
    in_process,
    record,
    refused,
    run,
    small,
    small_glue,
    small_words,
)


def test_groups_are_methods_tasks_and_budgets_and_full_counts_once(tmp_path: Path) -> None:
    grid = [
        small_words(tmp_path, f"method={m}", f"budget={b}", f"seed={s}", "lr=1")
        for m in ("full", "lora")
        for b in ("r1", "r2")
        for s in (1, 2)
    ]
    tuning = Tuning(grid, lambda words: configure(*words), 3, (1, 2))
    assert [s.key[1:4] for s in tuning.searches()] == [
        ("wnli", "full", None),
        ("wnli", "lora", "r1"),
        ("wnli", "lora", "r2"),
    ]
    jobs = tuning.jobs()
    assert len(jobs) == 3 * 3 * 2
    # Around the model's rate for LoRA, not around what was typed for the study.
    rates = [w for job in jobs if "method=lora" in job for w in job if w.startswith("lr=")]
    assert set(rates) == {"lr=0.001", "lr=0.002", "lr=0.004"}
    assert all("select=heldout" in job and f"results={tmp_path}/search" in job for job in jobs)


def test_values_of_a_methods_own_setting_are_tried_at_its_best_rate_and_count(
    tmp_path: Path,
) -> None:
    grid = [small_words(tmp_path, f"method={m}", "budget=r2") for m in ("lora", "dora")]
    tuning = Tuning(grid, lambda words: configure(*words), 6, (1,))
    lora, dora = (next(g for k, g in tuning.groups.items() if k[2] == m) for m in ("lora", "dora"))
    tried: dict[str, list[Candidate]] = {"lora": [], "dora": []}
    for name, group in (("lora", lora), ("dora", dora)):
        while round_ := group.next(6):
            for candidate in round_:
                tried[name].append(candidate)
                # 1e-3 is the best rate, and dem=0.5 better than the default by a point.
                score = peak(1e-3)(candidate.lr) + (candidate.value == 0.5)
                group.take(candidate, (score,))
    assert len(tried["lora"]) == len(tried["dora"]) == 6
    best = dora.found.lr
    assert tried["dora"][4:] == [Candidate(best, 0.3), Candidate(best, 0.5)]
    assert all(candidate.value is None for candidate in (*tried["lora"], *tried["dora"][:4]))
    assert {"method.dem=0.5", f"lr={best:g}"} <= set(dora.words_of(Candidate(best, 0.5), 1))
    assert (dora.found.value, lora.found.value) == (0.5, None)


def test_a_search_goes_on_with_all_that_its_file_holds(tmp_path: Path) -> None:
    # The rule of an earlier version came to a fourth rate, which that of this one need not try.
    words = small_words(tmp_path, "method=lora", "budget=r2")

    def tuning() -> Tuning:
        return Tuning([words], lambda given: configure(*given), 5, (1,))

    begun = tuning()
    (key,) = begun.groups
    first = [float(w[3:]) for job in begun.jobs() for w in job if w.startswith("lr=")]
    below = min(first) / 2
    scores = {rate: (50.0,) for rate in (*first, below)}
    (tmp_path / "search").mkdir()
    whole = search_file.Search(key, (1,), scores)
    search_file.write(tmp_path / "search/choices.json", [whole])
    tried = [float(w[3:]) for job in tuning().jobs() for w in job if w.startswith("lr=")]
    assert tried == sorted(scores)


def test_a_search_goes_on_with_the_settings_and_the_start_of_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = small_words(tmp_path, "method=lora", "budget=r2")

    def tuning(*more: str) -> Tuning:
        return Tuning([[*words, *more]], lambda given: configure(*given), 4, (1,))

    begun = tuning()
    scores = {float(w[3:]): (50.0,) for job in begun.jobs() for w in job if w.startswith("lr=")}
    (group,) = begun.groups.values()
    for rate, by_seed in scores.items():
        group.take(Candidate(rate), by_seed)
    (tmp_path / "search").mkdir()
    search_file.write(tmp_path / "search/choices.json", begun.searches())
    # What a search sets itself, and what changes last bits alone, may be another.
    tuning("lr=1", "threads=2", "keep_model=true", "seed=2")
    told = r"holds a search for wnli with lora with batch_size=8, method.alpha=16.0: give the same"
    with pytest.raises(UserError, match=told):
        tuning("batch_size=4", "method.alpha=8")
    for words_of_a_run, held in (("head_lr=0.01", "head_lr"), ("init_from=/x/a", "init_from")):
        with pytest.raises(UserError, match=f"for wnli with lora with {held}=None: give the same"):
            tuning(words_of_a_run)
    for elsewhere, key in (
        ("model.own.lr.lora=0.1", "model.lr.lora"),
        ("+rates.wnli.lora=0.1", "rates.wnli.lora"),
    ):
        # The rate in the middle of the three.
        way = f"{key}={sorted(scores)[1]:g}"
        with pytest.raises(UserError, match=f"began at another rate than 0.1, .* give {way}, or"):
            tuning(elsewhere)
        tuning(elsewhere, way)
    # A method of one's own that was edited is searched anew, and a study's run would name it.
    monkeypatch.setattr("dora.configuration.rates_from.fingerprint", lambda _: "0123456789")
    (edited,) = tuning().searches()
    assert edited.settings[METHOD_FILE] == "01234567"
    assert edited.unlike({METHOD_FILE: "fedcba98"}) == {METHOD_FILE: "01234567"}
    search_file.write(
        tmp_path / "search/choices.json", [dataclasses.replace(edited, scores=scores)]
    )
    monkeypatch.setattr("dora.configuration.rates_from.fingerprint", lambda _: "9876543210")
    tuning()
    # A file that does not say its settings is gone on with.
    search = dataclasses.replace(begun.searches()[0], settings={})
    search_file.write(tmp_path / "search/choices.json", [search])
    tuning("batch_size=4")


def test_a_search_in_two_folders_is_refused(tmp_path: Path) -> None:
    grid = [small_words(tmp_path / name, "method=lora", "budget=r2") for name in "ab"]
    with pytest.raises(UserError, match=r"results=.*a, results=.*b: a search has one folder"):
        Tuning(grid, lambda given: configure(*given), 3, (1,))


def test_values_that_the_method_would_refuse_are_told_before_the_first_round(
    tmp_path: Path,
) -> None:
    words = small_words(tmp_path, "method=dora", "budget=r2", "method._tune_={dem:[-1.0,0.3]}")
    with pytest.raises(UserError, match=r"dora.yaml, _tune_: method.dem=-1.0 must lie in"):
        Tuning([words], lambda given: configure(*given), 6, (1,))


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_every_method_may_be_searched_for_its_rate_alone(method: str, tmp_path: Path) -> None:
    # LoRA's file names no setting to try: the key is added there, and overridden in DoRA's.
    typed = read(["-m", f"method={method}", "method._tune_=null"]).overrides
    words = small_words(tmp_path, *typed)
    assert configure(*words).chosen.tried is None
    jobs = Tuning([words], lambda given: configure(*given), 3, (1,)).jobs()
    assert len(jobs) == 3
    # A record that held the key would not be repeated: no run has it.
    assert not [word for job in jobs for word in job if "_tune_" in word]


def test_every_wrong_setting_of_a_grid_is_told_before_its_first_round(tmp_path: Path) -> None:
    grid = [small_words(tmp_path, f"method={m}", "budget=8", "warmup=-1") for m in ("lora", "dora")]
    with pytest.raises(UserError) as e:
        Tuning(grid, lambda words: configure(*words), 2, (1,))
    told = "\n".join(e.value.problems)
    assert all(part in told for part in ("candidates=2", "budget=8", "warmup=-1"))
    assert len(e.value.problems) == 3  # each once, not for every method


def test_a_search_does_not_read_the_file_that_it_is_to_write(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=lora", f"rates_from={tmp_path}/search/choices.json")
    tuning = Tuning([words], lambda words: configure(*words), 3, (1,))
    assert all("rates_from=null" in job for job in tuning.jobs())


def test_a_search_of_two_settings_is_refused(tmp_path: Path) -> None:
    # One file has one rate for a method, task and budget: the second would take the first's place.
    grid = [small_words(tmp_path, "method=lora", f"max_length={n}") for n in (40, 48)]
    with pytest.raises(
        UserError, match="wnli with lora is to be searched with several values of max"
    ):
        Tuning(grid, lambda words: configure(*words), 3, (1,))


@pytest.mark.parametrize(
    ("key", "method", "values"),
    [
        # A record has the data's and the model's name alone, and fingerprints of other runs.
        ("data.dir", "lora", ("/x/a", "/x/b")),
        ("init_from", "lora", ("/x/a", "/x/b")),
        ("model.path", "lora", ("/x/m", "/y/m")),
        ("method.runs", "cora", ("[/x/a]", "[/x/b]")),
    ],
)
def test_a_search_from_two_folders_is_refused(
    key: str, method: str, values: tuple[str, str], tmp_path: Path
) -> None:
    grid = [small_words(tmp_path, f"method={method}", f"{key}={value}") for value in values]
    with pytest.raises(UserError, match=f"is to be searched with several values of {key}: "):
        Tuning(grid, lambda words: configure(*words), 3, (1,))


def test_a_key_that_a_search_sets_itself_is_refused_where_it_is_typed(tmp_path: Path) -> None:
    own = ["-m", "hydra/sweeper=tune", "hydra.sweeper.candidates=6", "hydra.sweeper.seeds=[1,2]"]
    words = ["lr=1e-3,2e-3", "seed=1", "select=dev", "rates_from=x.json"]
    found = refused(*own, f"results={tmp_path}", *words)
    assert [text.partition(": ")[0] for text in found] == words
    assert "model.lr.METHOD" in found[0]
    assert "--seeds 1,2" in found[1]
    assert "leave it out" in found[2]
    assert "leave it out" in found[3]


def test_what_an_experiment_sets_for_its_study_is_left_out_of_the_search(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nlr: 1\nselect: dev\n"
        "hydra: {sweeper: {params: {seed: '1,2', warmup: '-1'}}}\n"
    )
    own = ["-m", "hydra/sweeper=tune", "hydra.sweeper.candidates=6", "hydra.sweeper.seeds=[1,2]"]
    # The wrong warm-up ends the command before anything is trained.
    found = refused(*own, f"--config-dir={tmp_path}", "experiment=mine", f"results={tmp_path}/r")
    assert len(found) == 1
    assert found[0].startswith("warmup=-1")


def test_a_forced_search_trains_its_candidates_again(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=lora", "force=true")
    tuning = Tuning([words], lambda words: configure(*words), 3, (1,))
    assert all("force=true" in job for job in tuning.jobs())


@pytest.mark.parametrize("seeds", ["x", "-1", "1,,2", "01,1", ""])
def test_seeds_that_are_none_are_told_by_the_option_that_gives_them(
    seeds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "task=rte", "method=lora", f"--seeds={seeds}"])
    with pytest.raises(SystemExit) as ended:
        tune.main()
    assert ended.value.code == 2
    said = f"argument --seeds: {seeds} must be different whole numbers from 0, such as 1,2"
    assert said in capsys.readouterr().err


def test_a_search_shows_no_single_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "task=rte", "--cfg", "job"])
    with pytest.raises(SystemExit):
        tune.main()
    assert "--cfg shows one run's configuration: give it to python" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("candidates", "seeds", "told"),
    [
        (2, (1,), "candidates=2 must be 3 or more"),
        (3, (1, 1), "one or more different seeds"),
        (
            4,
            (1,),
            "candidates=4 leaves 2 learning rates for dora, with 2 more values of dem: give 5",
        ),
    ],
)
def test_too_little_effort_is_refused(
    candidates: int, seeds: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        Tuning(
            [small_words(tmp_path, "method=dora", "budget=r2")],
            lambda words: configure(*words),
            candidates,
            seeds,
        )


def test_the_command_searches_goes_on_where_it_was_stopped_and_a_study_reads_its_file(
    tmp_path: Path,
) -> None:
    words = ["task=wnli", "data=dir", f"data.dir={small_glue()}", "limit_train=96", "max_steps=4"]
    words += ["batch_size=8", "eval_every=2", "max_length=48", "budget=r2", f"results={tmp_path}"]
    line = ["dora.tune", *words, "method=lora,full", "--candidates", "3", "--seeds", "3"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "search" / "choices.json"
    found = json.loads(file.read_text())
    assert {(c["method"], c["candidates"], tuple(c["seeds"])) for c in found["choices"]} == {
        ("lora", 3, (3,)),
        ("full", 3, (3,)),
    }
    assert all(0 < loss for c in found["choices"] for _, by_seed in c["losses"] for loss in by_seed)
    assert all(
        [lr for lr, _ in c["losses"]] == [lr for lr, _ in c["scores"]] for c in found["choices"]
    )
    assert len(list((tmp_path / "search").glob("runs/*/*/*/*/*/*/s*"))) == 2 * 3
    assert f"rates_from={file}" in done.stdout
    assert (tmp_path / "search" / "learning-rates.png").exists()
    # Nothing is trained twice, and the choices are the same; packed records will do for that.
    searches = search_file.read(file)
    collect(file.parent, file.parent / packed.NAME)
    shutil.rmtree(file.parent / "runs")
    code, said, _ = in_process(tune.main, *line)
    assert code == 0
    assert "6 runs: 6 done before, 0 to train" in said
    assert search_file.read(file) == searches
    # A search with other seeds would lose scores.
    with pytest.raises(UserError, match="holds 3 candidates with seeds 3 for wnli with lora"):
        Tuning([[*words, "method=lora"]], lambda given: configure(*given), 3, (4,))
    # A run of the study has the rate, and says how it was found.
    # At the search's length.
    study = ["method=lora", "budget=r2", f"rates_from={file}", "max_steps=4"]
    run(small(tmp_path / "study", *study))
    lora = next(c for c in found["choices"] if c["method"] == "lora")
    about = record(tmp_path / "study")
    assert about["config"]["lr"] == lora["lr"]
    effort = {"file": str(file), "candidates": 3, "seeds": 1, "at_edge": lora["at_edge"]}
    unlike = {"eval_every": 2, "head_dropout": None}  # what `small` sets otherwise
    assert about["tuning"] == {**effort, "settings": unlike}
    # The run is the one that has this rate typed.
    run(small(tmp_path / "study", *study[:2], "max_steps=4", f"lr={lora['lr']:g}"))
    assert record(tmp_path / "study")["times"] == about["times"]
    with pytest.raises(UserError, match=r"no rate for .*method=lora, budget=r3: python -m dora.tu"):
        run(small(tmp_path / "study", "method=lora", "budget=r3", f"rates_from={file}"))


@pytest.mark.slow  # two searches by the command: 18 s
def test_a_search_goes_on_past_a_rate_at_which_training_diverges(tmp_path: Path) -> None:
    words = ["task=wnli", "data=dir", f"data.dir={small_glue()}", "limit_train=96", "max_steps=6"]
    words += ["batch_size=8", "eval_every=2", "max_length=48", "warmup=0", f"results={tmp_path}"]
    # The highest rate is close to the largest float of 32 bits: training diverges there.
    rates = ["model.own.lr.lora=1.6e38", "method=lora", "budget=r2"]
    line = ["dora.tune", *words, *rates, "--candidates", "3", "--seeds", "1"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    (choice,) = json.loads((tmp_path / "search" / "choices.json").read_text())["choices"]
    assert [None] in [by_seed for _, by_seed in choice["scores"]]
    # Once more: a run that diverged is not trained again.
    _, said, _ = in_process(tune.main, *line)
    assert "0 to train" in said


def test_a_disk_that_is_full_at_the_end_of_a_search_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = small_words(tmp_path, "method=lora")
    tuning = Tuning([words], lambda words: configure(*words), 3, (1,))
    (group,) = tuning.groups.values()
    for rate in (1e-3, 2e-3, 4e-3):
        group.take(Candidate(rate), (60.0,))

    def full(path: Path, *_: object) -> None:
        if path.name == left[0]:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(search_file, "write_atomic", full)
    monkeypatch.setattr(tuning_module, "write_atomic", full)
    monkeypatch.setattr(tuning_module, "score_by_rate", lambda *_: ((), []))
    monkeypatch.setattr(tuning_module, "images", lambda drawn: {})
    monkeypatch.setattr(tuning_module, "as_csv", str)
    left = ["choices.json", "learning-rates.csv"]
    while left:
        with pytest.raises(NotNow, match=r"search folder .* cannot be used: No space left on dev"):
            tuning.write()
        left.pop(0)


def test_a_second_search_is_added_to_the_file_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "search" / "choices.json"
    file.parent.mkdir()
    other = search_at("tiny_roberta", "rte", "dora", "r2", (1,), {1e-3: (50.0,)}, {"host": "a"})
    # Of another length it stays; one of this length gives way.
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    place = (*place, {rate: (50.0,) for rate in (1e-3, 2e-3, 4e-3)})
    longer = search_at(*place, length="900 steps")
    search_file.write(file, [other, search_at(*place, length=small(tmp_path).length), longer])
    words = small_words(tmp_path, "method=lora", "budget=r2")
    tuning = Tuning([words], lambda words: configure(*words), 3, (1, 2))
    (group,) = tuning.groups.values()
    for rate in (1e-3, 2e-3, 4e-3):
        group.take(Candidate(rate), (60.0, 61.0))
    # Of equal rates the lowest is taken, which is an edge here.
    assert sum("--candidates 5 goes on, for every method" in line for line in tuning.write()) == 1
    group.take(Candidate(2e-3), (70.0, 61.0))
    assert not any("goes on" in line for line in tuning.write())
    found = search_file.read(file)
    assert found[other.key] == other
    assert found[other.key].made == {"host": "a"}
    same = longer.key._replace(length=small(tmp_path).length)
    again = found[same]
    assert len(again.scores) == 3
    assert "git" in again.made
    assert set(found) == {other.key, longer.key, again.key}
    # The word for the study is one word of a shell, and one value of a sweep.
    tuning.folder = tmp_path / "my runs, ä=1"
    tuning.folder.mkdir()
    (said,) = [line for line in tuning.write() if line.startswith("for the study: ")]
    _, _, _, *typed = shlex.split(said)
    (word,) = read(["-m", *typed]).overrides
    assert not is_sweep(word)
    assert configure(word).rates_from == str(tuning.folder / "choices.json")


def ended(results: Path, candidates: int, *words: str) -> Tuning:
    """Returns a search whose rounds have ended, and which is still to write its file."""
    given = small_words(results, "method=lora", "budget=r2", *words)
    tuning = Tuning([given], lambda given: configure(*given), candidates, (1,))
    for group in tuning.groups.values():
        while tried := group.next(candidates):
            for candidate in tried:
                group.take(candidate, (60.0,))
    return tuning


@pytest.mark.parametrize(
    ("faster", "told"),
    [
        ((4,), "holds 4 candidates with seeds 1 .* give --candidates 4 --seeds 1 or more of both"),
        ((3, "model.own.lr.lora=0.2"), "began at another rate than .*: give model.lr.lora=0.2, or"),
    ],
)
def test_a_search_that_another_command_has_overtaken_leaves_its_scores(
    faster: Any, told: str, tmp_path: Path
) -> None:
    (tmp_path / "search").mkdir()
    slow, fast = ended(tmp_path, 3), ended(tmp_path, *faster)
    fast.write()
    file = tmp_path / "search" / "choices.json"
    whole = file.read_bytes()
    with pytest.raises(UserError, match=f"{told}.*runs stay: typed so it goes on with them"):
        slow.write()
    assert file.read_bytes() == whole
    # Of as many candidates it may be written twice, and with more of them it goes on.
    ended(tmp_path, 5, *faster[1:]).write()
    (search,) = search_file.read(file).values()
    assert search.candidates == 5


def test_rates_that_a_search_has_not_tried_are_not_lost_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    slow, fast = ended(tmp_path, 3), ended(tmp_path, 3)
    (group,) = fast.groups.values()
    group.take(Candidate(group.start / 4), (50.0,))
    fast.candidates = slow.candidates = 4
    fast.write()
    with pytest.raises(UserError, match="at rates that this one has not tried: give the same once"):
        slow.write()
    (group,) = ended(tmp_path, 4).groups.values()
    assert group.start / 4 in group.found.scores


def test_no_other_command_writes_between_a_searchs_last_look_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "search").mkdir()
    tuning = ended(tmp_path, 3)
    asked = []

    def locked(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, which now first asks whether the folder is locked."""

        def function(*given: Any) -> Any:
            folder = os.open(tmp_path / "search", os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(folder)
            asked.append(name)
            return original(*given)

        return function

    monkeypatch.setattr(Tuning, "_held", locked("read", Tuning._held))
    monkeypatch.setattr(search_file, "write", locked("write", search_file.write))
    tuning.write()
    assert asked == ["read", "read", "write"]


def test_a_mistake_is_told_alone_whatever_the_sweeper_is_set_to() -> None:
    # As `dora.tune` hands its words on.
    own = ["-m", "hydra/sweeper=tune", "hydra.sweeper.candidates=6", "hydra.sweeper.seeds=[1,2]"]
    assert refused(*own, "metod=lora") == [
        "metod=lora: there is no key metod; did you mean method or method.dem?"
    ]
