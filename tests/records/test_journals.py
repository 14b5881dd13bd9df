"""Journals that no run wrote end at the first odd line; nothing hangs or fills the memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dora.analysis.figures.files import learning_curves, rank_paths
from dora.analysis.grouping import tables
from dora.records import journals
from dora.records.finished import read_runs
from record_files import names, write_run

NAMES = names(1)
RANKS = json.dumps({"step": 10, "total": 24, "ranks": dict.fromkeys(NAMES, 4)})
SCORE = json.dumps({"step": 10, "split": "dev", "accuracy": 0.5})


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "7",
        "null",
        "{",
        '{"step": 1',
        '"x"',
        # Deep enough to end in RecursionError.
        "[" * 100_000,
        '{"a":' * 100_000,
        "\xff",
        # A file without an end of line must not be read into memory whole.
        "x" * (journals.MOST_LINE + 1),
        '{"step": 1, "ranks": 7}',
        # JSON of another shape: each would end in a traceback somewhere in a figure.
        '{"step": 1, "ranks": {"x.layer.0.output.dense": "4"}}',
        '{"step": 1}',
        "NaN",
        '{"step": 1, "ranks": {"nothing": 4}}',
        '{"step": 1, "ranks": {"x.layer.0.output.dense": -1}}',
        '{"ranks": {}}',
        '{"step": true, "ranks": {}}',
        '{"step": -1, "ranks": {}}',
        '{"step": 1e400, "ranks": {}}',
        '{"step": NaN, "ranks": {}}',
        '{"step": ' + "9" * 30 + ', "ranks": {}}',
        # Python refuses to convert more than 4,300 digits, with a ValueError of its own.
        '{"step": ' + "9" * 5000 + ', "ranks": {}}',
        # Shown as it is, this value would clear the terminal.
        '{"step": "\\u001b[2J", "ranks": {}}',
    ],
    ids=lambda line: line[:40],
)
def test_allocations_end_at_a_line_that_no_run_wrote(line: str, tmp_path: Path) -> None:
    (tmp_path / "ranks.jsonl").write_text(f"{RANKS}\n{line}\n{RANKS}\n", encoding="latin-1")
    found = journals.ranks(tmp_path)
    assert next(found) == (
        10,
        dict.fromkeys([(0, kind) for kind in ("q", "k", "v", "o", "ffn1", "ffn2")], 4),
    )
    with pytest.raises(ValueError, match=r".") as e:
        next(found)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    # Scores lie in [-1, 1]; 1e400 is read as infinity.
    "value",
    ['"0.5"', "null", "NaN", "Infinity", "1e400", "-2", "101", "true", "[0.5]", "{}"],
)
def test_scores_end_at_one_that_is_none(value: str, tmp_path: Path) -> None:
    line = SCORE.replace("0.5", value)
    (tmp_path / "metrics.jsonl").write_text(
        f'{SCORE}\n{{"split": "train", "loss": 9}}\n{line}\n{SCORE}\n'
    )
    found = journals.curve(tmp_path, "dev", "accuracy")
    assert next(found) == (10, 0.5)
    with pytest.raises(ValueError, match=r"accuracy|is no JSON"):
        next(found)


@pytest.mark.parametrize("value", ['"0.5"', "null", "NaN", "1e400", "true"])
def test_losses_are_those_of_training_and_end_at_one_that_is_none(
    value: str, tmp_path: Path
) -> None:
    loss = '{{"step": 10, "split": "train", "loss": {}}}\n'
    (tmp_path / "metrics.jsonl").write_text(
        f"{loss.format(123.5)}{SCORE}\n{loss.format(value)}{loss.format(1)}"
    )
    found = journals.curve(tmp_path, "train", "loss")
    # A loss is no score: it may be larger than 1.
    assert next(found) == (10, 123.5)
    with pytest.raises(ValueError, match=r"loss|is no JSON"):
        next(found)


def test_what_is_not_stored_has_no_lines(tmp_path: Path) -> None:
    assert not list(journals.ranks(tmp_path))
    assert not list(journals.curve(tmp_path, "dev", "accuracy"))
    assert not list(journals.curve(tmp_path, "train", "loss"))


# A hole: tests need no 4 GB of disk.
def sparse(path: Path, size: int) -> None:
    """Makes a file of `size` bytes that takes no space."""
    path.touch()
    os.truncate(path, size)


# Opening a pipe waits for a writer, and a link may lead to anybody's file.
MAKE: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "folder": Path.mkdir,
    "4 GB without a line's end": lambda path: sparse(path, 2**32),
    "500 MB without a line's end": lambda path: sparse(path, 5 * 10**8),
}


@pytest.mark.parametrize("kind", MAKE)
def test_figures_leave_out_a_journal_that_is_no_file_of_a_run(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        folder = write_run(tmp_path, "dora", seed, 0.9, ranks=dict.fromkeys(NAMES, 3))
        for name, line in (("ranks.jsonl", RANKS), ("metrics.jsonl", SCORE)):
            (folder / name).write_text(line + "\n")
    # The last run's journals are odd; the first one's are shown.
    began = time.monotonic()
    for name in ("ranks.jsonl", "metrics.jsonl"):
        (folder / name).unlink()
        MAKE[kind](folder / name)
    (table,) = tables(read_runs(tmp_path))
    curve, path = learning_curves(table), rank_paths(table)
    # Generous for a busy machine; to wait at a pipe, or to read 4 GB, takes longer.
    assert time.monotonic() - began < 5
    assert curve is not None
    assert path is not None
    assert [line["seeds"] for line in curve[1]] == [1]
    said = capsys.readouterr().err
    assert all(
        f"left out: {folder / name} cannot be read" in said
        for name in ("ranks.jsonl", "metrics.jsonl")
    )
