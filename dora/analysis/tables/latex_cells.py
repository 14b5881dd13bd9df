r"""Cells of a table as LaTeX: text that cannot be obeyed, numbers that align at their points.

A number's standard deviation is set small by `\sd{1.0}`, an interval and marks by
`\spread{INTERVAL}{MARKS}`, a dagger by `\high`; `\under{NUMBER}` is the line below a number,
`\room` keeps a head as wide as an interval. `dora.analysis.tables.latex` defines them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dora.plain import printable

_PLUS_MINUS = r"$\pm$"
# These characters as a document needs them to be set as themselves, with \pm and dashes from its
# fonts.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": _PLUS_MINUS,
    "−": r"$-$",
    "≥": r"$\geq$",
    "–": "--",
    "*": "$*$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    # The text command \S would be of a bitmap font in many installations.
    "§": r"$\mathsection$",
    "⋄": r"$\diamond$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}
# Accents that every encoding of fonts can put over a letter of ASCII.
_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327"


# A sign has no letter, digit, point or hyphen before it, unlike the hyphens of 2024-01-31.
_SIGN = re.compile(r"(?<![\w.-])-(?=\d)")
# TeX joins neighbours: -- is a dash to it, `` and '' are quotation marks, ?` is ¿.
_JOINED = re.compile(r"(?<=[-`',?!])(?=[-`',])")


@functools.cache
def escaped(text: str) -> str:
    """Returns any text as LaTeX that shows it; the sign of a number is a minus, not a hyphen.

    A character that the usual fonts lack is spelled as its code: [U+4E2D].
    """
    parts = _JOINED.split(_SIGN.sub("−", printable(text)))
    return "{}".join("".join(map(_character, part)) for part in parts)


def _character(c: str) -> str:
    if c in _LATEX or c.isascii():
        return _LATEX.get(c, c)
    parts = unicodedata.normalize("NFD", c)
    known = re.fullmatch(f"[A-Za-z][{_ACCENTS}]+", parts) is not None
    return c if known else f"[U+{ord(c):04X}]"


# `83.0 ± 3.6*§ (n = 2/3)`, `+1.3 [+0.1, +2.5]`, `82.0 (3)`, `<0.001`.
_NUMBER = re.compile(
    r"(<?)([+-]?)(\d+)\.(\d+)"
    r"(?: (± \d+\.\d+|\[[+-]?\d+\.\d, [+-]?\d+\.\d\]))?"
    r"([*§‡⋄]*)"
    r"(?: \((n = \d+/\d+|\d+|[A-Za-z][\w .]*)\))?"
)


@dataclass(frozen=True)
class Number:
    """A number with its parts: `below`: spread or interval, `above`: marks and remark, as LaTeX."""

    less: bool
    sign: str
    whole: str
    digits: str
    below: str
    above: str

    @property
    def text(self) -> str:
        """The number itself: `-0.5`."""
        return f"{self.sign}{self.whole}.{self.digits}"

    @property
    def small(self) -> str:
        r"""Its parts as LaTeX: `\sd{1.0}`, or `\spread{$\pm$1.0}{*}` with anything above."""
        deviation = self.below.removeprefix(_PLUS_MINUS)
        if deviation != self.below and not self.above:
            return rf"\sd{{{deviation}}}"
        return rf"\spread{{{self.below}}}{{{self.above}}}" if self.below + self.above else ""


@functools.cache  # widths, columns and cells ask for each number ten times
def number(text: str) -> Number | None:
    """Reads a cell; None if it is anything but a number with a point."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    less, sign, whole, digits, below, marks, remark = found.groups(default="")
    counted = remark if remark.isdigit() else ""
    above = [escaped(marks), escaped("" if counted else remark.replace(" = ", "="))]
    return Number(
        bool(less),
        sign,
        whole,
        digits,
        # No space after the sign, which would be as wide as a digit.
        escaped(below).replace(f"{_PLUS_MINUS} ", _PLUS_MINUS)
        or (f"({counted})" if counted else ""),
        " ".join(filter(None, above)),
    )


# Behind a column of text, where \tabcolsep is small: numbers bring room of their own.
GAP = r"@{\hspace{\gap}}"


@dataclass(frozen=True)
class Column:
    """How a column is aligned: `numbers` at their points, by siunitx; None: as text, `letter`."""

    letter: str
    numbers: tuple[Number, ...] | None = None

    @property
    def spec(self) -> str:
        """The column as `tabular` has it, with the room that its numbers need."""
        if self.numbers is None:
            return self.letter + GAP
        # A minus is wider than a plus, or as wide.
        sign = max((n.sign for n in self.numbers), key=["", "+", "-"].index)
        whole, digits = (
            max(len(part) for part in parts)
            for parts in zip(*((n.whole, n.digits) for n in self.numbers), strict=True)
        )
        before = "$<$" if any(n.less for n in self.numbers) else ""
        after = "".join(rf"\hbox{{{_zeros(text)}}}" for text in _widest(self.numbers))
        after = rf"\vtop{{{after}}}" if after else ""
        # Braces: text that siunitx keeps room for.
        room = [f"{{{text}}}" if text else "" for text in (before, after)]
        return f"S[table-format={room[0]}{sign}{whole}.{digits}{room[1]}]"

    def cell(self, text: str, bold: bool = False, underlined: bool = False) -> str:
        """Returns a cell of this column."""
        read = number(text) if self.numbers is not None else None
        if read is None:
            shown = _words(text)
            shown = rf"\textbf{{{shown}}}" if bold else shown
            shown = rf"\underline{{{shown}}}" if underlined else shown
            # Braces keep siunitx from reading it.
            return shown if self.numbers is None else f"{{{shown}}}"
        before = (r"\bfseries " if bold else "") + ("{$<$}" if read.less else "")
        after = rf"\under{{{read.text.replace('-', '$-$')}}}" if underlined else ""
        after += read.small
        return before + read.text + (f"{{{after}}}" if after else "")

    def head(self, text: str) -> str:
        """Returns a head of this column, which keeps it as wide as an interval below a number."""
        if self.numbers is None:
            return _words(text)
        low = max((n.below for n in self.numbers), key=_length)
        wide = _length(low) > len(self.numbers[0].text) + 2
        return rf"{{\room{{{_zeros(low)}}}{{{_words(text)}}}}}" if wide else f"{{{_words(text)}}}"


def _words(text: str) -> str:
    """Returns a cell that is no number: sizes with a dash, a dagger with its letter small."""
    # `0.331M to 0.332M` with the unit once and a dash, which is narrower.
    text = re.sub(r"([\d.,]+)([kM]?) to ([\d.,]+\2)(?![\w.])", r"\1–\3", text)
    words, dagger, letter = text.partition(" †")
    if dagger and re.fullmatch(r"[a-z]", letter):
        return rf"{escaped(words)}\high{{$\dagger$\,{letter}}}"
    return escaped(text)


def _widest(numbers: Sequence[Number]) -> list[str]:
    """Returns the small parts that may be the widest, with 0 for each digit; TeX measures them.

    They are about as long as the longest part, or have about the longest marks: where spreads stand
    below the numbers, the marks alone need room beside them.
    """
    kinds = {_zeros(n.small): (_length(n.below), _length(n.above)) for n in numbers if n.small}
    longest = max(map(max, kinds.values()), default=0)
    above = max((high for _, high in kinds.values()), default=0)
    return [
        text
        for text, (low, high) in sorted(kinds.items())
        if max(low, high) > longest - 3 or (high > above - 3 and high)
    ]


def _zeros(latex: str) -> str:
    return re.sub(r"\d", "0", latex)


def _length(latex: str) -> int:
    """Returns about how many characters LaTeX text shows."""
    return len(re.sub(r"\\[A-Za-z]+", "x", latex).translate(dict.fromkeys(map(ord, "${}"))))


def column(cells: Sequence[str], words: bool) -> Column:
    """Returns how the cells of a column are aligned; `words`: to the left, as text."""
    if words:
        return Column("l")
    numbers = tuple(n for text in cells if (n := number(text)) is not None)
    # Sizes may stand among scores, as 0.3M does in a table with methods across.
    others = [text for text in cells if number(text) is None and text not in ("–", "")]
    alone = 0 < len(numbers) >= len(others) and all(re.search("[A-Za-z]", text) for text in others)
    return Column("r", numbers if alone else None)


def width(column: Column, cells: Sequence[str], size: float, below: bool) -> float:
    """Returns about how many points a column takes with its gap, at a size of letters.

    `below`: with spreads below the numbers and small gaps, not beside them. A letter is half as
    wide as its size, and more at 6 pt, where TeX's own letters are wide.
    """
    letter, gap = (0.58 * size, 2) if below else (0.5 * size, 6)
    if column.numbers is None:
        widest = max(len(re.sub(" to ", "–", text)) for text in cells)
        return letter * widest + gap + 1
    parts = [(len(n.text), _length(n.below), _length(n.above)) for n in column.numbers]
    length, low, high = (max(part) for part in zip(*parts, strict=True))
    head = max((len(text) for text in cells if number(text) is None), default=0)
    small = 0.58 * 6
    if below:
        return max(letter * length + small * high, small * low, letter * head) + gap
    return max(letter * length + small * max(low, high), letter * head) + gap
