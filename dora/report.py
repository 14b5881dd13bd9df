"""`python -m dora.report`: one self-contained page of a study, results/report.html."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

from dora.analysis.page.page import page
from dora.analysis.studies import made_by
from dora.cli.options import asked_for, writing
from dora.files import write_atomic
from dora.process.command import command


def main() -> None:
    """Writes results/report.html.

    Exit 2 where there is nothing to show, or where the page of another study would be overwritten,
    3 where cells are left out, 1 where the disk failed.
    Every choice that is no default is in the page's name, so that no page overwrites another's:
    `report-last-lr=0.002.html`.
    """
    asked = asked_for("dora.report", __doc__)
    view = asked.tables[0].view
    last = [view.score] if view.score != "best" else []
    lengths = ["by-length"] if view.by_length else []
    name = "-".join(["report", *last, *view.scoring, *lengths])
    path = asked.folder("") / f"{name}{view.suffix}.html"
    asked.refuse_overwriting([[path.name]])
    asked.note_searches()
    with writing():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = made_by("report", asked.results)
        write_atomic(path, page(asked.tables, asked.seen, made))
    print(path)
    asked.end()


if __name__ == "__main__":
    command(main)
