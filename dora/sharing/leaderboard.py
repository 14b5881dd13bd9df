"""The files that the GLUE server scores: their names, rows and format."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dora.data import npz
from dora.data.predictions import UNREADABLE, degenerate, predict
from dora.data.tasks import AX, TASKS, Task
from dora.errors import UserError


@dataclass(frozen=True)
class File:
    """One file of a submission.

    `trained`: the task whose run predicts the file. `split`: the split of that run's predictions.
    `task`: the task whose labels the file holds (AX has its own).
    """

    name: str
    trained: str
    split: str
    task: Task

    @property
    def rows(self) -> int:
        """The number of rows of GLUE's test set."""
        return self.task.sizes[self.split]

    @property
    def again(self) -> str:
        """How to predict the file once the data hold it as GLUE does, for the end of a message."""
        # AX is no part of what identifies a run; another test file makes another run.
        if self.split == "ax":
            return (
                "give the run's command again: it is predicted from the kept weights, without "
                "training"
            )
        return "train again"


# Names as the server's submission page lists them.
# One MNLI model fills three files: matched, mismatched and the diagnostic set AX.
FILES = (
    File("CoLA.tsv", "cola", "test", TASKS["cola"]),
    File("SST-2.tsv", "sst2", "test", TASKS["sst2"]),
    File("MRPC.tsv", "mrpc", "test", TASKS["mrpc"]),
    File("STS-B.tsv", "stsb", "test", TASKS["stsb"]),
    File("QQP.tsv", "qqp", "test", TASKS["qqp"]),
    File("MNLI-m.tsv", "mnli", "test", TASKS["mnli"]),
    File("MNLI-mm.tsv", "mnli", "test_mm", TASKS["mnli"]),
    File("QNLI.tsv", "qnli", "test", TASKS["qnli"]),
    File("RTE.tsv", "rte", "test", TASKS["rte"]),
    File("WNLI.tsv", "wnli", "test", TASKS["wnli"]),
    File("AX.tsv", "mnli", "ax", AX),
)


def read_logits(file: File, predictions: Path, which: str) -> np.ndarray | None:
    """Returns the logits for the file, (rows, outputs), in the order of GLUE's index.

    `predictions`: a run's predictions.npz. `which`: best or last. Returns None if the run predicted
    no such split. Raises UserError where the rows are not the official ones, each once, or a logit
    is not finite.
    """
    try:
        names = f"{which}/{file.split}/logits", f"{file.split}/ids"
        stored = npz.load(predictions.parent, names, file.task.outputs)
        if names[0] not in stored:
            return None
        logits, ids = (stored[name] for name in names)
    except FileNotFoundError as e:
        raise UserError(
            f"{predictions.parent} holds no predictions, its record was kept without them: "
            "train it again with force=true"
        ) from e
    except UNREADABLE as e:
        raise UserError(
            f"{predictions} cannot be read: {e}; train that run again with force=true"
        ) from e
    # The server pairs predictions with its labels by index: a row missing or twice shifts nothing
    # there, it only scores wrong, so the rows must be exactly 0 to n - 1.
    if len(logits) != file.rows or not np.array_equal(np.sort(ids), np.arange(file.rows)):
        raise UserError(
            f"{predictions}: {file.name} takes {file.rows:,} rows, numbered from 0, each once; "
            f"these are {len(logits):,} from {ids.min()} to {ids.max()}: put the official file into "
            f"the data, and {file.again}"
        )
    if not np.isfinite(logits).all():
        why = degenerate(file.task, logits, {})
        raise UserError(f"{predictions}, {file.name}: {why}, and no label follows from them")
    ordered: np.ndarray = logits[np.argsort(ids)]
    return ordered


def answers(task: Task, logits: np.ndarray) -> list[str]:
    """Returns one answer for each row of logits (rows, outputs), as the server reads it.

    An answer is a label as GLUE writes it, or a score from 0 to 5.
    """
    if task.regression:
        # STS-B's scale is 0 to 5; a regression may predict beyond it.
        return [f"{score:.4f}" for score in predict(task, logits).clip(0, 5)]
    return [task.written[i] for i in predict(task, logits)]


def placeholder(file: File) -> list[str]:
    """Returns a constant answer for every row: the server wants a file for each task."""
    return [file.task.written[0] if file.task.written else "0.0000"] * file.rows


def tsv(predictions: Sequence[str]) -> str:
    """Returns a file's text: the header, then a line for each prediction, numbered from 0."""
    return "".join(["index\tprediction\n", *(f"{i}\t{p}\n" for i, p in enumerate(predictions))])


def zipped(texts: Mapping[str, str]) -> bytes:
    """Returns a zip of the files, all at its top; equal texts give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in texts.items():
            # ZipInfo by itself has the date 1980-01-01, which makes the bytes a function of the
            # texts, and a mode that lets nobody read what is unpacked.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
