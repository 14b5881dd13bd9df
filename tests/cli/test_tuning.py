"""A search gives every method equal effort, by a rule that looks at its own scores alone."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora import tune
from dora.analysis.grouping import tables
from dora.analysis.tables.scores import scores
from dora.cli import tuning as tuning_module
from dora.cli.line import read
from dora.cli.search_rule import Candidate, next_rates
from dora.cli.spelling import is_sweep
from dora.cli.sweep import plan
from dora.cli.tuning import Tuning
from dora.collect import collect
from dora.configuration import search_file
from dora.configuration.config import Config
from dora.configuration.rates_from import METHOD_FILE, as_tuned, search_of, searched_with
from dora.errors import NotNow, UserError
from dora.preparing.prepare import prepare
from dora.records import packed
from dora.records.finished import read_runs
from dora.records.journals import events
from dora.training import one_run
from runs import (
    command,
    configure,
    in_process,
    only_run,
    record,
    refused,
    run,
    small,
    small_glue,
    small_words,
)


def rate_of(config: Config) -> float:
    """Returns the rate that the run takes from its file."""
    found = search_of(config)
    assert found is not None
    return as_tuned(config, found).learning_rate()


def search_at(
    *place: Any, length: str = "600 steps", data: str = "dir", **more: Any
) -> search_file.Search:
    """Returns a search; `place`: model, task, method and budget, then a Search's own fields."""
    return search_file.Search(
        search_file.Key(*place[:4], length=length, data=data), *place[4:], **more
    )


def searched(score: Callable[[float], float | None], start: float, most: int) -> dict[float, float]:
    """Returns the candidates that the rule tries, with `score` of each."""
    scores: dict[float, tuple[float | None, ...]] = {}
    while rates := next_rates(search_at("", "", "", None, (1,), scores), start, most):
        for rate in rates:
            assert rate not in scores
            scores[rate] = (score(rate),)
    return {rate: s[0] for rate, s in scores.items()}  # type: ignore[misc]


def peak(at: float) -> Callable[[float], float]:
    """Returns a score with its maximum at a rate, falling by a point with each factor of 2."""
    return lambda rate: 90 - abs(math.log2(rate / at))


# Worked by hand: half, once and twice the start, then on by the rule.
@pytest.mark.parametrize(
    ("at", "tried"),
    [
        # At the upper edge until 1.6e-3 shows that 8e-4 lies inside.
        (1e-3, [5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3]),
        # Never inside: six candidates, each half of the one before.
        (1e-9, [5e-5, 1e-4, 2e-4, 2.5e-5, 1.25e-5, 6.25e-6]),
        # Inside at once, and 2e-4 the better neighbour: their geometric mean, then nearer.
        (1.2e-4, [5e-5, 1e-4, 2e-4, 1.41e-4, 1.19e-4, 1.3e-4]),
        # 1e-4 stays the best: the wider gap, below it, then that towards the better neighbour.
        (1.05e-4, [5e-5, 1e-4, 2e-4, 1.41e-4, 7.07e-5, 1.19e-4]),
    ],
)
def test_a_search_grows_at_an_edge_and_closes_in_inside(at: float, tried: list[float]) -> None:
    assert list(searched(peak(at), 1e-4, 6)) == tried


@pytest.mark.parametrize("most", [3, 4, 6, 9])
@pytest.mark.parametrize("at", [1e-7, 3e-5, 1.1e-4, 2e-3, 1.0])
def test_every_search_has_as_many_candidates_as_it_may(at: float, most: int) -> None:
    assert len(searched(peak(at), 1e-4, most)) == most


def test_of_equal_scores_the_lower_rate_wins_and_a_diverged_one_loses() -> None:
    # Nothing learns: down, and the edge is told.
    flat = searched(lambda rate: 50.0, 1e-3, 5)
    assert list(flat) == [5e-4, 1e-3, 2e-3, 2.5e-4, 1.25e-4]
    diverging = searched(lambda rate: None if rate > 4e-4 else 80.0, 1e-3, 5)
    assert list(diverging) == [5e-4, 1e-3, 2e-3, 2.5e-4, 1.25e-4]
    search = search_at("m", "rte", "lora", "r8", (1,), {r: (s,) for r, s in diverging.items()})
    assert (search.lr, search.at_edge) == (1.25e-4, True)
    # One seed that diverged is no lucky seed: the rate loses to any whole one.
    seeds = {1e-3: (70.0, 71.0), 2e-3: (None, 99.0)}
    assert search_at("m", "rte", "lora", "r8", (1, 2), seeds).lr == 1e-3


def test_where_no_rate_scores_the_lower_loss_is_better() -> None:
    # A Matthews correlation of 0.0 everywhere, and losses lowest about 3e-3.
    losses: dict[float, tuple[float | None, ...]] = {}

    def found() -> search_file.Search:
        return search_at("", "", "", None, (1,), dict.fromkeys(losses, (0.0,)), losses=losses)

    while rates := next_rates(found(), 1e-3, 6):
        losses |= {rate: (0.6 + abs(math.log2(rate / 3e-3)) / 100,) for rate in rates}
    assert list(losses) == [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 2.83e-3]
    assert (found().lr, found().at_edge, found().alike) == (2.83e-3, False, True)
    # Where one is not known, none counts: the lower rate. A score wins over every loss.
    losses |= {2.83e-3: (None,)}
    assert found().lr == 5e-4
    one = search_at("", "", "", None, (1,), {1e-3: (0.1,), 2e-3: (0.0,)}, losses=losses)
    assert (one.lr, one.alike) == (1e-3, False)


@pytest.mark.parametrize(
    ("rates", "losses", "tried"),
    [
        ((1e-4, 2e-4, 4e-4), (), [1.41e-4]),  # the lower rate
        ((1e-4, 2e-4, 4e-4), (0.7, 0.5, 0.6), [2.83e-4]),  # the lower loss
        ((1e-3, 1.01e-3, 1.02e-3), (), []),  # nothing of three digits lies between
    ],
)
def test_a_search_between_neighbours_of_one_score_closes_in_by_loss_then_by_rate(
    rates: tuple[float, ...], losses: tuple[float, ...], tried: list[float]
) -> None:
    scores: dict[float, tuple[float | None, ...]] = dict(
        zip(rates, [(0.5,), (0.9,), (0.5,)], strict=True)
    )
    held = {rate: (loss,) for rate, loss in zip(rates, losses, strict=False)}
    found = search_at("", "", "", None, (1,), scores, losses=held)
    assert next_rates(found, rates[1], 6) == tried


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


def test_a_run_and_its_table_name_settings_that_its_rate_was_not_searched_with(
    tmp_path: Path,
) -> None:
    file = tmp_path / "choices.json"
    words = ["method=lora", "budget=r2", f"rates_from={file}"]
    other = searched_with(small(tmp_path, "method=lora", "batch_size=4", "precision=bf16"))
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    search_file.write(file, [search_at(*place, {1e-3: (50.0,)}, settings=other)])
    run(small(tmp_path, *words))
    assert record(tmp_path)["tuning"]["settings"] == {"batch_size": 4}
    (table,) = tables(read_runs(tmp_path))
    assert any("; tried with other settings, batch_size=4" in n for n in scores(table).notes)


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


def test_of_values_that_are_equal_the_default_wins() -> None:
    tie = {0.3: (60.0,), 0.5: (None,)}
    scores = {1e-3: (60.0,)}
    search = search_at("m", "rte", "dora", "r2", (1,), scores, {}, "dem", 0.1, tie)
    assert (search.value, search.best) == (0.1, 60.0)


def test_a_run_takes_the_setting_that_was_chosen_with_its_rate(tmp_path: Path) -> None:
    rates = {1e-3: (50.0,), 2e-3: (60.0,), 4e-3: (55.0,)}
    values = {0.3: (61.0,), 0.5: (40.0,)}
    place = ("tiny_roberta", "wnli", "dora", "r2")
    length = small(tmp_path).length
    key = search_file.Key(*place, length, "dir")
    search = search_file.Search(key, (1,), rates, {}, "dem", 0.1, values)
    search_file.write(tmp_path / "choices.json", [search])
    assert search_file.read(tmp_path / "choices.json") == {key: search}
    words = ["method=dora", "budget=r2", f"rates_from={tmp_path}/choices.json"]
    run(small(tmp_path / "a", *words))
    about = record(tmp_path / "a")
    assert (about["config"]["lr"], about["config"]["method"]["dem"]) == (2e-3, 0.3)
    assert about["tuning"]["candidates"] == 5
    # The run is the one that has both typed.
    run(small(tmp_path / "a", "method=dora", "budget=r2", "lr=2e-3", "method.dem=0.3"))
    assert record(tmp_path / "a")["times"] == about["times"]
    # With a rate of one's own the file says nothing, and another value does not go with its rate.
    assert search_of(configure(*words, "lr=1e-3")) is None
    with pytest.raises(UserError, match=r"method.dem=0.5 does not go with .* which chose 0.3"):
        run(small(tmp_path / "a", *words, "method.dem=0.5"))
    # Nor does the default, where it is typed.
    default = small_words(tmp_path / "a", *words, "method.dem=0.1")
    with pytest.raises(UserError, match=r"method.dem=0.1 does not go with .* which chose 0.3"):
        prepare(configure(*default), typed=default)
    with pytest.raises(UserError, match=r"method.dem=0.1 does not go with"):
        plan([default, [*default[:-1], "method.dem=0.3"]], lambda given: configure(*given))


def test_a_run_keeps_its_place_whatever_becomes_of_its_file_of_rates(tmp_path: Path) -> None:
    place = ("tiny_roberta", "wnli", "dora", "r2", (1,))
    file = tmp_path / "choices.json"
    search_file.write(file, [search_at(*place, {1e-3: (50.0,)}, setting="dem", default=0.1)])
    words = ["method=dora", "budget=r2", f"rates_from={file}"]
    # A key that is added is named although the file chooses a setting.
    with pytest.raises(UserError, match=r"\+max_step: there is no key max_step"):
        prepare(small(tmp_path, *words, "+max_step=100"))
    begun = prepare(small(tmp_path, *words))
    folder = begun.folder
    # As a search with more candidates does, while the run trains.
    search_file.write(file, [search_at(*place, {3e-3: (60.0,)}, setting="dem", default=0.1)])
    assert begun.settings["lr"] == 1e-3
    assert begun.folder == folder != prepare(small(tmp_path, *words)).folder
    file.unlink()
    assert (begun.folder, begun.settings["lr"]) == (folder, 1e-3)
    # It trains at the rate that names it, and says which search chose it.
    about = one_run.run(begun)
    assert (about["config"]["lr"], about["tuning"]["candidates"]) == (1e-3, 1)
    assert only_run(tmp_path) == folder
    assert max(line["lr"] for line in events(folder, "metrics.jsonl") if "lr" in line) <= 1e-3


def test_a_rate_comes_from_a_search_of_the_same_length_or_else_from_the_only_other(
    tmp_path: Path,
) -> None:
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    file = tmp_path / "choices.json"
    words = ["method=lora", "budget=r2", f"rates_from={file}"]

    def rate(*more: str) -> float:
        return rate_of(small(tmp_path, *words, *more))

    short, long = (
        search_at(*place, {rate: (50.0,)}, length=f"{steps} steps")
        for rate, steps in ((1e-3, 600), (3e-3, 1800))
    )
    search_file.write(file, [short])
    assert rate("max_steps=600") == rate("max_steps=5400") == 1e-3
    # A table says that the rate was found in other runs.
    run(small(tmp_path, *words))
    assert record(tmp_path)["tuning"]["length"] == "600 steps"
    search_file.write(file, [short, long])
    assert (rate("max_steps=600"), rate("max_steps=1800")) == (1e-3, 3e-3)
    told = r"method=lora, budget=r2 at 5400 steps on dir, only at 600 steps on dir and 1800 steps on dir"
    with pytest.raises(UserError, match=told):
        rate("max_steps=5400")


def test_a_search_is_named_by_the_length_that_its_runs_were_given(tmp_path: Path) -> None:
    federated = ["method=fedit", "fed.rounds=4", "max_steps=null"]
    lengths = {"lora": "24 steps", "full": "2 epochs", "fedit": "4 rounds"}
    given = {
        "lora": small(tmp_path, "method=lora"),
        "full": small(tmp_path, "method=full", "max_steps=null", "epochs=2"),
        "fedit": small(tmp_path, *federated),
    }
    assert {name: config.length for name, config in given.items()} == lengths
    # The record, from which tables make searches, says the same.
    assert {name: search_file.length(c.resolved()) for name, c in given.items()} == lengths


def test_a_rate_comes_from_a_search_on_the_same_data_or_else_from_the_only_other(
    tmp_path: Path,
) -> None:
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    file = tmp_path / "choices.json"
    words = ["method=lora", "budget=r2", f"rates_from={file}"]
    length = small(tmp_path).length
    sample, whole = (
        search_at(*place, {rate: (50.0,)}, length=length, data=data)
        for rate, data in ((1e-3, "sample"), (3e-3, "dir"))
    )
    search_file.write(file, [sample])
    assert rate_of(small(tmp_path, *words)) == 1e-3
    # A table says that the rate was found on other data.
    run(small(tmp_path, *words))
    assert record(tmp_path)["tuning"]["data"] == "sample"
    (table,) = tables(read_runs(tmp_path))
    assert any("; tried on other data, sample" in note for note in scores(table).notes)
    search_file.write(file, [sample, whole])
    assert rate_of(small(tmp_path, *words)) == 3e-3
    assert rate_of(small(tmp_path, *words, "data.name=sample")) == 1e-3
    told = f"at {length} on other, only at {length} on sample and {length} on dir"
    with pytest.raises(UserError, match=told):
        rate_of(small(tmp_path, *words, "data.name=other"))


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


def test_a_rate_of_a_search_that_always_diverged_is_refused(tmp_path: Path) -> None:
    search = search_at("tiny_roberta", "wnli", "lora", "r2", (1,), {1e-3: (None,), 2e-3: (None,)})
    search_file.write(tmp_path / "choices.json", [search])
    with pytest.raises(UserError, match=r"method=lora, budget=r2 diverged at .* 0.001 to 0.002"):
        run(small(tmp_path, "method=lora", "budget=r2", f"rates_from={tmp_path}/choices.json"))


def test_a_mistake_is_told_alone_whatever_the_sweeper_is_set_to() -> None:
    # As `dora.tune` hands its words on.
    own = ["-m", "hydra/sweeper=tune", "hydra.sweeper.candidates=6", "hydra.sweeper.seeds=[1,2]"]
    assert refused(*own, "metod=lora") == [
        "metod=lora: there is no key metod; did you mean method or method.dem?"
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"budget": 8}, "TypeError: model, task, method, budget, length, data are texts"),
        ({"length": None}, "TypeError: model, task, method, budget, length, data are texts"),
        ({"scores": [[-0.1, [1]]]}, "ValueError: a search has rates above 0"),
        ({"scores": [[0.1, [1, 2]]]}, "ValueError: every rate has a score, and a loss, for each"),
        ({"values": [[0.3, [1]]], "setting": None}, "TypeError: the setting whose values"),
    ],
)
def test_a_search_with_a_wrong_entry_is_refused(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    file = tmp_path / "choices.json"
    search_file.write(file, [search_at("m", "rte", "lora", None, (1,), {0.1: (1,)})])
    (entry,) = json.loads(file.read_text())["choices"]
    file.write_text(json.dumps({"choices": [entry | changes]}))
    with pytest.raises(UserError, match=rf"is no file of python -m dora.tune \({why}"):
        search_file.read(file)


def test_a_search_that_an_earlier_version_wrote_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    search_file.write(file, [search_at("m", "rte", "lora", None, (1,), {0.1: (1,)})])
    (entry,) = json.loads(file.read_text())["choices"]
    del entry["losses"]
    file.write_text(json.dumps({"choices": [entry]}))
    with pytest.raises(
        UserError, match=r"choices\.json lacks 'losses': .* moved away, the commands"
    ):
        search_file.read(file)


@pytest.mark.parametrize("text", ["{}", '{"choices": [{}]}', "no json"])
def test_a_file_that_is_no_search_is_refused_before_anything_begins(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "choices.json").write_text(text)
    with pytest.raises(UserError, match=r"rates_from"):
        run(small(tmp_path, "method=lora", f"rates_from={tmp_path}/choices.json"))
    with pytest.raises(UserError, match=r"rates_from=.*cannot be read"):
        run(small(tmp_path, "method=lora", f"rates_from={tmp_path}/nothing.json"))
    with pytest.raises(UserError, match=r"cannot be read: File name too long$"):
        search_file.read(tmp_path / ("x" * 300))
