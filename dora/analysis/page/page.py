"""The report: one self-contained page of a study, as HTML.

Tables to sort, runs to filter, to look at and to compare, figures that follow the filter. The page
works from a file, without a network. Its shape is assets/report/report.html, a Jinja template; the
style and the scripts beside it are put into it.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from dora.analysis.other_runs import holes
from dora.analysis.page.study_data import study_data, title_of
from dora.analysis.table import Table
from dora.analysis.tables.contents import grids
from dora.package import ASSETS
from dora.plain import printable
from dora.records import study

FOLDER = ASSETS / "report"
TEMPLATE, STYLE = "report.html", "report.css"
# In the order in which they stand in the page: each uses what those before it define.
SCRIPTS = (
    "study.js",
    "estimates.js",
    "filter.js",
    "tables.js",
    "chart.js",
    "score_figures.js",
    "training_figures.js",
    "dialogs.js",
    "main.js",
)


def _shown(value: Any) -> Any:
    """Returns a value as the template prints it: text with escapes for all that does not print.

    Markup that the template itself has made stays as it is.
    """
    if isinstance(value, Markup):
        return value
    text = str(value)
    # Nearly every text is printable: looked at once, not character by character.
    return text if text.isprintable() else printable(text, kept="\n")


@functools.cache
def template() -> Template:
    """Returns the page's template.

    Every value that it prints is escaped twice over: `printable` spells out control characters and
    marks that turn the text's direction, and Jinja's autoescape replaces the characters of HTML.
    """
    # By `finalize` and autoescape, not by filters: no expression of the template can forget them.
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # For `tojson`, which also escapes "<": it could end the script element of the records. A NaN
    # is no JSON, and would leave the page without any record.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template(TEMPLATE)


def page(found: Sequence[Table], seen: Sequence[study.Seen], generator: str) -> str:
    """Returns the whole page.

    `seen`: all runs of the results folder, done or not. `generator`: the command and its study.
    """
    return template().render(
        total=sum(len(list(table.runs)) for table in found),
        made_by=f"python -m dora.report {shlex.join(sys.argv[1:])}".strip(),
        sections=[
            {"link": title_of(table), "grids": grids(table), "missing": holes(table, seen)}
            for table in found
        ],
        generator=generator,
        study=study_data(found),
        style=_asset(STYLE),
        scripts=[_asset(name) for name in SCRIPTS],
    )


def _asset(name: str) -> Markup:
    """Returns a file of the package as it is: it is no text of a record, which would be escaped."""
    return Markup((FOLDER / name).read_text("utf-8"))
