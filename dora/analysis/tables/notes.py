"""Notes that stand below tables and say what a reader must know of their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from dora.analysis.comparison import ALPHA, Difference
from dora.analysis.grouping import Table
from dora.analysis.names import size, size_range
from dora.analysis.rows import budget_in_words, has_budget, row_order
from dora.analysis.settings_that_differ import sources, unlike
from dora.analysis.tables.layout import number_range
from dora.data.tasks import TASKS, labelled
from dora.records.about_data import other_sizes
from dora.records.about_method import adapter_parameters
from dora.records.place import Place, place_of
from dora.records.schema import Run

# Marks of a score with their explanations, in the order in which they stand.
MARKS = {
    "*": "* at least one run predicts a single class or value; a correlation of such a run counts as 0",
    "§": "§ at least one run was made with uncommitted changes",
    "‡": "‡ further from the published mean ± spread than the combined error",
}

COSTS_NOTE = (
    "the seconds are of training alone, mean over tasks of the mean over runs; the memory is the "
    "most that any run's process took: where one process trained several runs, what it still held "
    "of those before is in it"
)


def score_notes(
    table: Table, marks: set[str], bold: bool, untested: Sequence[str] = ()
) -> list[str]:
    """Returns the notes below the scores: sources, seeds, evaluations, bold, gaps, marks.

    `untested`: the names of the scores that no test compares with the bold one.
    """
    # First what makes a number no result at all: embedded data or model, random weights.
    said = {text for run in table.runs for text in (run["embedded"], run["note"]) if text}
    said |= _weights_said(table)
    seeds = len(table.seeds)
    if seeds > 1:
        of_seeds = f"mean ± standard deviation over {seeds} seeds"
    else:
        of_seeds = "one seed: no spread is known"
    found = [*sorted(said), of_seeds, _length_note(table), *_rows_notes(table)]
    found += [*_evaluation_notes(table), *_tuning_notes(table)]
    found += _average_notes(table)
    if bold:
        found.append(
            "bold: the best mean at its budget, of those that the seeds do not show to be lower; "
            f"underlined: the others of those (p ≥ {ALPHA}; {_tests_note(table)})"
        )
    if untested:
        found.append(
            f"not tested, and so not marked however high: {', '.join(untested)} (fewer than two "
            "seeds in common with the bold score)"
        )
    found += [f"left out: {text}" for text in table.left_out]
    found += [*_budgets_note(table), *_unequal_note(table), *_diverged_note(table)]
    found += [*_earlier_runs(table), *unlike(table), *sources(table)]
    return found + [text for mark, text in MARKS.items() if mark in marks]


def _budgets_note(table: Table) -> list[str]:
    """Returns the note on budgets that look alike: methods are compared at equal ones alone."""
    budgets: dict[str, set[str]] = {}
    for row in filter(has_budget, table.rows):
        budgets.setdefault(budget_in_words(row), set()).add(row[1])
    return [
        f"{shown} stands for budgets of {' and of '.join(sorted(its))}, which are not compared"
        for shown, its in budgets.items()
        if len(its) > 1
    ]


def _weights_said(table: Table) -> set[str]:
    """Returns what to say of weights from a folder, which may not be those of the model's name.

    All runs of a table have the same weights, though folders may differ in their names.
    """
    return {
        f"weights from the folder {Path(run['model']['path']).name} (model.path), fingerprint "
        f"{run['fingerprints']['model'][:8]}"
        for run in table.runs
        if run["model"].get("path")
    }


def _unequal_note(table: Table) -> list[str]:
    """Returns the note on rows that store fewer parameters than others at their budget."""
    fewer, by_rank = [], False
    for block in filter(lambda block: has_budget(block[0]), table.blocks):
        sizes = {row: [adapter_parameters(run) for run in table.runs_of(row)] for row in block}
        most = max((n for its in sizes.values() for n in its), default=0)
        below = [row for row, its in sizes.items() if its and min(its) < 0.99 * most]
        fewer += [
            f"{table.title(row[0])} {size_range(sizes[row])} of {size(most)}" for row in below
        ]
        by_rank = by_rank or any(row[1].startswith("r") for row in below)
    if not fewer:
        return []
    why = ", since a budget such as r8 is an average rank and no size" if by_rank else ""
    return [f"not equal in size, at one budget: {'; '.join(fewer)} parameters{why}"]


def _diverged_note(table: Table) -> list[str]:
    """Returns the note on runs that diverged: a mean over the others says nothing of them."""
    named = []
    for row, task in product(sorted({row for row, _ in table.diverged}, key=row_order), TASKS):
        if seeds := sorted(table.diverged.get((row, task), [])):
            budget = f" {budget_in_words(row)}" if has_budget(row) else ""
            which = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            named.append(f"{table.title(row[0])}{budget} on {TASKS[task].folder} ({which})")
    return [f"diverged, and in no number here: {'; '.join(named)}"] if named else []


def _tests_note(table: Table) -> str:
    """Returns which tests the marks of the scores use (`dora.analysis.comparison.leaders`)."""
    others = "corrected for all pairs of methods at a budget, Holm"
    if not any(row[0] == table.view.baseline for row in filter(has_budget, table.rows)):
        return others
    return f"pairs with {table.baseline}: as in the tables of differences; others: {others}"


def _average_notes(table: Table) -> list[str]:
    """Returns the note on the tasks that the average is over, if there is one."""
    if len(table.averaged) < 2:
        return []
    text = f"average: over {_folders(table.averaged)}"
    text += f", without {_folders(table.apart)}" if table.apart else ""
    if table.not_averaged:
        text += f"; not over {_folders(table.not_averaged)}, which there are runs of, too"
    return [text]


def _folders(tasks: Iterable[str]) -> str:
    """Returns tasks as tables name them, in GLUE's order."""
    return ", ".join(TASKS[task].folder for task in TASKS if task in set(tasks))


def _length_note(table: Table) -> str:
    """Returns the note on how long runs are: which method is best depends on it."""
    of_task: dict[str, list[tuple[int, int]]] = {}
    for run in table.runs:
        of_task.setdefault(run["config"]["task"], []).append(
            (run["total_steps"], run["config"]["batch_size"])
        )
    lengths = {
        task: f"{number_range([n for n, _ in its])} steps of {number_range([b for _, b in its])} "
        "examples"
        for task, its in of_task.items()
    }
    if len(set(lengths.values())) == 1:
        text = f"each run: {next(iter(lengths.values()))}"
    else:
        text = "; ".join(f"{TASKS[t].folder} {lengths[t]}" for t in TASKS if t in lengths)
        text = f"each run: {text}"
    return text + _ended_early(table)


def _ended_early(table: Table) -> str:
    """Returns how many runs `patience` ended before their last step; "" where it ended none."""
    runs = list(table.runs)
    ended = [
        run["results"]["last"]["step"]
        for run in runs
        if run["config"].get("patience") and run["results"]["last"]["step"] < run["total_steps"]
    ]
    if not ended:
        return ""
    return (
        f"; patience ended {len(ended):,} of {len(runs):,} runs after {number_range(ended)} steps"
    )


def _rows_notes(table: Table) -> list[str]:
    if table.data == "mini":  # which a note of its own says
        return []
    return other_rows_note(
        [run for row in table.rows for run in table.runs_of(row, task)] for task in table.tasks
    )


def other_rows_note(by_task: Iterable[Sequence[Run]]) -> list[str]:
    """Returns the note on tasks whose runs trained on, or are scored on, other rows than GLUE's.

    `by_task`: the runs of each task.
    """
    parts = list(filter(None, map(_other_rows, filter(None, by_task))))
    return [f"not GLUE's whole rows: {'; '.join(parts)}"] if parts else []


def _other_rows(runs: Sequence[Run]) -> str:
    """Says where runs of one task trained on, or are scored on, other rows than GLUE's; or "".

    As `CoLA trained on 64 rows (GLUE has 8,551)`. Why is left to the settings: a sample of the
    files, `limit_train`, or rows held out.
    """
    task = TASKS[runs[0]["config"]["task"]]
    used = [{**run["data"]["rows"], "train": run["data"]["train"]} for run in runs]
    said = []
    for split in filter(labelled, task.splits):
        numbers = [rows[split] for rows in used if split in rows]
        if any(other_sizes(task, {split: number}) for number in numbers):
            how = "trained" if split == "train" else "scored"
            which = "" if split in ("train", "dev") else f" of {split}"
            size = task.sizes[split]
            said.append(f"{how} on {number_range(numbers)} rows{which} (GLUE has {size:,})")
    return f"{task.folder} {', '.join(said)}" if said else ""


def _earlier_runs(table: Table) -> list[str]:
    """Returns a note on the runs that a cell's began at (`init_from`) or read (`method.runs`).

    A cell's score rests on what those were trained on, too: MNLI asks what RTE and WNLI ask.
    """
    learnt: dict[tuple[str, str], list[str]] = {}
    for row, task in product(table.rows, table.tasks):
        runs = table.runs_of(row, task)
        began = {TASKS[t].folder for run in runs if (t := _task_of_start(run)) in TASKS}
        sources_of = [of.get("task") for run in runs for of in run.get("sources", ())]
        read = {TASKS[t].folder for t in sources_of if t in TASKS}
        for what, tasks in (("began at runs on", began), ("read runs on", read)):
            if tasks:
                said = f"{what} {', '.join(sorted(tasks))}"
                learnt.setdefault((table.title(row[0]), said), []).append(TASKS[task].folder)
    found = [
        f"{title} on {', '.join(dict.fromkeys(tasks))} {said}"
        for (title, said), tasks in learnt.items()
    ]
    return [f"trained before: {'; '.join(found)}"] if found else []


def _task_of_start(run: Run) -> str | None:
    """Returns the task of the run that this one began at, by its directory's place."""
    # By its path, which tells the place whether or not the folder has been moved since.
    folder = Path(run.get("init_from") or "")
    return place_of(folder).task if len(folder.parts) >= len(Place._fields) else None


def _tuning_notes(table: Table) -> list[str]:
    """Returns the note on the search that chose the learning rates, if all runs come from one."""
    # A cell's runs have one rate. Some may have begun before its search was as large as it is now:
    # how well the rate is chosen is said by the most candidates that it was the best of.
    cells = [
        (row, task, max(runs, key=lambda run: run.get("tuning", {}).get("candidates", 0)))
        for row in table.rows
        for task in table.tasks
        if (runs := table.runs_of(row, task))
    ]
    found = [(row, task, run["tuning"]) for row, task, run in cells if "tuning" in run]
    if not found:
        return []
    candidates = number_range([t["candidates"] for _, _, t in found])
    seeds = number_range([t["seeds"] for _, _, t in found])
    edges = [
        f"{TASKS[task].folder} {table.title(row[0])}" for row, task, t in found if t["at_edge"]
    ]
    text = (
        f"tuned settings: the best of {candidates} candidates for each method and task, "
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} each, on held-out training rows; "
        f"{len(edges)} of {len(found)} rates at an edge of those tried"
    )
    text += f" ({', '.join(edges)})" if edges else ""
    if shorter := sorted({t["length"] for _, _, t in found if "length" in t}):
        text += f"; tried in runs of another length, {' and '.join(shorter)}"
    if other := sorted({t["data"] for _, _, t in found if "data" in t}):
        text += f"; tried on other data, {' and '.join(other)}"
    settings = {f"{k}={v}" for _, _, t in found for k, v in t.get("settings", {}).items()}
    if settings:
        text += f"; tried with other settings, {', '.join(sorted(settings))}"
    if len(found) < len(cells):
        other_rates = len(cells) - len(found)
        text += (
            f"; {other_rates} {'rate is' if other_rates == 1 else 'rates are'} from no such search"
        )
    return [text]


def _evaluation_notes(table: Table) -> list[str]:
    """Returns the notes on which evaluation of a run counts."""
    if table.view.score != "best":
        return ["the last development evaluation of a run"]
    counted = number_range([run["evaluations"]["counted"] for run in table.runs])
    chosen_on = {run["config"]["select"] for run in table.runs}
    if chosen_on == {"heldout"}:
        kind = "evaluations on held-out training rows"
    elif chosen_on == {"dev"}:
        kind = "development evaluations"
    else:
        kind = "evaluations on the development set or on held-out training rows"
    best = f"the best of {counted} {kind}"
    if counted == "1":
        best = f"the only {kind.replace('evaluations', 'evaluation', 1)}"
    found = [f"{best} in the second half of a run"]
    if not table.comparable:
        found.append(
            "runs of one task have unequal evaluations, so that no method is compared with "
            "another: see --score last"
        )
    # A run keeps one best evaluation; another metric is read from it, and may have been better.
    chosen = [t for t in table.tasks if table.view.metric(t) != TASKS[t].metrics[0]]
    if chosen:
        named = ", ".join(f"{t} {TASKS[t].metrics[0]}" for t in chosen)
        found.append(f"the best evaluation is still that by {named}")
    return found


def difference_notes(found: Sequence[Difference], shown: bool, baseline: str) -> list[str]:
    """Returns the notes below a table of differences from `baseline`.

    `shown`: with intervals over examples.
    """
    family = max(d.family for d in found)
    notes = [
        "points, paired by seed; p corrected for the number of comparisons in this table, "
        f"{family} (Holm), intervals not; bold: p < {ALPHA}; P(better): that a run of the method "
        f"beats one of {baseline}"
    ]
    if not all(math.isnan(d.detectable) for d in found):
        notes.append(
            "shown with 80 % power: the true difference that as many seeds with this spread would "
            f"show at Holm's first step, p < {ALPHA / family:.2g}, in four studies of five"
        )
    if any(d.task is None for d in found):
        notes.append("average: its error is that of each task's seeds, taken as independent")
    constant = {task for d in found if d.task is None for task in d.constant}
    if constant:
        notes.append(
            "average: too certain where every seed gives the same difference on "
            f"{_folders(constant)}, whose error counts as 0"
        )
    if any(d.estimate.error == 0 for d in found):
        notes.append(
            "no interval: every seed gives the same difference, which leaves its error unknown; "
            "p –, and 1 for a difference of 0"
        )
    if shown:
        notes.append(
            "[95 %, examples]: over resamples of the development examples, the seeds as they are"
        )
    return notes
