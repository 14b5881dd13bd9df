"""The files that the GLUE server scores: names, numbers of rows, and how a prediction is written."""

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
    """One file of a submission. `rows`: of GLUE's test set. `trained`: the task whose run predicts it, from
    `split` of its predictions. `task`: whose labels it holds (AX has its own)."""

    name: str
    rows: int
    trained: str
    split: str
    task: Task


FILES = (
    File("CoLA.tsv", 1_063, "cola", "test", TASKS["cola"]),
    File("SST-2.tsv", 1_821, "sst2", "test", TASKS["sst2"]),
    File("MRPC.tsv", 1_725, "mrpc", "test", TASKS["mrpc"]),
    File("STS-B.tsv", 1_379, "stsb", "test", TASKS["stsb"]),
    File("QQP.tsv", 390_965, "qqp", "test", TASKS["qqp"]),
    File("MNLI-m.tsv", 9_796, "mnli", "test", TASKS["mnli"]),
    File("MNLI-mm.tsv", 9_847, "mnli", "test_mm", TASKS["mnli"]),
    File("QNLI.tsv", 5_463, "qnli", "test", TASKS["qnli"]),
    File("RTE.tsv", 3_000, "rte", "test", TASKS["rte"]),
    File("WNLI.tsv", 146, "wnli", "test", TASKS["wnli"]),
    File("AX.tsv", 1_104, "mnli", "ax", AX),
)


def read_logits(file: File, predictions: Path, which: str) -> np.ndarray | None:
    """The logits for the file in the order of its index, (rows, outputs); None where there are none.

    `predictions`: a run's predictions.npz. `which`: best or last. Raises UserError where they are not the
    official rows, each once, or are not finite.
    """
    try:
        names = f"{which}/{file.split}/logits", f"{file.split}/ids"
        stored = npz.load(predictions.parent, names, file.task.outputs)
        if names[0] not in stored:
            return None
        logits, ids = (stored[name] for name in names)
    except FileNotFoundError as e:
        raise UserError(
            f"{predictions.parent} holds no predictions, its record was kept without them: train it again "
            "with force=true"
        ) from e
    except UNREADABLE as e:
        raise UserError(
            f"{predictions} cannot be read: {e}; train that run again with force=true"
        ) from e
    if len(logits) != file.rows or not np.array_equal(np.sort(ids), np.arange(file.rows)):
        raise UserError(
            f"{predictions}: {file.name} takes {file.rows:,} rows, numbered from 0, each once; these are "
            f"{len(logits):,} from {ids.min()} to {ids.max()}: train on the test file of the official download"
        )
    if not np.isfinite(logits).all():
        raise UserError(
            f"{predictions}, {file.name}: {degenerate(file.task, logits, {})}, and no label follows from them"
        )
    ordered: np.ndarray = logits[np.argsort(ids)]
    return ordered


def answers(task: Task, logits: np.ndarray) -> list[str]:
    """What the server reads for each row of logits (rows, outputs): a label as GLUE writes it, or a score in 0..5."""
    if task.regression:
        return [f"{score:.4f}" for score in predict(task, logits).clip(0, 5)]
    return [task.written[i] for i in predict(task, logits)]


def placeholder(file: File) -> list[str]:
    """One and the same answer for every row, where there are no predictions: the server wants a file all the same."""
    return [file.task.written[0] if file.task.written else "0.0000"] * file.rows


def tsv(predictions: Sequence[str]) -> str:
    """A file's text: the header, then a line a prediction, numbered from 0."""
    return "".join(["index\tprediction\n", *(f"{i}\t{p}\n" for i, p in enumerate(predictions))])


def zipped(texts: Mapping[str, str]) -> bytes:
    """The files side by side in a zip; the same texts give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in texts.items():
            # ZipInfo by itself has the date 1980-01-01, and a mode that lets nobody read what is unpacked.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
