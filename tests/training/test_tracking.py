"""Weights & Biases may fail without any harm to the run; each run has its own curve."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from dora.errors import UserError
from dora.training import tracking
from runs import only_run, python, record, run, small


class BrokenTracker:
    """Stands for a wandb run that takes every line and fails at the end."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.summary: dict[str, float] = {}

    def log(self, values: dict[str, float], step: int) -> None:
        """Takes the values."""

    def finish(self, exit_code: int) -> None:
        """Raises the error, as wandb does without a network or on Ctrl-C."""
        raise self.error


def test_whatever_happens_to_wandb_a_run_that_is_done_stays_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any key: the check asks that there is one, and nothing is sent.
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
    # Ctrl-C while wandb uploads must still end the command; the run is done by then.
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
    said = (
        r"^wandb=online cannot begin "
        r"\(CommError: context deadline exceeded while retrying\); .*wandb=offline"
    )
    with pytest.raises(UserError, match=said):
        run(small(tmp_path, "method=lora", "wandb=online"))
    # Refused before a step was trained, not after hours.
    assert not (only_run(tmp_path) / "metrics.jsonl").read_text()


def test_a_run_after_one_that_broke_off_has_a_curve_of_its_own(tmp_path: Path) -> None:
    """Checks that wandb does not return the run that is still open for the next one."""
    # In another process, since wandb starts a service beside the one that it is used in.
    two = (
        "from dora.training.tracking import Tracker; from pathlib import Path\n"
        "from types import SimpleNamespace as N; import sys\n"
        "names = dict(method_name='m', model_name='n', task=N(name='t'), data=N(name='d'))\n"
        "c = N(wandb='offline', results=sys.argv[1], **names)\n"
        "folders = [Path(f'a/b/c/d/e/f/s{i}') for i in (1, 2)]\n"
        "r = [N(folder=f, data={'times': {'started': 'now'}}) for f in folders]\n"
        "print(len({Tracker(c, one, {}).run.id for one in r}))"
    )
    done = python("-c", two, str(tmp_path), WANDB_SILENT="true")
    assert done.stdout.split()[-1:] == ["2"], done.stderr
