"""A strict reader for one TSV file of the official download.

A row with a field too few or too many, an unknown label, a missing column or an empty file is an
error that names file and line. Nothing is skipped, so a count of rows can be trusted. The official
QQP has a few broken rows (questions with a line break inside), which the hub's copy leaves out; the
message says how to leave them out too. An empty text is not an error. Labels in a test file are
ignored (the hub's MRPC has them), since GLUE publishes none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np

from dora.data.reading import Location, is_file, is_no_data, lines, readable
from dora.data.tasks import Rows, Task, labelled
from dora.errors import UserError

# Header names of the official TSVs, texts then label, for tasks where they differ from the hub's
# (`Task.text` and "label").
_COLUMNS = {
    "mrpc": ("#1 String", "#2 String", "Quality"),
    "qqp": ("question1", "question2", "is_duplicate"),
    "stsb": ("sentence1", "sentence2", "score"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "ax": ("sentence1", "sentence2"),
}
# CoLA's train and dev files have no header; its test file has one.
_COLA_COLUMNS = ["source", "label", "star", "sentence"]
_SHOWN = 3  # broken rows quoted from one file
_MOST = 2**63 - 1  # the largest id that int64 can hold


def fields(raw: bytes) -> list[str]:
    """Returns a line's fields, without the line's end, which is \\n or \\r\\n."""
    # Not csv.reader: quotes are ordinary characters in GLUE, and many texts have only one.
    return raw.decode().removesuffix("\n").removesuffix("\r").split("\t")


def read_tsv(
    task: Task, split: str, path: Location, split_line: Callable[[bytes], list[str]] = fields
) -> Rows:
    """Reads the rows of one split; `idx` is the file's `index` column, else the row number from 0.

    `split_line`: returns the fields of a line. Raises FileNotFoundError where there is no such
    file, UserError with the first broken rows or any other reason why it cannot be read.
    """
    with readable(path):
        there = is_file(path)
    if not there:
        raise FileNotFoundError(path)
    with readable(path):
        numbered = lines(path)
        number, first = next(numbered, (1, b""))
        first = first.removeprefix(b"\xef\xbb\xbf")  # MRPC's files begin with a byte order mark
        if is_no_data(first):
            raise UserError(
                f"{path} is a web page or a Git LFS pointer, not a table; fetch it again"
            )
        if task.name == "cola" and labelled(split):
            numbered = chain([(number, first)] if first else [], numbered)
            return _parse(task, split, path, _COLA_COLUMNS, numbered, split_line)
        return _parse(task, split, path, split_line(first), numbered, split_line)


def _parse(
    task: Task,
    split: str,
    path: Location,
    columns: list[str],
    numbered: Iterable[tuple[int, bytes]],
    split_line: Callable[[bytes], list[str]],
) -> Rows:
    """Turns numbered lines into rows. Raises UserError with the first broken ones."""
    at = _positions(task, split, path, columns)
    index_at = columns.index("index") if "index" in columns else None
    to_label = _label_reader(task)
    texts: list[list[str]] = [[] for _ in task.text]
    labels: list[float] = []
    idx: list[int] = []
    broken: list[str] = []
    count = 0  # broken rows, of which `broken` quotes the first
    for number, raw in numbered:
        try:
            values = split_line(raw)
            if len(values) != len(columns):
                raise ValueError(
                    f"{len(values)} tab-separated fields where {len(columns)} are due; "
                    "fetch the file again or, as the hub's QQP does, leave such rows out: "
                    f"awk -F'\\t' 'NF=={len(columns)}'"
                )
            if labelled(split):
                labels.append(to_label(values[at[-1]]))
            idx.append(len(idx) if index_at is None else _index(values[index_at]))
        except ValueError as error:  # UnicodeDecodeError too, for bytes that are not UTF-8
            count += 1
            if count <= _SHOWN:
                broken.append(f"{path}, line {number}: {error}")
            continue
        for column, i in zip(texts, at, strict=False):  # `at` may end with the label's position
            column.append(values[i])
    if count > _SHOWN:
        broken.append(f"{path}: {count - _SHOWN} more broken rows")
    if broken or not idx:
        raise UserError(*(broken or [f"{path} has no rows; fetch it again"]))
    return to_rows(task, split, texts, labels, idx)


def _positions(task: Task, split: str, path: Location, columns: list[str]) -> list[int]:
    """Returns the positions of the text columns, then the label's if the split has labels.

    Raises UserError where one of these columns is missing, or one of them or `index` stands twice in
    the header `columns`.
    """
    wanted = list(_COLUMNS.get(task.name, (*task.text, "label")))
    if not labelled(split):
        wanted = wanted[: len(task.text)]
    if missing := [name for name in wanted if name not in columns]:
        raise UserError(
            f"{path}, line 1: no column {', '.join(map(repr, missing))} "
            f"among {', '.join(columns)[:200]!r}; "
            f"{task.name} {split} needs {', '.join(map(repr, wanted))} in its header"
        )
    # "index" too: the leaderboard's files repeat it, and no one could say which of two counts.
    if twice := [name for name in (*wanted, "index") if columns.count(name) > 1]:
        raise UserError(
            f"{path}, line 1: {', '.join(map(repr, twice))} stands twice in the header; "
            "fetch it again"
        )
    return [columns.index(name) for name in wanted]


def to_rows(task: Task, split: str, texts: list[list[str]], labels: Any, idx: Any) -> Rows:
    """Makes the task's `Rows` of columns; drops labels of a split for which GLUE publishes none."""
    kind = np.float64 if task.regression else np.int64
    return Rows(
        first=texts[0],
        second=texts[1] if len(texts) > 1 else None,
        label=np.asarray(labels).astype(kind) if labelled(split) else None,
        idx=np.asarray(idx).astype(np.int64),
    )


def _index(text: str) -> int:
    """Reads a row's id; raises ValueError with the value and the rule."""
    # Not \d or isdecimal(), which take the digits of every script. At most 19 of them, since int()
    # needs quadratic time for long texts.
    digits = re.fullmatch(r"0*([0-9]{1,19})", text)
    if digits is None or int(digits[1]) > _MOST:
        raise ValueError(
            f"index {_quoted(text)} must be a whole number from 0 to {_MOST} in the digits 0 to 9"
        )
    return int(digits[1])


def _label_reader(task: Task) -> Callable[[str], float]:
    """Returns a function from a TSV's label to a class id or a score.

    The function raises ValueError with the value and the rule.
    """
    ids = {text: i for i, text in enumerate(task.written)}

    def class_id(text: str) -> float:
        if text not in ids:
            raise ValueError(f"label {_quoted(text)} must be one of {', '.join(ids)}")
        return ids[text]

    def score(text: str) -> float:
        try:
            # float() would take the digits of every script, and 1_0 for 10.
            value = float(text) if text.isascii() and "_" not in text else np.nan
        except ValueError:
            value = np.nan
        if not 0 <= value <= 5:
            raise ValueError(f"score {_quoted(text)} must be a number from 0 to 5")
        # The hub stores float32. Rounding here too makes both sources equal bit for bit.
        return float(np.float32(value))

    return score if task.regression else class_id


def _quoted(text: str) -> str:
    """Returns the value for a message, cut after 80 characters: it may be a whole sentence."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"
