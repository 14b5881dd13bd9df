"""Weights & Biases may break off, and takes nothing from the run; each run has a curve of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from dora.errors import UserError
from dora.training import tracking
from runs import only_run, python, record, run, small


class BrokenTracker:
    """A wandb run that takes everything and does not end."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.summary: dict[str, float] = {}

    def log(self, values: dict[str, float], step: int) -> None:
        """Takes them."""

    def finish(self, exit_code: int) -> None:
        """Breaks off."""
        raise self.error


def test_whatever_happens_to_wandb_a_run_that_is_done_stays_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "of nobody")
    errors = iter([OSError("no network"), KeyboardInterrupt()])
    monkeypatch.setattr(tracking, "_begin", lambda *_: BrokenTracker(next(errors)))
    assert (
        run(small(tmp_path / "a", "method=lora", "max_steps=4", "wandb=online"))["status"] == "done"
    )
    assert (
        "wandb did not end well (OSError: no network)"
        in (only_run(tmp_path / "a") / "log.txt").read_text()
    )
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path / "b", "method=lora", "max_steps=4", "wandb=online"))
    assert record(tmp_path / "b")["status"] == "done"


def test_wandb_that_cannot_begin_is_one_message_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise wandb.errors.CommError("context deadline exceeded\n  while retrying")

    monkeypatch.setenv("WANDB_API_KEY", "of nobody")
    monkeypatch.setattr(wandb, "init", init)
    said = r"^wandb=online cannot begin \(CommError: context deadline exceeded while retrying\); .*wandb=offline"
    with pytest.raises(UserError, match=said):
        run(small(tmp_path, "method=lora", "wandb=online"))
    assert not (only_run(tmp_path) / "metrics.jsonl").read_text()


def test_a_run_after_one_that_broke_off_has_a_curve_of_its_own(tmp_path: Path) -> None:
    """wandb.init would hand out the one that is open. In a process of its own, since wandb keeps one beside it."""
    two = (
        "from dora.training.tracking import Tracker; from dora.config import Config; from pathlib import Path\n"
        "from types import SimpleNamespace as N; import sys\n"
        "c = N(wandb='offline', results=sys.argv[1], method_name='m', model_name='n', task=N(name='t'), data=N(name='d'))\n"
        "r = [N(folder=Path(f'a/b/c/d/e/f/s{i}'), data={'times': {'started': 'now'}}) for i in (1, 2)]\n"
        "print(len({Tracker(c, one, {}).run.id for one in r}))"
    )
    done = python("-c", two, str(tmp_path), WANDB_SILENT="true")
    assert done.stdout.split()[-1:] == ["2"], done.stderr
