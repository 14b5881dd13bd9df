"""Text from a record or a folder's name, which may be somebody else's, as one line that only shows itself."""

from __future__ import annotations


def printable(text: object, kept: str = "") -> str:
    r"""Spells every character that does not print as an escape (`\x1b`, `\n`, `\u202e`), but for those in `kept`.

    A terminal obeys control characters, and marks of direction show a command that is another one.
    """
    return "".join(c if c.isprintable() or c in kept else _escape(c) for c in str(text))


def cut(text: object, at_most: int = 100) -> str:
    """`printable`, the rest of a long text as an ellipsis."""
    whole = str(text)
    return printable(whole[:at_most]) + "…" * (len(whole) > at_most)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
