"""One run in two processes (gloo): the same training as in one, each example once, and resuming."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from conftest import attach_method, loop_of, tiny, tokens
from dora.data.tokens import Tokens
from dora.errors import Stopped, UserError
from dora.process import group
from dora.process.signals import StopSignals
from dora.records.record import Record
from dora.training import one_run, processes, unless_done
from runs import (
    arrays,
    configure,
    lines,
    only_run,
    python,
    record,
    run,
    same_files,
    small,
    small_glue,
    small_words,
    together,
)

HERE = Path(__file__).parents[1]
# --standalone: a free port for each test, so that two of them may run side by side.
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def uneven() -> tuple[str, ...]:
    """Returns words for data that two processes cannot share out evenly.

    The last batch of an epoch of 97 rows is one row, so one share is empty; 7 rows to score are
    shares of 4 and 3.
    """
    return "limit_train=97", f"data.dir={small_glue(7)}"


@pytest.mark.parametrize("method", ["dora", pytest.param("adalora", marks=pytest.mark.slow)])
def test_two_processes_have_the_losses_of_one_at_the_same_batch(
    method: str, tmp_path: Path
) -> None:
    # In float64 and without dropout, which draws other numbers in each process: what is left is the
    # arithmetic of sharing, and it must agree to rounding.
    double = HERE / "double_run.py"
    words = [f"method={method}", "method.dropout=0", "head_dropout=0", "grad_accum=3", *uneven()]
    for size, name in ((1, "one"), (2, "two")):
        done = together(tmp_path, *small_words(tmp_path / name, *words), script=double, size=size)
        assert done.returncode == 0, done.stdout
    events = [lines(only_run(tmp_path / name) / "metrics.jsonl") for name in ("one", "two")]
    losses = [[(e["step"], e["loss"]) for e in found if e["split"] == "train"] for found in events]
    assert [step for step, _ in losses[0]] == list(range(1, 25))
    # 1e-6: metrics.jsonl holds float32 sums of losses near 1.
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-6)
    folders = [only_run(tmp_path / name) for name in ("one", "two")]
    assert (folders[0] / "ranks.jsonl").read_bytes() == (folders[1] / "ranks.jsonl").read_bytes()
    assert len(lines(folders[0] / "ranks.jsonl")) > 1  # both pruned, and alike
    stored = [arrays(folder) for folder in folders]
    assert stored[0]["dev/ids"].tolist() == stored[1]["dev/ids"].tolist()
    assert stored[1]["last/dev/logits"].shape == (7, 2)
    np.testing.assert_allclose(*(s["last/dev/logits"] for s in stored), rtol=0, atol=1e-5)


@pytest.mark.slow  # 15 s; a run of one process resumes across allocations in test_resume.py
def test_two_processes_resume_bit_for_bit_across_an_allocation_and_one_says_that_it_was_two(
    tmp_path: Path,
) -> None:
    def words(name: str) -> list[str]:
        return small_words(tmp_path / name, "method=dora", *uneven())

    alone = python(*TWO, "-m", "dora.run", *words("alone"))
    assert alone.returncode == 0, alone.stderr
    cut = together(
        tmp_path, "10", *words("cut"), "checkpoint_every=1", script=HERE / "crash_run.py"
    )
    assert cut.returncode == 1
    assert "power cut" in cut.stdout
    # Step 10 lies within the window of 3 to 11, so an allocation follows the resume.
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    again = together(tmp_path, *words("cut"))
    assert again.returncode == 0, again.stdout
    assert record(tmp_path / "cut")["resumed_from"] == [10]
    assert [s["world_size"] for s in record(tmp_path / "cut")["starts"]] == [2, 2]
    assert "now" not in again.stdout  # "…, now 1" would name a change between the starts
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "cut"))

    # Another number of processes may resume; it changes the last bits, and the log says so.
    by_one = run(configure(*words("other")))
    assert [(s["step"], s["world_size"]) for s in by_one["starts"]] == [(0, 2), (10, 1)]
    said = (only_run(tmp_path / "other") / "log.txt").read_text()
    assert (
        "processes 2 before, now 1: the result may not be, to the bit, that of a run left alone"
        in said
    )


def test_why_another_process_failed_is_in_the_record(tmp_path: Path) -> None:
    words = small_words(tmp_path / "results", "method=lora")
    ended = together(tmp_path, *words, script=HERE / "failing_run.py")
    assert ended.returncode == 1, ended.stdout
    run = record(tmp_path / "results")
    why = "process 1 of 2: ValueError: a fault of one process"
    assert (run["status"], run["reason"]) == ("failed", why)
    again = together(tmp_path, *words)
    assert again.returncode == 0, again.stdout
    assert "already done" in together(tmp_path, *words).stdout


@pytest.mark.slow
def test_a_program_trains_several_runs_in_the_same_processes(tmp_path: Path) -> None:
    ended = together(tmp_path, str(tmp_path / "results"), script=HERE / "several_runs.py")
    assert ended.returncode == 0, ended.stdout
    said = [line for line in ended.stdout.splitlines() if line.startswith(("lora ", "full "))]
    assert [line for line in said if "fault" in line] == [
        "lora process 1 of 2: ValueError: a fault of one process",
        "lora a fault of one process",
    ]
    assert said.count("full s1") == 2


@pytest.mark.parametrize("grad_accum", [2, 4])
def test_each_process_has_equally_many_rows_however_small_the_micro_batches(
    grad_accum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for rank in range(2):
        model = tiny("roberta")
        method = attach_method(model, "lora", "r2")
        loop = loop_of(model, method, tokens(16), 2, batch_size=8, grad_accum=grad_accum)
        loop.setup.world = processes.World(rank, 2, torch.device("cpu"))
        taken: list[int] = []

        def inputs(held: Tokens, rows: np.ndarray, taken: list[int] = taken) -> tuple[dict, None]:
            taken.append(len(rows))
            return {}, None

        monkeypatch.setattr(loop.stepper.forward, "inputs", inputs)
        loop.stepper._backward(1)
        shares.append(taken)
    assert shares == [[4 // grad_accum] * grad_accum] * 2


def test_the_loss_on_screen_is_the_mean_over_the_rows_of_this_process() -> None:
    # Rows 0 and 2 of three are the first process's; their losses are 1 and 3.
    world = processes.World(0, 2, torch.device("cpu"))
    course = SimpleNamespace(rows=lambda step: np.arange(3))
    loop = SimpleNamespace(setup=SimpleNamespace(world=world, course=course))
    assert one_run._mean(loop, 1, torch.tensor((1.0 + 3.0) / 3)) == pytest.approx(2.0)


def test_processes_go_by_what_the_main_one_reads_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # To this one the run looks done and lacks AX; the main process looked a moment earlier or later.
    monkeypatch.setattr(group, "size", lambda: 2)
    monkeypatch.setattr(processes, "start", lambda _: processes.World(1, 2, torch.device("cpu")))
    monkeypatch.setattr(unless_done, "read_done", lambda _: {"status": "done"})
    monkeypatch.setattr(unless_done, "unpredicted", lambda *_: ["ax"])
    prepared: Any = SimpleNamespace(
        record_folder=Path, rows={}, config=SimpleNamespace(device="cpu")
    )
    for main in ((None, []), ({"status": "done"}, [])):
        monkeypatch.setattr(processes.World, "broadcast", lambda world, value, main=main: main)
        assert unless_done._look(prepared) == main


@pytest.mark.parametrize("error", [dist.DistNetworkError, dist.DistStoreError])
def test_a_process_whose_launcher_dies_while_it_waits_for_the_others_is_stopped_not_failed(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise error("Connection was likely closed\nframe #1")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "_meeting_place", lost)
    with pytest.raises(
        Stopped, match=r"had met \(Connection was likely closed\); the same command takes it up"
    ):
        processes.start("cpu")


@pytest.mark.slow
def test_the_tasks_of_a_submitted_job_are_one_run_as_torchruns_processes_are(
    tmp_path: Path,
) -> None:
    words = ["method=lora", *uneven()]
    alone = python(*TWO, "-m", "dora.run", *small_words(tmp_path / "alone", *words))
    assert alone.returncode == 0, alone.stderr
    # submitit's local launcher starts the tasks of a job as SLURM does, with variables of its own.
    job = python(
        "-m",
        "dora.run",
        "-m",
        *small_words(tmp_path / "job", *words),
        "hydra/launcher=submitit_local",
        "hydra.launcher.tasks_per_node=2",
        "hydra.launcher.timeout_min=10",
    )
    assert job.returncode == 0, job.stdout + job.stderr
    assert record(tmp_path / "job")["world_size"] == 2
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "job"))


def test_a_user_without_a_name_as_in_a_container_gets_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda n: SimpleNamespace(uuid=n))
    worlds = [processes.start("cuda") for _ in range(2)]
    assert [str(world.device) for world in worlds] == ["cuda:0", "cuda:1"]
    for world in worlds:
        processes.stop(world)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_refuses_the_main_process_the_directory_ends_the_others_alike(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    def broadcast(world: processes.World, value: object) -> object:
        # The second thing that all are told is whether the directory was opened.
        told.append(value)
        return Stopped("in use") if rank and len(told) == 2 else value

    def in_use(*_: object, **__: object) -> None:
        raise Stopped("in use")

    world = processes.World(rank, 2, torch.device("cpu"))
    monkeypatch.setattr(processes, "start", lambda _: world)
    monkeypatch.setattr(processes.World, "broadcast", broadcast)
    monkeypatch.setattr(Record, "open", in_use)
    signals = StopSignals()
    with pytest.raises(Stopped, match=r"^in use$"):
        run(small(tmp_path, "method=lora"), signals)
    assert len(told) == 2
    assert signals.waits  # from the start: a process that left would leave the others waiting
    # As it travels from one process to the others.
    assert str(pickle.loads(pickle.dumps(UserError("a", "b")))) == str(UserError("a", "b"))
