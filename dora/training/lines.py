"""A run's output: lines on standard output and in log.txt, and a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from dora.plain import duration

SILENCE_S = 30.0  # seconds without a line, where no bar shows that the run is alive


class Lines:
    """Writes the lines of one run, when called with a text.

    log.txt receives the text as it is, standard output the text after the run's label. `folder`:
    the run's directory; None in processes that keep no record, which say nothing. `label`: names
    the run within a sweep; empty for a run by itself. `bar`: whether standard error shows a
    progress bar.
    """

    def __init__(self, folder: Path | None, label: str = "", bar: bool = False) -> None:
        self.label = label
        self._log = None if folder is None else (folder / "log.txt").open("a", encoding="utf-8")
        self._shows_bar = bar
        self._bar: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end_bar()
        if self._log is not None:
            with contextlib.suppress(OSError):  # the disk is full
                self._log.close()

    def __call__(self, text: str) -> None:
        """Says `text` on standard output and in the log."""
        if self._log is None:
            return
        self.note(text)
        # The bar is taken away while the line is printed, or the line would begin in its middle.
        if self._bar is not None:
            self._bar.clear()
        with contextlib.suppress(OSError):  # whoever read our output has gone
            print(labelled(self.label, text), flush=True)
        if self._bar is not None:
            self._bar.refresh()
        self._said = time.monotonic()

    def note(self, text: str) -> None:
        """Writes `text` to the log alone."""
        if self._log is not None:
            # A full disk: the record and checkpoints, which matter, raise where they are written.
            with contextlib.suppress(OSError):
                print(text, file=self._log, flush=True)

    def unless_in_sweep(self, text: str) -> None:
        """Says `text` in a run by itself; logs it alone in a sweep, which has said it once."""
        (self.note if self.label else self)(text)

    def if_silent(self, text: str) -> None:
        """Says `text` if nothing was said for half a minute; for progress of slow work."""
        if time.monotonic() - self._said > SILENCE_S:
            self(text)

    def begin_bar(self, total_steps: int, step: int) -> None:
        """Shows the bar at `step`, if this run has one."""
        if self._shows_bar and self._log is not None:
            from dora.training.bar import Bar  # late: most runs show none

            self._bar = Bar(total_steps, step, self.label)

    def progress(self, step: int, line: Callable[[], str]) -> None:
        """Moves the bar to `step`; without a bar, says `line()` every half a minute."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._said = time.monotonic()
        elif self._log is not None and time.monotonic() - self._said > SILENCE_S:
            self(line())

    def beside_bar(self, text: str) -> None:
        """Shows `text`, such as loss and rate, behind the bar, if this run has one."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)  # with the next step

    def end_bar(self) -> None:
        """Removes the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def labelled(label: str, text: str) -> str:
    """Returns `text` with `label` before each of its lines."""
    return "\n".join(f"{label} {line}" for line in text.split("\n")) if label else text


class Pace:
    """The speed of a run since this process began or resumed it at `step`, evaluations included."""

    def __init__(self, step: int, total_steps: int) -> None:
        # From this start alone: an earlier one may have been on another machine.
        self._first, self._total, self._began = step, total_steps, time.monotonic()

    def line(self, step: int, loss: float, lr: float, components: int | None) -> str:
        """Returns `step 1230/36816  loss 0.4312  lr 4.1e-04  8.2 steps/s  1 h 12 min left`."""
        rate = (step - self._first) / max(time.monotonic() - self._began, 1e-9)
        left = duration((self._total - step) / rate)
        shown = figures(loss, lr, components)
        return f"step {step}/{self._total}  {shown}  {rate:.3g} steps/s  {left} left"


def figures(loss: float, lr: float, components: int | None) -> str:
    """Returns `loss 0.4312  lr 4.1e-04  96 live`: components, unless they stay as many."""
    text = f"loss {loss:.4f}  lr {lr:.1e}"
    return text if components is None else f"{text}  {components:,} live"


def on_terminal() -> bool:
    """Says whether standard error is a terminal, or a notebook's cell, which shows a bar as well."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
