"""Several runs' test predictions as one zip for the GLUE server.

A file that no run predicts is left out and named; `fill` puts a placeholder in its place and says
so.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dora.analysis.tables.run_notes import other_rows_note
from dora.data.predictions import degenerate, predict
from dora.data.tasks import TASKS
from dora.errors import UserError, attempt
from dora.files import taken, write_atomic
from dora.records import artefacts
from dora.records.about_method import has_budget
from dora.records.gaps import for_task
from dora.records.moved import at_home
from dora.records.record import read_finished, scores_in_words
from dora.records.rescore import unlike_predictions
from dora.records.schema import Run
from dora.records.words import Foreign, as_command, typed
from dora.sharing.leaderboard import FILES, File, answers, placeholder, read_logits, tsv, zipped


@dataclass(frozen=True)
class Candidate:
    """A finished run that may fill files of a submission: its directory, and its record."""

    folder: Path
    record: Run

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record["config"]["task"])

    @property
    def system(self) -> str:
        """Model, method and budget: the system that a submission reports on."""
        c = self.record["config"]
        budget = c["budget"] if has_budget(self.record) else None
        return " ".join(filter(None, (c["model"], c["method"]["name"], budget)))

    def score(self, which: str) -> float:
        """Returns the task's first metric on the development set.

        An undefined metric counts as less than every score.
        """
        first = TASKS[self.task].metrics[0]
        return float(self.record["results"][which].get(first, -math.inf))


def choose(folders: Sequence[Path], which: str, best: bool) -> dict[str, Candidate]:
    """Returns the run for each task by the task's name.

    `best`: take the run that scores best on the development set, the first of equals, where a task
    has several. Raises UserError with every folder that is no finished run on GLUE, every run whose
    predictions are not as its record has them, and every task with several runs.
    """
    # All problems together: there are up to nine runs, and one message a try would take nine tries.
    problems: list[str] = []
    found: dict[str, list[Candidate]] = {}
    # By resolved path: a folder named twice is one run, not two of one task.
    for folder in {f.resolve(): f for f in folders}.values():
        try:
            run = Candidate(folder, read_finished(folder))
        except UserError as e:
            problems += e.problems
            continue
        problems += unsound(run)
        if run.record["config"]["data"] == "mini":
            problems.append(
                f"{folder} was trained on data=mini, generated sentences that are not GLUE's; "
                "train on the real ones: data=hub, or data=dir data.dir=GLUE"
            )
        found.setdefault(run.task, []).append(run)
    for task, runs in found.items():
        if len(runs) > 1 and not best:
            several = ", ".join(str(run.folder) for run in runs)
            problems.append(
                f"{len(runs)} runs of {task} ({several}): name one of them, or take the best on "
                "the development set with --best"
            )
    if problems:
        raise UserError(*problems)
    # `max` takes the first of equals, so that the same command gives the same zip.
    return {task: max(runs, key=lambda run: run.score(which)) for task, runs in found.items()}


def unsound(run: Candidate) -> list[str]:
    """Returns the reasons against a run's predictions: damaged, or not what its record scores.

    Predictions that are absent are no reason here: `read_logits` tells of them.
    """
    # lexists: a link is there, if only to be refused.
    if not os.path.lexists(run.folder / artefacts.PREDICTIONS):
        return []
    if problems := artefacts.damaged(run.folder, run.record, [artefacts.PREDICTIONS]):
        return problems
    wrong = unlike_predictions(run.folder, run.record)
    return [] if wrong is None else [f"{run.folder}: {wrong}; train it again with force=true"]


def describe(file: File, logits: np.ndarray, folder: Path) -> str:
    """Returns a line on a file's predictions and their run; a second one warns if all are equal."""
    if file.task.regression:
        values = predict(file.task, logits)
        clipped = int(((values < 0) | (values > 5)).sum())
        says = (
            f"scores {values.min():.2f} to {values.max():.2f}, {clipped:,} of them clipped to 0..5"
        )
    else:
        counts = sorted(Counter(answers(file.task, logits)).items())
        says = ", ".join(f"{label}: {n:,}" for label, n in counts)
    why = degenerate(file.task, logits, {})
    warning = "" if why is None else f"\n  DEGENERATE: {why}"
    return f"{file.name:<12}{len(logits):>8,} rows: {says}; {folder}{warning}"


def absent(file: File, runs: Mapping[str, Candidate], which: str) -> str:
    """Says why no run gives the file's `which` (best or last) predictions, and how to get them."""
    if file.trained in runs:
        folder = runs[file.trained].folder
        if (
            which == "last"
            and read_logits(file, folder / artefacts.PREDICTIONS, "best") is not None
        ):
            return (
                f"the data of {folder} got it after training, and of the weights only the best "
                "evaluation's are kept: use --score best"
            )
        return f"the data of {folder} lacked its test file: add that, and {file.again}"
    return f"no run of {file.trained} among these: {_command_like(runs, file.trained)}"


def _command_like(runs: Mapping[str, Candidate], task: str) -> str:
    """Returns the command that trains `task` as one of `runs` was trained, or its beginning."""
    run = next((run for run in runs.values() if run.record.get("words")), None)
    if run is not None:
        # Foreign: words of a record that this suite would not have written are not repeated.
        with contextlib.suppress(Foreign):
            like = for_task(typed(at_home(run.record, run.folder), run.folder), run.task, task)
            if like is not None:  # None: their experiment has no file for this task
                return as_command(like)
    return f"python -m dora.run task={task} …"


def notes(runs: Mapping[str, Candidate]) -> list[str]:
    """Returns lines on each run's development scores, models and rows, and on mixed systems."""
    lines = [
        f"{task}: {run.system}, seed {run.record['seed']}, {scores_in_words(run.record)}"
        for task, run in runs.items()
    ]
    # A set: runs on one model share their note.
    known = {
        text
        for run in runs.values()
        for text in (run.record["embedded"], run.record["note"])
        if text
    }
    lines += sorted(known)
    lines += other_rows_note([run.record] for run in runs.values())
    systems = sorted({run.system for run in runs.values()})
    if len(systems) > 1:  # the leaderboard's average is of one system
        lines.append(f"these are {len(systems)} systems, not one: {', '.join(systems)}")
    return lines


def submit(
    folders: Sequence[Path], to: Path, which: str, best: bool, fill: bool
) -> tuple[list[str], int]:
    """Writes the zip. Returns lines on its contents and gaps, and the number of files in it.

    `which`: a run's best or last predictions. `best`: see `choose`. `fill`: write placeholders for
    missing files. Raises UserError with every problem; nothing is written then.
    """
    problems = taken(to)
    logits: dict[str, np.ndarray | None] = {}
    runs = attempt(lambda: choose(folders, which, best), problems) or {}
    for file in (f for f in FILES if f.trained in runs):
        try:
            predictions = runs[file.trained].folder / artefacts.PREDICTIONS
            logits[file.name] = read_logits(file, predictions, which)
        except UserError as e:
            problems += e.problems
    # Refused even with --fill: a zip of placeholders alone is nobody's wish.
    if runs and not problems and all(found is None for found in logits.values()):
        problems.append("none of these runs has test predictions: their data lacked the test files")
    if problems:
        raise UserError(*problems)
    # In the order of FILES, so that equal predictions give equal bytes.
    lines, texts = notes(runs), {}
    for file in FILES:
        found = logits.get(file.name)
        if found is not None:
            texts[file.name] = tsv(answers(file.task, found))
            lines.append(describe(file, found, runs[file.trained].folder))
            continue
        lines.append(f"MISSING {file.name}: {absent(file, runs, which)}")
        if fill:
            answer = placeholder(file)
            texts[file.name] = tsv(answer)
            lines.append(
                f"  in its place {file.rows:,} times {answer[0]}: its score will mean nothing"
            )
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, zipped(texts), over=False)
    return lines, len(texts)
