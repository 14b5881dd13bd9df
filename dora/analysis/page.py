"""The report: one self-contained page of a study, as HTML.

Tables to sort and filter, the figures, each run's configuration a click away. The page works from a
file, without a network. Its shape is assets/report.html, a Jinja template.
"""

from __future__ import annotations

import base64
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from dora import ASSETS
from dora.analysis import figures
from dora.analysis.contents import grids
from dora.analysis.grouping import Table, dirty
from dora.analysis.rows import budget_in_words
from dora.analysis.text import holes
from dora.plain import printable
from dora.records import study
from dora.records.schema import Run
from dora.records.words import command_of

TEMPLATE = "report.html"
# Keys of run.json that a click shows; the rest is in the tables or in the file.
_SHOWN = (
    "words",
    "command",
    "config",
    "arithmetic",
    "results",
    "params",
    "plan",
    "evaluations",
    "data",
    "model",
    "fingerprints",
    "starts",
    "versions",
    "host",
    "platform",
    "times",
    "train_s",
    "peak_memory_bytes",
)
RUN_COLUMNS = (
    "data",
    "task",
    "model",
    "method",
    "budget",
    "seed",
    "score",
    "value",
    "at step",
    "adapter parameters",
    "training s",
    "commit",
)


def _shown(value: Any) -> Any:
    """Returns a value as the template prints it: text with escapes for all that does not print.

    Markup that the template itself has made stays as it is.
    """
    if isinstance(value, Markup):
        return value
    text = str(value)
    # Nearly every text is printable, and an image is a megabyte: looked at once, not by character.
    return text if text.isprintable() else printable(text, kept="\n")


@functools.cache
def template() -> Template:
    """Returns the page's template.

    Every value that it prints is escaped twice over: `printable` spells out control characters and
    marks that turn the text's direction, and Jinja's autoescape replaces the characters of HTML.
    """
    # By `finalize` and autoescape, not by filters: no expression of the template can forget them.
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # For `tojson`, which also escapes "<": it could end the script element of the records. A NaN
    # is no JSON, and would leave the page without any record.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(TEMPLATE)


def page(found: Sequence[Table], seen: Sequence[study.Seen], folder: Path) -> str:
    """Returns the whole page; `folder` holds the figures, drawn now where they are not there."""
    return template().render(
        total=sum(len(list(table.runs)) for table in found),
        made_by=f"python -m dora.report {shlex.join(sys.argv[1:])}".strip(),
        sections=[_section(table, seen, folder) for table in found],
        run_columns=RUN_COLUMNS,
        runs=run_lines(found),
        records={place_of(run): _clicked(run) for table in found for run in table.runs},
    )


def _section(table: Table, seen: Sequence[study.Seen], folder: Path) -> dict[str, Any]:
    """Returns the tables and figures of one data source and model, and its missing runs."""
    return {
        "link": f"{table.model}, {table.data}",
        "grids": grids(table),
        "missing": holes(table, seen),
        "figures": drawn(table, folder),
    }


def drawn(table: Table, folder: Path) -> list[dict[str, str]]:
    """Returns every figure of the table, its PNG in base64 so that the page holds it."""
    found = []
    for name in figures.written(table, folder):
        kind = name.removeprefix(f"{table.name}-")
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        found.append({"kind": kind, "data": data, "caption": figures.FIGURES[kind].caption})
    return found


def place_of(run: Run) -> str:
    """Returns the run's place under results/runs."""
    return "/".join(run["folder"].parts[-7:])


def run_lines(found: Sequence[Table]) -> list[tuple[str, list[str]]]:
    """Returns (place, cells of RUN_COLUMNS) of every run, table by table."""
    return [
        (place_of(run), _run_cells(table, run))
        for table in found
        for run in sorted(table.runs, key=lambda run: run["folder"])
    ]


def _run_cells(table: Table, run: Run) -> list[str]:
    data, task, model, method, budget, _, seed = run["folder"].parts[-7:]
    value = table.view.value(run, task)
    commit = ((run["git"] or {}).get("commit") or "–")[:7]
    return [
        data,
        task,
        model,
        method,
        budget_in_words((method, budget)),
        seed[1:],
        table.view.title(task),
        "–" if value is None else f"{value:.2f}",
        str(run["results"][table.view.score]["step"]),
        f"{run['params']['adapter_end']:,}",
        f"{run['train_s']:.0f}",
        f"{commit}†" if dirty(run) else commit,
    ]


def _clicked(run: Run) -> dict[str, Any]:
    """Returns what a click on a run shows: parts of its record, and its command for a shell."""
    # Quoted and checked: a reader may paste it, and the record may be somebody else's.
    unknown = f"# {printable(place_of(run))}: no command is known"
    command = command_of(run.get("words"), run["folder"], unknown)
    return {**{k: run[k] for k in _SHOWN if k in run}, "typed": command}
