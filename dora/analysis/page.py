"""`python -m dora.report`: one self-contained page of a study, results/report.html.

Tables to sort and filter, the figures, each run's configuration a click away; it works from a file, without a network.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from collections.abc import Sequence
from html import escape as escaped
from pathlib import Path
from typing import Any

from dora import ASSETS
from dora.analysis import figures
from dora.analysis.contents import grids
from dora.analysis.grouping import Table, budget_in_words, dirty
from dora.analysis.layout import Grid
from dora.analysis.text import holes
from dora.plain import printable
from dora.records import study
from dora.records.schema import Run
from dora.records.words import command_of

TEMPLATE = ASSETS / "report.html"
# What of run.json a click shows; the rest is in the tables or in the file.
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


def escape(text: str) -> str:
    """Any text as HTML shows it, marks that turn its direction included."""
    return escaped(printable(text, kept="\n"))


def table_html(grid: Grid, name: str) -> str:
    """The table with a button in every head cell, and its notes."""
    head = "".join(f'<th scope="col"><button>{escape(text)}</button></th>' for text in grid.head)
    body = []
    for i, row in enumerate(grid.rows):
        cells = [
            f"<b>{escape(v)}</b>" if (i, j) in grid.bold else escape(v) for j, v in enumerate(row)
        ]
        body.append(
            f"<tr{' class=rule' * (i in grid.rules)}>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
        )
    notes = "".join(f"<li>{escape(note)}</li>" for note in grid.notes)
    return (
        f'<div class="wide"><table id="{name}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def figures_html(table: Table, folder: Path) -> str:
    """Every figure as an image inside the page."""
    parts = []
    for name in figures.written(table, folder):
        kind = name.removeprefix(f"{table.name}-")
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        caption = " ".join((figures.FIGURES[kind].__doc__ or kind).split("\n\n")[0].split())
        parts.append(
            f'<figure><img alt="{kind}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "".join(parts)


def section(table: Table, name: str, seen: Sequence[study.Seen], folder: Path) -> str:
    """Tables and figures of one data source and model, and what is missing."""
    first, *rest = grids(table)
    parts = [f'<h2 id="{name}">{escape(first.caption)}</h2>', table_html(first, f"{name}-0")]
    for i, grid in enumerate(rest, 1):
        parts += [
            f"<h3>{escape(grid.caption.partition(': ')[2])}</h3>",
            table_html(grid, f"{name}-{i}"),
        ]
    if missing := holes(table, seen):
        lines = escape("\n".join(missing))
        parts.append(
            f"<h3>missing runs</h3><details><summary>{len(missing)} commands</summary><pre>{lines}</pre></details>"
        )
    return "".join([*parts, "<h3>figures</h3>", figures_html(table, folder)])


def place_of(run: Run) -> str:
    """Where the run lies under results/runs."""
    return "/".join(run["folder"].parts[-7:])


def runs_html(found: Sequence[Table]) -> str:
    """Every run in one table with a filter above it."""
    head = [
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
        "run",
    ]
    rows = []
    for table in found:
        for run in sorted(table.runs, key=lambda run: run["folder"]):
            data, task, model, method, budget, _, seed = run["folder"].parts[-7:]
            value = table.view.value(run, task)
            cells = [
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
                ((run["git"] or {}).get("commit") or "–")[:7] + "†" * dirty(run),
            ]
            button = f'<td><button data-run="{escape(place_of(run))}">configuration</button></td>'
            rows.append(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in cells)}{button}</tr>")
    heads = "".join(f'<th scope="col"><button>{name}</button></th>' for name in head)
    return (
        '<h2 id="runs">Runs</h2><p><input type="search" data-table="all-runs" placeholder="filter: words, as sst2 dora" '
        'aria-label="filter the runs"> <span id="all-runs-count"></span></p><div class="wide"><table id="all-runs">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def page(found: Sequence[Table], seen: Sequence[study.Seen], figures: Path) -> str:
    """The whole page; `figures`: the folder of the figures, which are drawn where they are not there."""
    names = [f"table-{i}" for i in range(len(found))]
    links = "".join(
        f'<a href="#{name}">{escape(t.model)}, {escape(t.data)}</a>'
        for name, t in zip(names, found, strict=True)
    )
    made_by = escape(f"python -m dora.report {shlex.join(sys.argv[1:])}".strip())
    total = sum(len(list(table.runs)) for table in found)
    body = [
        f"<h1>GLUE results</h1><p>{total:,} finished runs; made by <code>{made_by}</code></p>",
        f'<nav>{links}<a href="#runs">runs</a></nav>',
        *(section(t, name, seen, figures) for name, t in zip(names, found, strict=True)),
        runs_html(found),
    ]
    records: dict[str, Any] = {
        place_of(run): _clicked(run) for table in found for run in table.runs
    }
    # A "<" could end the script element that the records stand in.
    data = json.dumps(records, allow_nan=False).replace("<", "\\u003c")
    before, middle, after = _split(TEMPLATE.read_text(encoding="utf-8"))
    return "".join([before, *body, middle, data, after])


def _clicked(run: Run) -> dict[str, Any]:
    """What a click on a run shows, its command as a shell takes it among it."""
    command = command_of(
        run.get("words"), run["folder"], f"# {printable(place_of(run))}: no command is known"
    )
    return {**{k: run[k] for k in _SHOWN if k in run}, "typed": command}


def _split(template: str) -> tuple[str, str, str]:
    before, _, rest = template.partition("<!--BODY-->")
    middle, _, after = rest.partition("<!--RECORDS-->")
    return before, middle, after
