"""Sweeps: checked before the first run, going on after a failure, reported at their end."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dora.backbones.backbone import ASSETS
from dora.cli.sweep import plan
from dora.collect import collect
from dora.errors import RunFailed, Stopped, UserError
from dora.preparing.prepare import prepare
from dora.process.signals import Outside
from dora.records import gaps, packed, study
from dora.records.planned import note_planned
from dora.training.processes import least_used
from dora.training.unless_done import train_unless_done
from runs import change_record, command, configure, python, run, small, small_words, typed


def planned(results: Path, *changes: list[str], search: bool = False) -> Any:
    return plan(
        [small_words(results, *words) for words in changes],
        lambda words: configure(*words),
        search=search,
    )


def test_a_sweep_trains_what_is_not_done_and_says_what_became_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(small(tmp_path, "method=lora", "seed=1"))
    sweep = planned(
        tmp_path, *([f"method={m}", f"seed={s}"] for m in ("lora", "full") for s in (1, 2))
    )
    pending = sweep.begin()
    assert [words[-2:] for words in pending] == [
        ["method=lora", "seed=2"],
        ["method=full", "seed=1"],
        ["method=full", "seed=2"],
    ]
    assert "4 runs: 1 done before, 3 to train" in capsys.readouterr().out
    assert study.count(gaps.scan(tmp_path)) == {"waiting": 3, "done": 1}
    for words in pending[:2]:
        run(configure(*words))
    # A run that never began was stopped, unless it raised something else.
    with pytest.raises(Stopped, match="1 of 4 runs are not done"):
        sweep.end({}, None)
    with pytest.raises(RunFailed, match="1 of 4"):
        sweep.end({tuple(pending[2]): ValueError("no room\nat all")}, None)
    assert "  waiting: no room\n    python -m dora.run task=wnli" in capsys.readouterr().out
    run(configure(*pending[2]))
    sweep.end({}, None)
    assert capsys.readouterr().out.endswith("4 runs: 4 done\n")


def test_a_launcher_without_processes_is_told_beside_the_runs_mistakes(tmp_path: Path) -> None:
    from hydra_plugins.dora_study import StudySweeper

    launcher = pytest.importorskip("hydra_plugins.hydra_joblib_launcher.joblib_launcher")
    sweeper = StudySweeper(max_batch_size=None, params={})
    sweeper.launcher = launcher.JoblibLauncher(n_jobs=0)
    (said,) = sweeper._problems()
    assert said.startswith("hydra.launcher.n_jobs=0 must be a number of processes from 1")
    sweeper.launcher = launcher.JoblibLauncher(n_jobs=-1)
    assert sweeper._problems() == []
    words = small_words(tmp_path, "method=full", "budget=many")
    with pytest.raises(UserError) as e:
        plan([words], lambda words: configure(*words), said=[said])
    assert e.value.problems[0] == said
    # Which full fine-tuning does not use; but the sweep that it stands in may have meant another.
    assert "budget=many is not a budget" in e.value.problems[1]


def test_words_that_name_one_run_are_each_told_what_has_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = planned(tmp_path, *(["method=lora", f"epochs={n}"] for n in (5, 6, 7)))
    assert len(sweep.begin()) == 1
    said = capsys.readouterr().out
    for n in (6, 7):  # 5 is the default
        assert said.count(f"epochs={n} has no effect: max_steps=24 is the run's length\n") == 1


def test_a_run_whose_record_was_packed_is_done_until_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(small(tmp_path, "method=lora", "seed=1"))
    collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    both = [["method=lora", f"seed={s}"] for s in (1, 2)]
    sweep = planned(tmp_path, *both)
    pending = sweep.begin()
    assert [words[-1] for words in pending] == ["seed=2"]
    assert "2 runs: 1 done before, 1 to train" in capsys.readouterr().out
    run(configure(*pending[0]))
    sweep.end({}, None)
    out = capsys.readouterr().out
    assert out.endswith("2 runs: 2 done\n")
    assert re.search(r"\nlora +r8 +[0-9.]+ \(2\)\n", out)  # the mean is that of both runs
    assert [path.name for path in (tmp_path / "runs").rglob("s[0-9]")] == ["s2"]
    # A run by itself says where its record is.
    code, said, _ = typed(*small_words(tmp_path, *both[0]))
    assert code == 0
    assert f"already done: {tmp_path / packed.NAME}: dir/wnli/" in said
    again = planned(tmp_path, [*both[0], "force=true"])
    assert len(again.begin()) == 1
    # Noted there and not begun, the run is still what the file holds.
    assert planned(tmp_path, *both).begin() == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_packed_run_that_diverged_counts_as_it_does_in_a_directory(
    times: int, tmp_path: Path
) -> None:
    words = ["method=lora", "seed=1"]
    (p,) = planned(tmp_path, words).runs.values()
    note_planned(p.folder, p.words, p.settings)
    change_record(p.folder, status="diverged", reason="diverged: loss nan", divergences=times)
    collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")

    def begun(*more: str) -> Path:
        """Returns the directory of the run if it is begun there."""
        prepared = prepare(small(tmp_path, *words, *more))
        return train_unless_done(prepared, dict, print)[0]

    # In a search to diverge once is the outcome; nothing is written where it was unpacked.
    candidates = planned(tmp_path, words, search=True)
    assert candidates.begin() == []
    assert [study.look(s.folder).state for s in candidates.runs.values()] == ["diverged"]
    assert len(planned(tmp_path, words).begin()) == 1
    if times == 1:
        assert begun() == p.folder
    else:
        with pytest.raises(RunFailed, match="force=true to start it anew: it diverged 2 times"):
            begun()
    assert begun("force=true") == p.folder
    forced = planned(tmp_path, [*words, "force=true"], search=True)
    assert [s.folder for s in forced.runs.values()] == [p.folder]


def test_a_launcher_that_ends_without_a_word_leaves_the_report_of_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = planned(tmp_path, ["method=lora", "seed=1"])
    sweep.begin()
    with pytest.raises(RunFailed, match="1 of 1"):
        sweep.end({}, MemoryError())
    out = capsys.readouterr().out
    assert "the launcher ended with MemoryError\n  waiting: " in out


def test_a_sweep_over_results_names_the_tables_of_each_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = planned(tmp_path, *([f"results={tmp_path / name}"] for name in "ab"))
    # As if both runs were done.
    scored = dict.fromkeys(("accuracy",), 0.5)
    look = study.look
    monkeypatch.setattr(study, "look", lambda f: replace(look(f), state="done", score=scored))
    sweep.end({}, None)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "dora.tables" in line] == [
        f"with deviations and differences: python -m dora.tables --results {tmp_path / name}"
        for name in "ab"
    ]


def test_scores_of_a_model_of_ones_own_are_not_called_embedded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look, scored = study.look, {"accuracy": 0.5}
    monkeypatch.setattr(study, "look", lambda f: replace(look(f), state="done", score=scored))
    own = [f"model.path={ASSETS / 'tiny_roberta'}", "model.name=mine", "model.note='it knows MNLI'"]
    for words, told in (([], " (embedded model or data)\n"), (own, "seeds (runs)\n")):
        planned(tmp_path, words).end({}, None)
        assert f"{told}method " in capsys.readouterr().out


def test_rows_that_are_not_glues_are_said_once_before_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(tmp_path, ["seed=1"], ["seed=2"]).begin()
    out = capsys.readouterr().out
    assert out.count("not GLUE's whole rows: wnli train 97 rows (GLUE has 635), dev 40 rows") == 1
    assert out.count("no predictions that dora.submit takes: wnli test 40 rows") == 1


def test_full_at_two_budgets_is_one_run_of_a_sweep(tmp_path: Path) -> None:
    sweep = planned(
        tmp_path, *([f"method={m}", f"budget={b}"] for m in ("full", "lora") for b in ("r2", "r4"))
    )
    assert len(sweep.runs) == 3


def test_every_problem_of_a_sweep_comes_before_its_first_run(tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        planned(
            tmp_path,
            *(
                [f"lr={lr}", f"max_length={n}", f"seed={s}"]
                for lr in ("1e-3", "-1")
                for n in ("48", "400")
                for s in ("1", "2")
            ),
        )
    length, rate = e.value.problems  # in the order in which the grid comes to them
    assert rate.startswith("lr=-1.0 must be above 0 (in 2 of 4 combinations, such as task=wnli")
    assert length.startswith("max_length=400 is longer")
    assert not (tmp_path / "runs").exists()


def test_a_seed_that_is_none_comes_with_every_other_problem(tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        planned(tmp_path, *(["lr=-1", f"seed={s}"] for s in "1x"))
    seed, rate = e.value.problems
    assert seed.startswith("seed=x must be a whole number from 0 to")
    assert rate.startswith("lr=-1.0 must be above 0")


def test_a_sweep_on_the_command_line_goes_on_after_a_failure_and_repeats_only_that(
    tmp_path: Path,
) -> None:
    words = ["dora.run", "-m", *small_words(tmp_path, "method=lora", "lr=1e30,1e-3", "seed=1,2")]
    first = command(*words)
    assert first.returncode == 1, first.stderr
    assert "4 runs: 2 done, 2 diverged" in first.stdout
    # After the count come the commands that repeat those not done, ready to be pasted.
    assert "seed=2\n" in first.stdout[first.stdout.index("4 runs: 2 done") :]
    assert "Traceback" not in first.stderr
    assert "2 of 4 runs are not done" in first.stderr
    assert "\n[3/4 wnli lora s1 lr=0.001] done in " in first.stdout
    # One of the two that are not done is behind the sweep by now, and no run told before.
    assert re.findall(
        r"\n(.*) left of the sweep: about \d+ s of training, (.*)\n", first.stdout
    ) == [("[3/4 wnli lora s1 lr=0.001]", "1 run")]
    # Said once for all runs, not by each.
    assert first.stdout.count("embedded model tiny_roberta") == 1
    # A star, and its note, where 24 steps end in predictions of a single class.
    assert re.search(
        r"\nlora    r8      lr=0.001  \d+\.\d\d\*? \(2\)\n(\* .*\n)?"
        r".*python -m dora.tables --results",
        first.stdout,
    )
    done = [s for s in gaps.scan(tmp_path) if s.state == "done"]
    assert [s.words[-2:] for s in done if s.words] == [
        ("lr=0.001", "seed=1"),
        ("lr=0.001", "seed=2"),
    ]
    assert all(s.score is not None and 0 <= s.score["accuracy"] <= 1 for s in done)
    again = command(*words)
    assert re.search(
        r"4 runs: 2 done before, 2 to train; left: about \d+ s of training, 2 runs\n", again.stdout
    )
    assert study.count(gaps.scan(tmp_path))["done"] == 2


@pytest.mark.slow  # three sweeps by the command: 12 s
def test_a_second_sweep_leaves_the_first_ones_runs_to_it_and_a_signal_ends_a_whole_sweep(
    tmp_path: Path,
) -> None:
    words = ["dora.run", "-m", *small_words(tmp_path, "method=lora,full", "max_steps=20000")]
    # So many steps that the first sweep is still at its first run while the second one looks on.
    first = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    next(line for line in first.stdout if line.startswith("[1/2 wnli lora s1] step "))
    beside = command(*(word.replace("lora,full", "lora") for word in words))
    first.terminate()
    out, errors = first.communicate(timeout=60)
    assert beside.returncode == 75, beside.stderr
    assert "1 run: 1 running" in beside.stdout
    assert f"in use by process {first.pid}" in beside.stdout
    assert first.returncode == 75, errors
    assert "2 runs: 1 stopped, 1 waiting" in out


@pytest.mark.slow
def test_the_local_launcher_trains_two_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = command(
        "dora.run", "-m", "hydra/launcher=local", *small_words(tmp_path, "method=lora", "seed=1,2")
    )
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 done" in done.stdout
    assert all(f"\n[{n}/2 wnli lora s{n}] done in " in done.stdout for n in (1, 2))
    records = [json.loads(p.read_text()) for p in tmp_path.glob("runs/**/run.json")]
    assert {record["words"][-1] for record in records} == {"seed=1", "seed=2"}
    # What was typed, not the line of a worker.
    assert all(" -m dora.run -m hydra/launcher=local " in record["command"] for record in records)


def test_whoever_leaves_a_sweep_of_a_cluster_is_told_that_its_jobs_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydra_plugins.dora_study import StudySweeper

    told: list[tuple[int, str]] = []
    monkeypatch.setattr("dora.process.signals.leave", lambda *said: told.append(said))
    # One of its own: a signal once noted would stop every later run of this process.
    monkeypatch.setattr("dora.process.signals.outside", outside := Outside())

    class Cluster:
        def launch(self, jobs: Any, initial_job_idx: int) -> list[Any]:
            outside.handle(signal.SIGINT)
            return []

    sweeper = StudySweeper(max_batch_size=None, params={})
    sweeper.launcher = Cluster()  # type: ignore[assignment]
    sweeper.config = OmegaConf.create({"results": "my runs"})
    sweeper._launch([])
    ((number, text),) = told
    assert number == signal.SIGINT
    assert "jobs that were submitted go on" in text
    assert text.endswith("python -m dora.status --results 'my runs'")


def test_devices_are_shared_out_evenly_and_given_back(tmp_path: Path) -> None:
    taken = [least_used(["a", "b"], tmp_path / "gpus") for _ in range(5)]
    assert [index for index, _ in taken] == [0, 1, 0, 1, 0]
    taken[1][1].close()  # as the end of its process would
    taken.append(least_used(["a", "b"], tmp_path / "gpus"))
    assert taken[-1][0] == 1
    for _, claim in taken:
        claim.close()


def test_what_follows_from_the_seed_is_planned_for_each_seed(tmp_path: Path) -> None:
    # Planned by its first seed alone, a group would put both runs into one folder.
    sweep = planned(tmp_path, *([f"results={tmp_path}/${{seed}}", f"seed={s}"] for s in (1, 2)))
    assert [p.folder.relative_to(tmp_path).parts[0] for p in sweep.runs.values()] == ["1", "2"]


@pytest.mark.parametrize("command", ["dora.run", "dora.tune"])
def test_a_sweep_in_one_of_several_processes_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    sweeping = ["-m"] if command == "dora.run" else []
    done = python("-m", command, *sweeping, *small_words(tmp_path, "method=lora,full"))
    assert done.returncode == 2
    assert "a sweep or a search begins by itself" in done.stderr
    assert not (tmp_path / "runs").exists()
