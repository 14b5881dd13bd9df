"""A study from outside: states from directories, holes, sweeps that go on, and who may work where."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra_plugins.dora_study import Composer
from omegaconf.errors import OmegaConfBaseException

from dora import CONF
from dora.cli.sweep import plan
from dora.errors import NotNow, RunFailed, Stopped, UserError
from dora.records import lock, study
from dora.records.lock import Lock, held
from dora.records.record import Record
from dora.training.processes import least_used
from record_files import write_run
from runs import command, configure, run, small, small_words


def directory(
    results: Path,
    method: str = "lora",
    budget: str = "r8",
    task: str = "rte",
    seed: int = 1,
    **data: Any,
) -> Path:
    words = [f"task={task}", f"method={method}", f"budget={budget}", f"seed={seed}"]
    key, data = f"{task}0000", {"words": words, **data}
    return write_run(results, method, seed, None, task, budget, key, "tiny", "mini", **data)


# --- the state of one run ------------------------------------------------------------------------------------


def test_a_run_is_running_while_its_process_lives_and_stale_after(tmp_path: Path) -> None:
    progress = {"step": 30, "total_steps": 90, "seconds": 60.0}
    times = {"updated": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}
    folder = directory(tmp_path, status="running", progress=progress, times=times)
    mine = Lock(folder)
    mine.take()
    seen = study.look(folder)
    assert (seen.state, seen.step, seen.total_steps) == ("running", 30, 90)
    assert seen.reason == f"process {os.getpid()} on {socket.gethostname()}"
    assert seen.left_s == pytest.approx(120, abs=5)
    mine.release()
    assert study.look(folder).state == "stale"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no run.json"),
        ("", "JSONDecodeError"),
        ('{"status": "do', "JSONDecodeError"),
        ("[1]", "it holds a list"),
        ("{}", "no schema"),
    ],
)
def test_a_directory_without_a_readable_record_is_broken(
    content: str | None, reason: str, tmp_path: Path
) -> None:
    folder = directory(tmp_path)
    (folder / "run.json").unlink() if content is None else (folder / "run.json").write_text(content)
    seen = study.look(folder)
    assert seen.state == "broken"
    assert reason in str(seen.reason)


def test_a_copy_beside_a_run_is_no_run(tmp_path: Path) -> None:
    folder = directory(tmp_path)
    for name in ("s1_old", "s1.bak", "s", "seed"):
        shutil.copytree(folder, folder.with_name(name))
    assert study.directories(tmp_path) == [folder]
    assert [s.place[6] for s in study.scan(tmp_path)] == ["s1"]


def test_links_in_circles_end_and_a_run_counts_once(tmp_path: Path) -> None:
    folder = directory(tmp_path)
    for place in (tmp_path / "runs", folder.parents[2], folder.parent):
        for i in range(20):
            (place / f"s{100 + i}").symlink_to(place)
    (folder.parent / "s2").symlink_to(folder)
    (folder.parent / "s3").symlink_to("s3")
    (tmp_path / "runs" / "nowhere").symlink_to("gone")
    assert [path for path in study.directories(tmp_path) if (path / "run.json").exists()] == [
        folder
    ]
    moved = tmp_path / "elsewhere"
    shutil.move(folder.parents[4], moved)
    (tmp_path / "runs" / "mini").mkdir(exist_ok=True)
    (tmp_path / "runs" / "mini" / "rte").symlink_to(moved)  # a part of the results on another disk
    assert [path for path in study.directories(tmp_path) if (path / "run.json").exists()] == [
        folder
    ]


# --- holes ---------------------------------------------------------------------------------------------------


def test_holes_are_named_with_the_command_that_fills_them(tmp_path: Path) -> None:
    for task, seeds in (("rte", (1, 2, 10)), ("wnli", (1, 2))):
        for seed in seeds:
            directory(tmp_path, task=task, seed=seed)
    directory(tmp_path, task="rte", method="full", budget="none")
    seen = study.scan(tmp_path)
    holes = [s for s in seen if s.state == "missing"]
    assert [(s.place[1], s.place[3], s.place[6]) for s in holes] == [
        ("rte", "full", "s2"),
        ("rte", "full", "s10"),
        ("wnli", "full", "s1"),
        ("wnli", "full", "s2"),
        ("wnli", "full", "s10"),
        ("wnli", "lora", "s10"),
    ]
    assert holes[-1].command == "python -m dora.run method=lora budget=r8 task=wnli seed=10"
    assert study.count(seen) == {"missing": 6, "done": 6}


@pytest.mark.parametrize(
    ("typed", "hole"),
    [
        (
            ("experiment=lora_roberta_base/sst2", "lr=1"),
            ("experiment=lora_roberta_base/rte", "lr=1"),
        ),
        (("experiment=lora_roberta_base/sst2", "task=sst2"), ("experiment=lora_roberta_base/rte",)),
        (("experiment=nobody_knows/sst2",), None),  # there is no such file for RTE
        (("experiment=lora_roberta_base/mrpc", "task=sst2"), None),  # MRPC's settings on SST-2
        (
            ("experiment=study_tiny", "task=sst2"),
            ("experiment=study_tiny", "task=rte"),
        ),  # a file for all tasks
        (None, None),
    ],
)
def test_a_hole_never_has_the_experiment_of_another_task(
    typed: tuple[str, ...] | None, hole: tuple[str, ...] | None, tmp_path: Path
) -> None:
    assert study.for_task(typed, "sst2", "rte") == hole
    directory(tmp_path, task="sst2", words=None if typed is None else [*typed, "seed=1"])
    directory(tmp_path, task="rte", method="dora")
    (missing,) = (s for s in study.scan(tmp_path) if s.state == "missing" and s.place[3] == "lora")
    assert missing.words == (None if hole is None else (*hole, "seed=1"))


def test_a_hole_of_a_users_own_experiment_has_its_file_for_the_task(tmp_path: Path) -> None:
    (tmp_path / "experiment" / "mine").mkdir(parents=True)
    (tmp_path / "experiment" / "mine" / "rte.yaml").touch()
    typed = (f"--config-dir={tmp_path}", "experiment=mine/sst2", "seed=1")
    assert study.for_task(typed, "sst2", "rte") == (typed[0], "experiment=mine/rte", "seed=1")
    assert study.for_task(typed, "sst2", "cola") is None


def test_status_as_table_json_and_commands(tmp_path: Path) -> None:
    results = f"--results={tmp_path}"
    assert command("dora.status", results).returncode == 1
    directory(tmp_path)
    assert command("dora.status", results).returncode == 0
    directory(tmp_path, seed=2, status="failed", reason="OSError: disk full\nand more")
    shown = command("dora.status", results)
    assert shown.returncode == 3
    assert "OSError: disk full\n" in shown.stdout
    assert "2 runs: 1 done, 1 failed" in shown.stdout
    assert shown.stdout.endswith(f"python -m dora.status --results {tmp_path} --missing\n")
    assert study.missing_command(Path("results")) == "python -m dora.status --missing"
    said = json.loads(command("dora.status", results, "--json").stdout)
    assert said["count"] == {"failed": 1, "done": 1}
    assert [r["seed"] for r in said["runs"]] == [1, 2]
    only = command("dora.status", results, "--missing").stdout
    assert only == "python -m dora.run task=rte method=lora budget=r8 seed=2\n"


# --- sweeps --------------------------------------------------------------------------------------------------


def planned(results: Path, *changes: list[str]) -> Any:
    return plan(
        [small_words(results, *words) for words in changes], lambda words: configure(*words)
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
    assert study.count(study.scan(tmp_path)) == {"waiting": 3, "done": 1}
    for words in pending[:2]:
        run(configure(*words))
    with pytest.raises(Stopped, match="1 of 4 runs are not done"):
        sweep.end({}, None)
    with pytest.raises(RunFailed, match="1 of 4"):
        sweep.end({tuple(pending[2]): ValueError("no room\nat all")}, None)
    assert "  waiting: no room\n    python -m dora.run task=wnli" in capsys.readouterr().out
    run(configure(*pending[2]))
    sweep.end({}, None)
    assert capsys.readouterr().out.endswith("4 runs: 4 done\n")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("task=sst2", "budget=r2", "seed=3"),
        ("model=tiny_deberta", "model.lr.full=1e-3", "method=full"),
        ("lr=2e-3", "target=[q,v]", "experiment=study_tiny", "data.dir=/tmp"),
        ("method=dora", "method.beta=0.5", "task=mnli"),
        ("experiment=study_tiny_deberta", "rates.cola.full=1", "max_steps=null"),
        ("results=a b", "model=minilm"),
    ],
)
def test_a_sweep_composes_what_hydra_composes(words: tuple[str, ...]) -> None:
    expected = configure(*words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        compose = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
        assert compose(words) == expected
        assert compose(words) == expected  # the second comes from the first's choices
        with pytest.raises((HydraException, OmegaConfBaseException)):
            compose(["lrr=3"])


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


def test_a_sweep_on_the_command_line_goes_on_after_a_failure_and_repeats_only_that(
    tmp_path: Path,
) -> None:
    words = ["dora.run", "-m", *small_words(tmp_path, "method=lora", "lr=1e30,1e-3", "seed=1,2")]
    first = command(*words)
    assert first.returncode == 1, first.stderr
    assert "4 runs: 2 done, 2 diverged" in first.stdout
    assert "seed=2\n" in first.stdout[first.stdout.index("4 runs: 2 done") :]
    assert "Traceback" not in first.stderr
    assert "2 of 4 runs are not done" in first.stderr
    assert "\n[3/4 wnli lora s1 lr=0.001] done in " in first.stdout
    assert first.stdout.count("embedded model tiny_roberta") == 1
    assert re.search(
        r"\nlora    r8      lr=0.001  \d+\.\d\d \(2\)\n.*python -m dora.tables --results",
        first.stdout,
    )
    done = [s for s in study.scan(tmp_path) if s.state == "done"]
    assert [s.words[-2:] for s in done if s.words] == [
        ("lr=0.001", "seed=1"),
        ("lr=0.001", "seed=2"),
    ]
    assert all(s.score is not None and 0 <= s.score["accuracy"] <= 1 for s in done)
    again = command(*words)
    assert "4 runs: 2 done before, 2 to train" in again.stdout
    assert study.count(study.scan(tmp_path))["done"] == 2


def test_a_second_sweep_leaves_the_first_ones_runs_to_it_and_a_signal_ends_a_whole_sweep(
    tmp_path: Path,
) -> None:
    words = ["dora.run", "-m", *small_words(tmp_path, "method=lora,full", "max_steps=20000")]
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
    typed = {json.loads(p.read_text())["words"][-1] for p in tmp_path.glob("runs/**/run.json")}
    assert typed == {"seed=1", "seed=2"}


def test_devices_are_shared_out_evenly_and_given_back(tmp_path: Path) -> None:
    taken = [least_used(["a", "b"], tmp_path / "gpus") for _ in range(5)]
    assert [index for index, _ in taken] == [0, 1, 0, 1, 0]
    taken[1][1].close()
    taken.append(least_used(["a", "b"], tmp_path / "gpus"))
    assert taken[-1][0] == 1
    for _, claim in taken:
        claim.close()


# --- locks ---------------------------------------------------------------------------------------------------


def test_the_second_on_one_host_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    assert held(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(NotNow, match=f"in use by process {os.getpid()} on"):
        second.take()
    first.release()
    assert held(tmp_path) is None
    second.take()
    second.release()


def test_a_dead_process_on_this_host_never_stands_in_the_way(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from dora.records.lock import Lock; Lock(Path(sys.argv[1])).take(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert held(tmp_path) is None  # its lease is fresh, its process is gone
    began = time.monotonic()
    mine = Lock(tmp_path)
    mine.take()
    assert time.monotonic() - began < 1
    mine.release()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are renewed ten times a second; a file system without flock."""

    def refused(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "RENEW_S", 0.1)
    monkeypatch.setattr(fcntl, "flock", refused)


def die(there: Lock) -> None:
    """Ends a lock as a SIGKILL of its process does: without a word."""
    there._end.set()
    there._file.close()
    time.sleep(0.2)  # longer than a renewal


@pytest.mark.usefixtures("quick")
def test_another_hosts_lease_is_respected_while_it_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Lock(tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        there.take()
    with pytest.raises(NotNow, match="on elsewhere"):
        Lock(tmp_path).take()
    die(there)
    mine = Lock(tmp_path)
    mine.take()
    assert "elsewhere" not in str(held(tmp_path))
    mine.release()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_neither_takes_nor_keeps_a_lease(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Lock(tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        there.take()
    then = time.time() + 3600 * hours
    os.utime(tmp_path / lock.NAME, (then, then))
    with pytest.raises(NotNow, match="on elsewhere"):  # it lives: it is renewed while we watch
        Lock(tmp_path).take()
    die(there)
    os.utime(tmp_path / lock.NAME, (then, then))
    mine = Lock(tmp_path)  # it is dead, wherever the clock stands
    mine.take()
    mine.release()


@pytest.mark.usefixtures("quick")
def test_who_was_halted_and_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.open({})
    before = (tmp_path / "run.json").read_bytes()
    other = {"host": "elsewhere", "pid": 7, "token": "0"}
    (tmp_path / lock.NAME).write_text(json.dumps(other))
    end = time.monotonic() + 5
    while record.taken_by is None and time.monotonic() < end:
        time.sleep(0.05)
    for write in (lambda: record.update(status="done"), record.sync):
        with pytest.raises(RunFailed, match="taken over by process 7 on elsewhere"):
            write()
    record.close()
    assert (tmp_path / "run.json").read_bytes() == before
    assert json.loads((tmp_path / lock.NAME).read_text()) == other


def test_what_follows_from_the_seed_is_planned_for_each_seed(tmp_path: Path) -> None:
    sweep = planned(tmp_path, *([f"results={tmp_path}/${{seed}}", f"seed={s}"] for s in (1, 2)))
    assert [p.folder.relative_to(tmp_path).parts[0] for p in sweep.runs.values()] == ["1", "2"]


def test_a_folder_comes_before_a_link_to_it_wherever_that_lies(tmp_path: Path) -> None:
    folder = directory(tmp_path, task="wnli")
    elsewhere = tmp_path / "runs" / "mini" / "aaa"
    elsewhere.mkdir()
    (elsewhere / "tiny").symlink_to(tmp_path / "runs" / "mini" / "wnli" / "tiny")
    assert study.directories(tmp_path) == [folder]


def test_folders_without_records_make_no_holes(tmp_path: Path) -> None:
    for i in range(150):
        (tmp_path / "runs" / "d" / f"t{i}" / "m" / f"me{i}" / "r1" / "k" / f"s{i}").mkdir(
            parents=True
        )
    assert study.count(study.scan(tmp_path)) == {"broken": 150}


def test_time_left_that_is_no_estimate_is_not_shown(tmp_path: Path) -> None:
    progress = {"step": 1, "total_steps": 2**62, "seconds": 1e299}
    times = {"updated": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}
    folder = directory(tmp_path, status="running", progress=progress, times=times)
    mine = Lock(folder)
    mine.take()
    assert study.look(folder).left_s is None
    mine.release()
