"""Lines that are drawn on a whole terminal, again and again."""

from __future__ import annotations

import shutil
import sys

from dora.plain import printable


def draw(lines: list[str]) -> None:
    """Shows lines on the whole terminal, in place of what stood there; elsewhere prints them."""
    if not sys.stdout.isatty():
        print(*lines, sep="\n", flush=True)
        return
    columns, rows = shutil.get_terminal_size()
    # The end says most: runs at work, counts, time left.
    if len(lines) >= rows:
        lines = [lines[0], f"… {len(lines) - rows + 2:,} more lines", *lines[3 - rows :]]
    shown = [printable(line) for line in lines]
    cut = [line if len(line) <= columns else f"{line[: columns - 1]}…" for line in shown]
    # In one piece, each line over the one before it: a screen that is cleared first would flicker.
    text = "".join(f"{line}\x1b[K\n" for line in cut)
    _control(f"\x1b[H{text}\x1b[J")


def clear() -> None:
    """Empties the terminal."""
    _control("\x1b[H\x1b[J")


def _control(text: str) -> None:
    """Writes past the stream, which escapes control characters: these are our own."""
    sys.stdout.flush()
    with open(sys.stdout.fileno(), "wb", closefd=False) as terminal:
        terminal.write(text.encode(sys.stdout.encoding or "utf-8", "replace"))
