"""Lines drawn on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from dora.cli import screen


class Terminal(io.StringIO):
    """Stands for standard output on a terminal."""

    def isatty(self) -> bool:
        """Says that this is a terminal, whose screen is drawn anew."""
        return True


@pytest.mark.parametrize(("columns", "rows"), [(200, 50), (40, 10)])
def test_a_watched_study_is_drawn_in_one_piece_that_fits_the_screen(
    columns: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(rows))
    monkeypatch.setattr(sys, "stdout", Terminal())
    written: list[str] = []
    monkeypatch.setattr(screen, "_control", written.append)
    lines = [f"line {number} {'x' * 50}" for number in range(30)]
    screen.draw(lines)
    (text,) = written
    # From the top left corner, over what stood there, with no moment of an empty screen.
    assert text.startswith("\x1b[Hline 0 x")
    assert text.endswith("\x1b[K\n\x1b[J")
    shown = text.removeprefix("\x1b[H").removesuffix("\x1b[J").split("\x1b[K\n")[:-1]
    assert all(len(line) <= columns for line in shown)
    if rows == 50:
        assert shown == lines
    else:
        # The cursor takes the last row.
        assert len(shown) == rows - 1
        assert shown[1] == "… 22 more lines"
        assert [line[:9].strip() for line in shown[2:]] == [
            f"line {n} x"[:9].strip() for n in range(23, 30)
        ]
