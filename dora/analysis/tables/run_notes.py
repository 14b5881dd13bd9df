"""Notes on how the runs of a table were made: weights, seeds, lengths, rows, evaluations, rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from dora.analysis.table import Table
from dora.data.tasks import TASKS, labelled
from dora.plain import number_range
from dora.records.about_data import other_sizes
from dora.records.place import Place, place_of
from dora.records.schema import Run


def run_notes(table: Table) -> list[str]:
    """Returns the notes on the runs of a table, in the order in which they stand below it."""
    # First what makes a number no result at all: embedded data or model, random weights.
    said = {text for run in table.runs for text in (run["embedded"], run["note"]) if text}
    said |= _weights_said(table)
    found = [*sorted(said), _seeds_note(table), _length_note(table), *_rows_notes(table)]
    return [*found, *_evaluation_notes(table), *_tuning_notes(table)]


def _seeds_note(table: Table) -> str:
    """Returns the note on how many seeds a mean is over, by the cell that has most scores."""
    seeds = len(table.seeds)
    most = max(len(table.values(row, task)) for row in table.rows for task in table.tasks)
    if most < 2:
        return f"one seed{' a cell' if seeds > 1 else ''}: no spread is known"
    # Cells of other seeds, as 1 to 3 and 4 to 6: `n = 3/6` beside a score says the rest.
    which = f"{most} seeds" if most == seeds else f"at most {most} of {seeds} seeds"
    return f"mean ± standard deviation over {which}"


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


def _length_note(table: Table) -> str:
    """Returns the note on how long runs are: which method is best depends on it."""
    of_task: dict[str, list[Run]] = {}
    for run in table.runs:
        of_task.setdefault(run["config"]["task"], []).append(run)
    # A client's last batch of an epoch is smaller, and clients have many epochs of few rows.
    most = "at most " if any("federation" in run for run in table.runs) else ""
    lengths = {
        task: f"{number_range([run['total_steps'] for run in its])} steps of {most}"
        f"{number_range([run['config']['batch_size'] for run in its])} examples of at most "
        f"{number_range([run['config']['max_length'] for run in its])} tokens"
        for task, its in of_task.items()
    }
    if len(set(lengths.values())) == 1:
        text = next(iter(lengths.values()))
    else:
        text = "; ".join(f"{TASKS[t].folder} {lengths[t]}" for t in TASKS if t in lengths)
    return f"each run: {text}{_ended_early(table)}"


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
            "runs of one task have unequal evaluations (in number, steps, or the rows that choose "
            "the best), so that no method is compared with another: see --score last"
        )
    # A run keeps one best evaluation; another metric is read from it, and may have been better.
    chosen = [t for t in table.tasks if table.view.metric(t) != TASKS[t].metrics[0]]
    if chosen:
        named = ", ".join(f"{TASKS[t].folder} {TASKS[t].metrics[0]}" for t in chosen)
        found.append(f"the best evaluation is still that by {named}")
    return found


def _tuning_notes(table: Table) -> list[str]:
    """Returns the note on the search that chose the learning rates, if all runs come from one."""
    # A cell's runs have one rate. Some may have begun before its search was as large as it is now:
    # the run with most candidates says how well the rate was chosen.
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
        f"{TASKS[task].folder} {table.title(row.method)}" for row, task, t in found if t["at_edge"]
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
    untuned = [
        f"{TASKS[task].folder} {table.title(row.method)}"
        for row, task, run in cells
        if "tuning" not in run
    ]
    if untuned:
        are = "rate is" if len(untuned) == 1 else "rates are"
        text += f"; {len(untuned)} {are} from no such search ({', '.join(untuned)})"
    return [text]


def earlier_runs(table: Table) -> list[str]:
    """Returns a note on earlier runs that a cell's runs began at (`init_from`) or read.

    A method reads the runs that its setting `method.runs` names. The score depends on their tasks,
    too: MNLI asks what RTE and WNLI ask.
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
                learnt.setdefault((table.title(row.method), said), []).append(TASKS[task].folder)
    found = [
        f"{title} on {', '.join(dict.fromkeys(tasks))} {said}"
        for (title, said), tasks in learnt.items()
    ]
    return [f"trained before: {'; '.join(found)}"] if found else []


def _task_of_start(run: Run) -> str | None:
    """Returns the task of the run that this one began at; None without one."""
    # The recorded path names the task, wherever the folder lies now.
    folder = Path(run.get("init_from") or "")
    return place_of(folder).task if len(folder.parts) >= len(Place._fields) else None
