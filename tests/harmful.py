"""Texts that a record may hold and that no writer of tables may obey."""

from __future__ import annotations

from dora.analysis.tables.layout import Grid

# Names of models, devices and notes come from records, which may be somebody else's.
TEXTS = (
    "<script>x</script>",
    "[x](javascript:x)",
    "![x](http://evil/x.png)",
    "a|b",
    "`x`",
    "x\n\n# y",
    "a\x1b[2J",
    "a\u202eb",
    "\\|",
    "[x]: javascript:x",
    "\\input{/etc/passwd}",
    "\\write18{x}",
    "1.0 [\\input{x}]",
    "1.0 [}]",
    "}$\\def\\x{",
    "%",
    "^^5cinput{x}",
)


def table_of(text: str) -> Grid:
    """Returns a table that has the text wherever a record's words can come to stand."""
    return Grid(
        text,
        [text, "y"],
        [[text, text], ["a", "b"]],
        text_columns=1,
        bold={(0, 1)},
        underlined={(1, 1)},
        notes=[text, "said"],
    )
