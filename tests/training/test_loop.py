"""Schedules beside Transformers', when a run logs and saves, and paths that other tests do not take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers

from conftest import attach_method, loop_of, tiny, tokens
from dora.analysis.grouping import tables
from dora.analysis.tables.scores import scores
from dora.data.mini import mini
from dora.data.tasks import TASKS
from dora.methods.schedule import Schedule
from dora.preparing.prepare import prepare
from dora.process.signals import StopSignals
from dora.records.finished import read_runs
from dora.training import loop as training
from dora.training.loop import Loop
from runs import only_run, run, small


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        ("linear", transformers.get_linear_schedule_with_warmup),
        ("cosine", transformers.get_cosine_schedule_with_warmup),
        (
            "constant",
            lambda optimizer, warmup, _: transformers.get_constant_schedule_with_warmup(
                optimizer, warmup
            ),
        ),
    ],
)
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_equal_transformers(schedule: str, theirs: object, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer, warmup, 20)  # type: ignore[operator]
    for step in range(1, 21):
        assert Schedule(schedule, warmup).share(step, 20) == pytest.approx(
            scheduler.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        scheduler.step()


def test_a_warm_up_is_rounded_up_and_a_part_of_a_run_has_its_part_of_it() -> None:
    assert Schedule("linear", 0.06).warmup_steps(20) == 2
    assert Schedule("linear", 4).of_part(7, 20).warmup_steps(7) == 2  # 1.4
    assert Schedule("linear", 0.2).of_part(6, 20).warmup_steps(6) == 2  # 1.2


def test_a_part_that_is_warm_up_alone_is_told_with_a_warm_up_that_is_not() -> None:
    told = Schedule("linear", 0.8).cold(3, 20, "a client's")  # 2.4, rounded up
    assert told is not None
    assert told.endswith(
        "is 3 of a client's 3 steps, so that the rate never reaches lr: give at most warmup=0.66"
    )
    assert Schedule("linear", 0.66).cold(3, 20, "a client's") is None


def test_bf16_trains_with_parameters_in_thirty_two_bits(tmp_path: Path) -> None:
    record = run(small(tmp_path, "method=dora", "precision=bf16", "max_steps=12"))
    assert record["status"] == "done"
    # Only the frozen backbone is rounded: an update of 16 bits would be lost in a parameter.
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(only_run(tmp_path) / "best.safetensors").values()} == {
        torch.float32
    }


def test_a_local_copy_of_the_hub_repository_trains_as_the_hub_would(tmp_path: Path) -> None:
    task = TASKS["wnli"]  # the smallest; its two sentences have the names sentence1 and sentence2
    (tmp_path / "glue" / "wnli").mkdir(parents=True)
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(task.labels)),
            "idx": datasets.Value("int32"),
        }
    )
    for split, rows in mini(task).items():
        # The hub stores -1 for the labels that test splits do not have.
        label = [-1] * 40 if rows.label is None else rows.label[:40].tolist()
        columns = {
            "sentence1": rows.first[:40],
            "sentence2": (rows.second or [])[:40],
            "label": label,
            "idx": list(range(40)),
        }
        path = tmp_path / "glue" / "wnli" / f"{task.splits[split]}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    config = small(tmp_path / "results", "data=hub", f"data.dir={tmp_path / 'glue'}", "method=lora")
    assert run(config)["data"]["rows"] == {"train": 40, "dev": 40, "test": 40}


def test_rows_that_are_not_glues_are_said_and_can_have_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(small(tmp_path, "method=lora", "max_steps=2", "data.name=glue_97"))
    folder = only_run(tmp_path)
    assert folder.relative_to(tmp_path).parts[:3] == ("runs", "glue_97", "wnli")
    note = "not GLUE's whole rows: wnli train 97 rows (GLUE has 635), dev 40 rows (GLUE has 71)"
    assert note in capsys.readouterr().out
    assert note in (folder / "log.txt").read_text()
    assert len(list((tmp_path / "cache").iterdir())) == 1  # no place for AX, which WNLI has not
    (table,) = tables(read_runs(tmp_path))
    grid = scores(table)
    assert grid.caption.startswith("tiny_roberta, data glue_97, ")
    assert (
        "not GLUE's whole rows: WNLI trained on 96 rows (GLUE has 635), scored on 40 rows (GLUE has 71)"
        in grid.notes
    )


def test_compile_compiles_the_model_and_is_no_part_of_a_run_s_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiling for real takes minutes; whether it changes results is for a GPU's tests.
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compiled.append((type(self).__name__, how))
    )
    record = run(small(tmp_path, "compile=true", "method=lora"))
    assert compiled == [("RobertaForSequenceClassification", {"dynamic": True})]
    folder = only_run(tmp_path)
    assert record["config"]["compile"] is True
    assert prepare(small(tmp_path, "method=lora")).folder == folder  # the directory's key is equal


@pytest.fixture
def slow_loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """Returns a loop of 12 steps of 130 seconds each, which trains and evaluates nothing."""
    model, passed = tiny("roberta"), [0.0]
    method = attach_method(model, "lora", "r2")
    loop = loop_of(model, method, tokens(16), 12, batch_size=8, eval_every=5, patience=1)

    def step(_: int) -> tuple[torch.Tensor, None]:
        passed[0] += 130
        return torch.tensor(0.5), None

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "evaluate_and_select", lambda: None)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: passed[0]))
    return loop


def test_a_checkpoint_comes_with_each_evaluation_and_after_five_minutes_without_one(
    slow_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(slow_loop, "save", lambda: saved.append(slow_loop.step))
    slow_loop.run(StopSignals())
    assert saved == [3, 5, 8, 10, 12]  # evaluated after steps 5, 10 and 12


def test_the_seconds_of_a_run_are_those_of_all_its_starts(slow_loop: Loop) -> None:
    slow_loop.step, slow_loop.seconds = 9, 1000.0  # as a checkpoint has them
    slow_loop.run(StopSignals())
    assert slow_loop.seconds == 1000 + 3 * 130


@pytest.mark.parametrize(("last", "logged"), [(5, [5]), (10, [10]), (None, [10, 12])])
def test_the_last_step_has_a_training_line_and_one_alone(
    last: int | None, logged: list[int], slow_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(slow_loop, "track", lambda journal, line: events.append(line))

    def evaluate() -> None:
        slow_loop.selection.worse = int(slow_loop.step == last)  # then patience ends the run

    monkeypatch.setattr(slow_loop, "evaluate_and_select", evaluate)
    slow_loop.run(StopSignals())
    assert [e["step"] for e in events if e["split"] == "train"] == logged


def test_logits_of_another_evaluation_than_the_last_are_not_known(slow_loop: Loop) -> None:
    slow_loop._evaluated = 10, {"heldout": np.zeros((1, 2))}
    assert slow_loop.known(10).keys() == {"heldout"}
    assert slow_loop.known(5) == {}  # the best weights of step 5 are predicted anew
