"""Trackers get equal values, each once, whatever happens to a run; and none of them costs a run."""

from __future__ import annotations

import errno
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from dora.errors import NotNow, UserError
from dora.preparing.prepare import prepare
from dora.records import cleaning
from dora.training import track_wandb
from dora.training.tracking import histogram, values_of
from runs import cut, lines, only_run, python, record, run, small, small_words

JOURNALS = ("ranks.jsonl", "metrics.jsonl")
# name → [(step, value), …]
Curves = dict[str, list[tuple[int, float]]]


class BrokenTracker:
    """Stands for a tracker that breaks at a line, or only at its end."""

    name, lacks_from = "wandb", 0

    def __init__(self, error: BaseException, at_line: bool = False) -> None:
        self.error, self.at_line = error, at_line

    def log(self, step: int, values: dict[str, float]) -> None:
        """Takes the values, or raises the error."""
        if self.at_line:
            raise self.error

    def histogram(self, *_: Any) -> None:
        """Takes the histogram."""

    def finish(self, step: int, summary: dict[str, float] | None) -> None:
        """Raises the error, as wandb does without a network or on Ctrl-C."""
        raise self.error


def test_whatever_happens_to_wandb_a_run_that_is_done_stays_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any key: the check asks that there is one, and nothing is sent.
    monkeypatch.setenv("WANDB_API_KEY", "of nobody")
    network = OSError("no network")
    broken = iter(
        [BrokenTracker(network), BrokenTracker(network, True), BrokenTracker(KeyboardInterrupt())]
    )
    monkeypatch.setattr(track_wandb, "WeightsAndBiases", lambda *_: next(broken))
    for name, said in (("a", "did not end well"), ("b", "stopped")):
        config = small(tmp_path / name, "method=lora", "max_steps=4", "wandb=online")
        assert run(config)["status"] == "done"
        log = (only_run(tmp_path / name) / "log.txt").read_text()
        assert log.count(f"wandb {said} (OSError: no network); metrics.jsonl and") == 1
    # Ctrl-C while wandb uploads must still end the command; the run is done by then.
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path / "c", "method=lora", "max_steps=4", "wandb=online"))
    assert record(tmp_path / "c")["status"] == "done"


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


def test_a_run_that_goes_on_does_so_without_a_tracker_that_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, 5, monkeypatch, "method=lora", "max_steps=6", "checkpoint_every=4")

    def nowhere(*_: Any) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setenv("WANDB_API_KEY", "of nobody")
    monkeypatch.setattr(track_wandb, "WeightsAndBiases", nowhere)
    config = small(tmp_path, "method=lora", "max_steps=6", "wandb=online")
    assert run(config)["status"] == "done"
    log = (only_run(tmp_path) / "log.txt").read_text()
    assert "wandb=online cannot begin (TimeoutError: no answer); the run goes on without it" in log


def test_a_disk_that_is_full_when_a_tracker_begins_ends_the_run_as_a_full_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("WANDB_API_KEY", "of nobody")
    monkeypatch.setattr(track_wandb, "WeightsAndBiases", full)
    with pytest.raises(NotNow, match="No space left on device"):
        run(small(tmp_path, "method=lora", "max_steps=6", "wandb=online"))


def test_a_run_after_one_that_broke_off_has_a_curve_of_its_own(tmp_path: Path) -> None:
    """Checks that wandb does not return the run that is still open for the next one."""
    # In another process, since wandb starts a service beside the one that it is used in.
    two = (
        "from dora.training.track_wandb import WeightsAndBiases; from pathlib import Path\n"
        "from types import SimpleNamespace as N; import sys\n"
        "names = dict(method_name='m', model_name='n', task=N(name='t'), data_name='d')\n"
        "c = N(wandb='offline', results=sys.argv[1], **names)\n"
        "folders = [Path(f'a/b/c/d/e/f/s{i}') for i in (1, 2)]\n"
        "r = [N(folder=f, data={'times': {'started': 'now'}}) for f in folders]\n"
        "print(len({WeightsAndBiases(c, one, {}).run.id for one in r}))"
    )
    done = python("-c", two, str(tmp_path), WANDB_SILENT="true")
    assert done.stdout.split()[-1:] == ["2"], done.stderr


def test_the_bins_of_a_histogram_are_ranks() -> None:
    counts, edges = histogram([3, 0, 3, 1])
    assert counts.tolist() == [1, 1, 0, 2]
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]


def logged(folder: Path) -> tuple[Curves, dict[int, list[int]]]:
    """Returns the curves and the ranks by step that a run's journals hold."""
    curves: Curves = {}
    for journal in JOURNALS:
        for line in lines(folder / journal):
            for name, value in values_of(journal, line).items():
                curves.setdefault(name, []).append((line["step"], value))
    ranks = {line["step"]: list(line["ranks"].values()) for line in lines(folder / "ranks.jsonl")}
    return curves, ranks


def of_tensorboard(folder: Path) -> tuple[Curves, dict[int, list[int]]]:
    """Returns the curves, and the counts of ranks by step, that TensorBoard shows of a run."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # 0: all points, not a sample of them.
    size = {"scalars": 0, "histograms": 0}
    shown = accumulators.EventAccumulator(str(folder / "tensorboard"), size).Reload()
    curves = {
        name: [(point.step, point.value) for point in shown.Scalars(name)]
        for name in shown.Tags()["scalars"]
    }
    counts = {
        h.step: [int(n) for n in h.histogram_value.bucket]
        for name in shown.Tags()["histograms"]
        for h in shown.Histograms(name)
    }
    return curves, counts


def of_wandb(results: Path) -> tuple[Curves, dict[int, list[int]], dict[str, Any], dict[str, Any]]:
    """Returns curves, counts of ranks by step, summary and configuration from wandb's only file."""
    (file,) = results.glob("wandb/wandb/offline-run-*/*.wandb")
    curves: Curves = {}
    counts, summary, config = {}, {}, {}
    for entry in records(file.read_bytes()):
        row = values(entry.history.item)
        summary |= values(entry.summary.update)
        config |= values(entry.run.config.update)
        if "ranks/values" in row:
            counts[row["_step"]] = row["ranks/values"]
        for name, value in row.items():
            curves.setdefault(name, []).append((row["_step"], value))
    return curves, counts, summary, config


def values(items: Any) -> dict[str, Any]:
    """Returns a record's entries by name; wandb spells a name in one of two ways."""
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def records(data: bytes) -> Iterator[Any]:
    """Yields the records of wandb's file, a log of LevelDB's form behind a head of 7 bytes."""
    at, held = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15  # of its block
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(held)  # type: ignore[attr-defined]
            held = b""


def same(shown: Curves, logged: Curves) -> None:
    """Asserts that each curve of the journals is shown, with these points and no others."""
    for name, points in logged.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points], name
        # TensorBoard's scalars have 32 bits.
        np.testing.assert_allclose(
            [value for _, value in shown[name]], [value for _, value in points], rtol=1e-6
        )


def test_a_resumed_runs_event_files_show_every_point_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    words = ("method=dora", "tensorboard=true", "max_steps=12")
    # Points of the steps 10 and 12 are written, and the checkpoint is of step 6.
    cut(tmp_path, 11, monkeypatch, *words, "checkpoint_every=null")
    assert run(small(tmp_path, *words))["resumed_from"] == [6]
    folder = only_run(tmp_path)
    assert len(list((folder / "tensorboard").glob("events.*"))) == 2
    curves, counts = of_tensorboard(folder)
    known, ranks = logged(folder)
    same(curves, known)
    assert {"train/gradient_norm", "train/components", "dev/loss", "ranks/total"} <= known.keys()
    assert counts == {step: np.bincount(held).tolist() for step, held in ranks.items()}
    # The directory is that of the run without it, and force=true removes the curves.
    assert prepare(small(tmp_path, "method=dora", "max_steps=12")).folder == folder
    cleaning.remove_run(folder)
    assert not (folder / "tensorboard").exists()


def test_a_run_that_is_tracked_from_its_resumption_on_is_shown_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    cut(tmp_path, 10, monkeypatch, "method=dora", "max_steps=12")
    run(small(tmp_path, "method=dora", "max_steps=12", "tensorboard=true"))
    curves, counts = of_tensorboard(only_run(tmp_path))
    known, ranks = logged(only_run(tmp_path))
    same(curves, known)
    assert len(counts) == len(ranks) > 1


def test_tensorboard_that_is_not_installed_is_told_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"tensorboard=true needs .*pip install tensorboard"):
        run(small(tmp_path, "tensorboard=true"))
    assert not list(tmp_path.iterdir())


# Kills wandb's process too, as a machine that goes down does: it has written nothing of the last
# points, or of any.
KILLED = """
import os, signal, sys
from dora.run import main
from dora.training.loop import Loop
step = Loop.train_step
def train_step(self, at):
    if at == 23:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, at)
Loop.train_step = train_step
main()
"""


@pytest.mark.slow
def test_both_trackers_show_equal_values_once_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = small_words(tmp_path, "method=dora", "tensorboard=true", "wandb=offline")
    assert python("-c", KILLED, *words, WANDB_SILENT="true").returncode == -9
    done = python("-m", "dora.run", *words, WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path)
    known, _ = logged(folder)
    curves, counts, summary, config = of_wandb(tmp_path)
    of_board, counts_of_board = of_tensorboard(folder)
    same(curves, known)
    same(of_board, known)
    assert counts == counts_of_board
    run = record(tmp_path)
    assert config["params"]["trainable"] == run["params"]["trainable"]
    for name, value in [
        ("best/accuracy", run["results"]["best"]["accuracy"]),
        ("params/stored", run["params"]["stored"]),
    ]:
        assert summary[name] == value
        assert of_board[name] == [(24, pytest.approx(value, rel=1e-6))]
    # Of both starts; the first line of a start has no speed yet.
    assert dict(of_board["train/steps_per_s"]).keys() == {10, 24}
