"""A study seen from outside: the states of its runs, holes, and the commands that fill them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dora.records import gaps, study
from dora.records.directories import directories
from dora.records.lock import Lock
from record_files import write_run
from runs import command


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
    assert directories(tmp_path) == [folder]
    # Nor is it a hole's reason: s1_old is no seed that other methods lack.
    assert [s.place[6] for s in gaps.scan(tmp_path)] == ["s1"]


def test_links_in_circles_end_and_a_run_counts_once(tmp_path: Path) -> None:
    folder = directory(tmp_path)
    for place in (tmp_path / "runs", folder.parents[2], folder.parent):
        for i in range(20):
            (place / f"s{100 + i}").symlink_to(place)
    (folder.parent / "s2").symlink_to(folder)
    (folder.parent / "s3").symlink_to("s3")
    (tmp_path / "runs" / "nowhere").symlink_to("gone")
    assert [path for path in directories(tmp_path) if (path / "run.json").exists()] == [folder]
    moved = tmp_path / "elsewhere"
    shutil.move(folder.parents[4], moved)
    (tmp_path / "runs" / "mini").mkdir(exist_ok=True)
    (tmp_path / "runs" / "mini" / "rte").symlink_to(moved)  # a part of the results on another disk
    assert [path for path in directories(tmp_path) if (path / "run.json").exists()] == [folder]


def test_a_folder_comes_before_a_link_to_it_wherever_that_lies(tmp_path: Path) -> None:
    folder = directory(tmp_path, task="wnli")
    elsewhere = tmp_path / "runs" / "mini" / "aaa"
    elsewhere.mkdir()
    # "aaa" is looked at before "wnli", and the run must not be counted under it.
    (elsewhere / "tiny").symlink_to(tmp_path / "runs" / "mini" / "wnli" / "tiny")
    assert directories(tmp_path) == [folder]


def test_time_left_that_is_no_estimate_is_not_shown(tmp_path: Path) -> None:
    # An infinite number of seconds would not fit into any date.
    progress = {"step": 1, "total_steps": 2**62, "seconds": 1e299}
    times = {"updated": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}
    folder = directory(tmp_path, status="running", progress=progress, times=times)
    mine = Lock(folder)
    mine.take()
    assert study.look(folder).left_s is None
    mine.release()


def test_holes_are_named_with_the_command_that_fills_them(tmp_path: Path) -> None:
    for task, seeds in (("rte", (1, 2, 10)), ("wnli", (1, 2))):
        for seed in seeds:
            directory(tmp_path, task=task, seed=seed)
    directory(tmp_path, task="rte", method="full", budget="none")
    seen = gaps.scan(tmp_path)
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


def test_a_hole_at_one_length_is_not_filled_by_a_run_of_another(tmp_path: Path) -> None:
    def at(steps: int, method: str, seed: int) -> None:
        words = [f"method={method}", "budget=r8", f"max_steps={steps}"]
        write_run(
            *(tmp_path, method, seed, 0.5, "rte"),
            key=f"{steps:08}",
            words=words,
            config={"max_steps": steps},
        )

    for method, seed in (("lora", 1), ("lora", 2), ("dora", 1), ("dora", 2)):
        at(600, method, seed)
    at(1800, "lora", 1)
    # The second length is begun: what it does not have at all, nobody has asked of it.
    assert study.count(gaps.scan(tmp_path)) == {"done": 5}
    at(1800, "lora", 2)
    at(1800, "dora", 1)
    holes = [s for s in gaps.scan(tmp_path) if s.state == "missing"]
    assert [(s.length, s.place[5]) for s in holes] == [("1800 steps", "00001800")]
    words = "method=dora budget=r8 max_steps=1800 task=rte seed=2"
    assert holes[0].command == f"python -m dora.run {words}"


def test_tasks_may_each_have_a_length_of_their_own(tmp_path: Path) -> None:
    for task, epochs, seed in (("rte", 60, 1), ("rte", 60, 2), ("cola", 30, 1)):
        directory(tmp_path, task=task, seed=seed, config={"epochs": epochs})
    holes = [s for s in gaps.scan(tmp_path) if s.state == "missing"]
    assert [(s.place[1], s.place[6], s.length) for s in holes] == [("cola", "s2", "30 epochs")]


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
        # A hole is nobody's to train anew, and on any device.
        (
            ("lr=1", "force=true", "+device=cuda:3", "wandb=online"),
            ("lr=1", "wandb=online", "task=rte"),
        ),
        # A file for all tasks.
        (("experiment=study_tiny", "task=sst2"), ("experiment=study_tiny", "task=rte")),
        (None, None),
    ],
)
def test_a_hole_never_has_the_experiment_of_another_task(
    typed: tuple[str, ...] | None, hole: tuple[str, ...] | None, tmp_path: Path
) -> None:
    assert gaps.for_task(typed, "sst2", "rte") == hole
    directory(tmp_path, task="sst2", words=None if typed is None else [*typed, "seed=1"])
    directory(tmp_path, task="rte", method="dora")
    (missing,) = (s for s in gaps.scan(tmp_path) if s.state == "missing" and s.place[3] == "lora")
    assert missing.words == (None if hole is None else (*hole, "seed=1"))


def test_a_hole_of_a_users_own_experiment_has_its_file_for_the_task(tmp_path: Path) -> None:
    (tmp_path / "experiment" / "mine").mkdir(parents=True)
    (tmp_path / "experiment" / "mine" / "rte.yaml").touch()
    typed = (f"--config-dir={tmp_path}", "experiment=mine/sst2", "seed=1")
    assert gaps.for_task(typed, "sst2", "rte") == (typed[0], "experiment=mine/rte", "seed=1")
    assert gaps.for_task(typed, "sst2", "cola") is None


def test_an_unfinished_run_whose_command_names_a_newer_one_is_left_behind(tmp_path: Path) -> None:
    def at(key: str, status: str, when: str, seed: int = 1, budget: str = "r8") -> None:
        times = {"planned" if status == "waiting" else "updated": f"2026-01-01T{when}:00:00+00:00"}
        words = ["experiment=mine", f"seed={seed}"]
        about = {"key": key, "status": status, "words": words, "times": times}
        write_run(tmp_path, "lora", seed, 0.5, "rte", budget, **about)

    at("aaaa0000", "done", "01")
    at("bbbb0000", "stopped", "02")
    at("cccc0000", "waiting", "03")
    at("dddd0000", "stopped", "04")
    at("eeee0000", "stopped", "04", seed=2)  # nothing newer has its words
    at("ffff0000", "failed", "01", seed=2, budget="r4")  # asks for no first seed of r4
    at("abcd0000", "diverged", "01")  # an outcome, which tables name
    seen = gaps.scan(tmp_path)
    assert [s.place.key[0] for s in seen if s.state == "superseded"] == ["f", "b", "c"]
    assert study.count(seen) == {"stopped": 2, "diverged": 1, "superseded": 3, "done": 1}
    reason = next(s.reason for s in seen if s.place.key == "bbbb0000")
    assert reason is not None
    assert reason.startswith("stopped; its command now names dddd0000/s1 of lora, which is newer")
    # A row that others keep has no hole where the run was left behind.
    at("abcd1234", "done", "01", budget="r4")
    assert "missing" not in study.count(gaps.scan(tmp_path))


def test_a_run_that_waits_needs_no_reason() -> None:
    assert study.first_line("waiting", None) == "it has not begun"
    assert study.first_line("waiting", "") == study.first_line("failed", None) == "no reason given"


def test_folders_without_records_make_no_holes(tmp_path: Path) -> None:
    # Every pair of task and method would be a hole otherwise: 150 x 150 x 150 with the seeds.
    for i in range(150):
        (tmp_path / "runs" / "d" / f"t{i}" / "m" / f"me{i}" / "r1" / "k" / f"s{i}").mkdir(
            parents=True
        )
    assert study.count(gaps.scan(tmp_path)) == {"broken": 150}


def test_status_as_table_json_and_commands(tmp_path: Path) -> None:
    results = f"--results={tmp_path}"
    assert command("dora.status", results).returncode == 2
    directory(tmp_path)
    assert command("dora.status", results).returncode == 0
    directory(tmp_path, seed=2, status="failed", reason="OSError: disk full\nand more")
    shown = command("dora.status", results)
    assert shown.returncode == 3
    assert "OSError: disk full\n" in shown.stdout
    assert "2 runs: 1 done, 1 failed" in shown.stdout
    assert shown.stdout.endswith(f"python -m dora.status --results {tmp_path} --missing\n")
    assert (
        study.command_over(Path("results"), "status", "--missing")
        == "python -m dora.status --missing"
    )
    said = json.loads(command("dora.status", results, "--json").stdout)
    assert said["count"] == {"failed": 1, "done": 1}
    assert [r["seed"] for r in said["runs"]] == [1, 2]
    only = command("dora.status", results, "--missing").stdout
    assert only == "python -m dora.run task=rte method=lora budget=r8 seed=2\n"
