"""A run's output: whole lines beside a bar, and without a bar a line every half minute.

A sweep says once for all of its runs that data or model are embedded.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

import pytest

from dora.preparing.prepare import prepare
from dora.training import build, lines, one_run
from dora.training.bar import Bar
from dora.training.lines import Lines, figures
from runs import only_run, run, same_files, small, small_words


class Terminal(io.StringIO):
    """Stands for standard output and error of one screen."""

    def isatty(self) -> bool:
        """Says that this is a terminal, so that a bar is shown."""
        return True


def screen(written: str) -> list[str]:
    """Returns the lines that a terminal shows in the end."""
    # Only what tqdm uses without colours: a carriage return, after which text overwrites the line.
    rows: list[list[str]] = [[]]
    at = 0
    for character in written.replace("\r\n", "\n"):
        if character == "\r":
            at = 0
        elif character == "\n":
            rows.append([])
            at = 0
        else:
            rows[-1][at : at + 1] = character
            at += 1
    return ["".join(row).rstrip() for row in rows]


def test_a_line_and_the_bar_do_not_tear_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Lines(tmp_path, "[2/3 rte lora s1]", bar=True) as say:
        say.begin_bar(20, 0)
        for step in range(1, 11):
            say.progress(step, lambda: "no line beside a bar")
        say("half of it\nis done")
        # The bar is back below the line.
        assert re.match(r"\[2/3 rte lora s1\]  50%.* 10/20 ", screen(terminal.getvalue())[-1])
        say.end_bar()
        say("done")
    said = ["half of it", "is done", "done"]
    assert screen(terminal.getvalue()) == [*(f"[2/3 rte lora s1] {line}" for line in said), ""]
    assert (tmp_path / "log.txt").read_text().splitlines() == said


# (0, 0): a terminal that does not know its size, as in many containers.
@pytest.mark.parametrize("size", [(0, 0), (30, 100)])
def test_a_run_on_a_terminal_shows_its_bar_and_its_lines_whole(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A pseudo-terminal: `theirs` is the run's screen, `ours` reads what was written to it.
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
    with open(theirs, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        run(small(tmp_path, "method=lora", "max_steps=4", "eval_every=2"))
        monkeypatch.undo()  # before `out` is closed: pytest writes to sys.stdout
    # One read may return a part of it, as slowly as the system passes it on. The end is an error.
    pieces = []
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 1 << 16):
            pieces.append(piece)
    os.close(ours)
    written = b"".join(pieces).decode()
    assert re.search(r"\d/4 \[.*step/s\]", written)
    log = (only_run(tmp_path) / "log.txt").read_text()
    assert [line for line in screen(written) if line] == log.splitlines()


def test_without_a_terminal_long_training_says_how_far_it_is_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(small(tmp_path / "alone", "method=lora", "max_steps=6"))
    assert "steps/s" not in capsys.readouterr().out
    monkeypatch.setattr(lines, "SILENCE_S", -1.0)  # every moment is one of silence
    run(small(tmp_path / "said", "method=lora", "max_steps=6"))
    out = capsys.readouterr().out
    line = r"^step 3/6  loss \d\.\d{4}  lr \d\.\de-0\d  [\d.]+ steps/s  \d+ s left$"
    assert re.search(line, out, re.MULTILINE)
    assert re.search(r"^step 6/6  evaluating, 40 of 40 rows$", out, re.MULTILINE)
    assert (only_run(tmp_path / "said") / "log.txt").read_text() == out
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "said"))


def test_silence_is_broken_once_in_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    with Lines(tmp_path) as say:
        for step in range(1, 101):
            clock[0] = float(step)
            say.progress(step, lambda step=step: f"step {step}")
    # More than 30 s after the last line, not every 30 steps.
    assert capsys.readouterr().out.splitlines() == ["step 31", "step 62", "step 93"]


def test_tokenising_many_rows_is_said_when_it_begins_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "MANY_ROWS", 100)
    run(small(tmp_path, "method=lora", "max_steps=2"))
    assert "tokenising 177 rows, once for all runs on them\n" in capsys.readouterr().out
    # Another seed finds the tokens of the first in the cache.
    run(small(tmp_path, "method=lora", "max_steps=2", "seed=2"))
    assert "tokenising 177" not in capsys.readouterr().out


def test_a_run_of_a_sweep_leaves_to_the_sweep_what_is_embedded_and_says_the_rest_with_its_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, "method=lora", "max_steps=2")
    one_run.run(prepare(config), small_words(tmp_path), label="[1/2 wnli lora s1]")
    out = capsys.readouterr().out.splitlines()
    assert out
    assert all(line.startswith("[1/2 wnli lora s1] ") for line in out)
    assert not any("embedded" in line for line in out)
    assert "embedded model tiny_roberta" in (only_run(tmp_path) / "log.txt").read_text()


@pytest.mark.parametrize(("method", "components"), [("dora", r"  \d+ live\]"), ("lora", r"\]")])
def test_the_bar_carries_loss_rate_and_the_components_that_live(
    method: str, components: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(small(tmp_path, f"method={method}", "max_steps=40"))
    shown = [line for line in screen_changes(terminal.getvalue()) if "loss" in line]
    assert shown
    assert all(re.search(rf"loss \d\.\d{{4}}  lr \d\.\de-\d\d{components}$", s) for s in shown)


@pytest.mark.parametrize("columns", [62, 80, 100, 120, 200])
@pytest.mark.parametrize("label", ["", "[2/12 rte dora s1 lr=0.001]"])
def test_a_narrow_terminal_costs_the_bar_anything_but_loss_rate_and_components(
    columns: int, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bar(36816, 12310, label) as bar:
        bar.set_postfix_str(figures(0.6259, 3.9e-4, 144), refresh=False)
        line = str(bar)
        # tqdm fills the width only where its bar is.
        assert (len(line) == columns) if "|" in line else (len(line) < columns)
        assert "12310/36816 [" in line
        assert line.endswith(", loss 0.6259  lr 3.9e-04  144 live]")
        # The widest form that fits.
        assert ("|" in line) == (columns >= (100 if not label else 120))
        assert (label in line) == (columns >= (0 if not label else 100))


def screen_changes(written: str) -> list[str]:
    """Returns each state of a bar's line, one after the other."""
    return [line.strip() for line in re.split(r"[\r\n]", written) if line.strip()]
