"""`python -m dora.submit RUN_DIR…`: the runs' test predictions as one zip for the GLUE server.

A file that no run predicts is left out and named; --fill puts a placeholder in its place, and says so.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.predictions import UNREADABLE, degenerate, predict
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.files import taken, write_atomic
from dora.records import artefacts
from dora.records.record import read_finished, scores
from dora.records.rescore import disagreement
from dora.records.study import for_task
from dora.records.words import Foreign, as_command, typed
from dora.sharing.leaderboard import FILES, File, answers, placeholder, read_logits, tsv, zipped


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and run.json."""

    folder: Path
    data: dict[str, Any]

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.data["config"]["task"])

    @property
    def system(self) -> str:
        """What a submission is a submission of: model, method and budget."""
        c = self.data["config"]
        return " ".join(filter(None, (c["model"], c["method"]["name"], c["budget"])))

    def score(self, which: str) -> float:
        """The task's first metric on the development set; where it is undefined, what is below every score."""
        return float(self.data["results"][which].get(TASKS[self.task].metrics[0], -2))


def choose(folders: Sequence[Path], which: str, best: bool) -> dict[str, Run]:
    """Task → its run; with `best` the one of several that scores best on the development set, the first of equals.

    Raises UserError with every folder that is no finished run on GLUE or whose predictions are not as its record has
    them, and every task with several runs.
    """
    problems: list[str] = []
    found: dict[str, list[Run]] = {}
    for folder in {f.resolve(): f for f in folders}.values():
        try:
            run = Run(folder, read_finished(folder))
        except UserError as e:
            problems += e.problems
            continue
        problems += unsound(run)
        if run.data["config"]["data"] == "mini":
            problems.append(
                f"{folder} was trained on data=mini, generated sentences that are not GLUE's; train "
                "on the real ones: data=hub, or data=dir data.dir=GLUE"
            )
        found.setdefault(run.task, []).append(run)
    for task, runs in found.items():
        if len(runs) > 1 and not best:
            several = ", ".join(str(run.folder) for run in runs)
            problems.append(
                f"{len(runs)} runs of {task} ({several}): name one of them, or take the best on the "
                "development set with --best"
            )
    if problems:
        raise UserError(*problems)
    return {task: max(runs, key=lambda run: run.score(which)) for task, runs in found.items()}


def unsound(run: Run) -> list[str]:
    """Why the predictions of a run are not to be believed; none where it kept no predictions."""
    if not os.path.lexists(run.folder / artefacts.PREDICTIONS):
        return []  # which is said where they are read
    if problems := artefacts.damaged(run.folder, run.data, [artefacts.PREDICTIONS]):
        return problems
    try:
        wrong = disagreement(run.folder, run.data)
    except UNREADABLE as e:
        wrong = f"its predictions.npz cannot be read ({e})"
    return [] if wrong is None else [f"{run.folder}: {wrong}; train it again with force=true"]


def describe(file: File, logits: np.ndarray, folder: Path) -> str:
    """What the file says and where it is from; a warning below it where all its predictions are one."""
    if file.task.regression:
        values = predict(file.task, logits)
        clipped = int(((values < 0) | (values > 5)).sum())
        says = (
            f"scores {values.min():.2f} to {values.max():.2f}, {clipped:,} of them clipped to 0..5"
        )
    else:
        says = ", ".join(
            f"{a}: {n:,}" for a, n in sorted(Counter(answers(file.task, logits)).items())
        )
    why = degenerate(file.task, logits, {})
    warning = "" if why is None else f"\n  DEGENERATE: {why}"
    return f"{file.name:<12}{len(logits):>8,} rows: {says}; {folder}{warning}"


def absent(file: File, runs: Mapping[str, Run], which: str) -> str:
    """Why the file has no `which` (best or last) predictions, and how to get them."""
    if file.trained in runs:
        folder = runs[file.trained].folder
        if which == "last" and read_logits(file, folder / "predictions.npz", "best") is not None:
            return (
                f"the data of {folder} got it after training, and of the weights only the best evaluation's are kept: "
                "use --score best"
            )
        # AX is no part of what identifies a run; another test file makes another run.
        ax = "give the run's command again: it is predicted from the kept weights, without training"
        return f"the data of {folder} lacked its test file: add that, and {ax if file.split == 'ax' else 'train again'}"
    known = ((task, run) for task, run in runs.items() if run.data.get("words"))
    task, run = next(known, ("", None))
    like = None
    if run is not None:
        with contextlib.suppress(Foreign):
            like = for_task(typed(run.data["words"], run.folder), task, file.trained)
    command = f"python -m dora.run task={file.trained} …" if like is None else as_command(like)
    return f"no run of {file.trained} among these: {command}"


def notes(runs: Mapping[str, Run]) -> list[str]:
    """Each run's development scores, embedded models, and whether the runs are one system."""
    lines = [
        f"{task}: {run.system}, seed {run.data['seed']}, {scores(run.data)}"
        for task, run in runs.items()
    ]
    known = {
        text for run in runs.values() for text in (run.data["embedded"], run.data["note"]) if text
    }
    systems = sorted({run.system for run in runs.values()})
    mixed = (
        [f"these are {len(systems)} systems, not one: {', '.join(systems)}"]
        if len(systems) > 1
        else []
    )
    return [*lines, *sorted(known), *mixed]


def submit(
    folders: Sequence[Path], to: Path, which: str, best: bool, fill: bool
) -> tuple[list[str], int]:
    """Writes the zip; returns lines that say what is in it and what is not, and how many files it holds.

    `which`: a run's best or last predictions. Raises UserError with every problem; nothing is written then.
    """
    problems = taken(to)
    runs: dict[str, Run] = {}
    logits: dict[str, np.ndarray | None] = {}
    try:
        runs = choose(folders, which, best)
    except UserError as e:
        problems += e.problems
    for file in (f for f in FILES if f.trained in runs):
        try:
            logits[file.name] = read_logits(
                file, runs[file.trained].folder / "predictions.npz", which
            )
        except UserError as e:
            problems += e.problems
    if runs and not problems and all(found is None for found in logits.values()):
        problems.append("none of these runs has test predictions: their data lacked the test files")
    if problems:
        raise UserError(*problems)
    lines, texts = notes(runs), {}
    for file in FILES:
        found = logits.get(file.name)
        if found is not None:
            texts[file.name] = tsv(answers(file.task, found))
            lines.append(describe(file, found, runs[file.trained].folder))
            continue
        lines.append(f"MISSING {file.name}: {absent(file, runs, which)}")
        if fill:
            texts[file.name] = tsv(placeholder(file))
            lines.append(
                f"  in its place {file.rows:,} times {placeholder(file)[0]}: its score will mean nothing"
            )
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, zipped(texts))
    return lines, len(texts)
