"""Writes the tables of the committed records into the pages that show them.

    python scripts/results_page.py [PAGE ...]
    python scripts/results_page.py --check [PAGE ...]    # exit code 1 if a page is out of date

Without PAGE: README.md and all pages in results/. A page marks each place with a comment
`<!-- KIND NAME -->`, where NAME is relative to the page; the text up to `<!-- end -->` is replaced:

    pruned FOLDERS   AdaLoRA and DoRA less LoRA in all runs of neighbouring folders, A/B,C
    verdict FOLDERS  the same without p and power, for a page that links to the other
    changes FOLDER   the same at each length of a run, and how it changes from one to the next
    variants FOLDER  a method's settings beside each other, and what each of them does
    tables FOLDER    scores of the runs in a folder, and differences from LoRA
    search FOLDER    the table of a search of learning rates
    bench FILE       the measurements in a file of `python -m dora.bench`

All other text on the page is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from blocks.dynamic_rank import changes, pruned, verdict
from blocks.searches import of_runs
from blocks.variants import variants

from dora.analysis.grouping import tables
from dora.analysis.tables.contents import findings
from dora.analysis.tables.files import report
from dora.analysis.tables.searches import table
from dora.analysis.view import View
from dora.files import write_atomic
from dora.records.finished import read_runs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "results").rglob("*.md"))]
# `.*?`: up to the nearest end, or the first block would reach to the last.
BLOCK = re.compile(
    r"(<!-- (pruned|verdict|changes|variants|tables|search|bench) (\S+) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


def shown(folder: Path) -> str:
    """Returns scores and differences of every table that the runs under `folder` make.

    A table for each number of steps if a model's runs have several.
    """
    runs = read_runs(folder)
    lengths = {(run["config"]["model"], run["total_steps"]) for run in runs}
    several = len(lengths) > len({model for model, _ in lengths})
    return "\n\n".join(report(findings(table)) for table in tables(runs, View(by_length=several)))


def searched(folder: Path) -> str:
    """Returns the table of the searches of learning rates whose runs lie under `folder`."""
    return "\n".join(table(of_runs(read_runs(folder))))


def measured(file: Path) -> str:
    """Returns the command, its place, and the tables of steps, whole runs and start-up in a file."""
    # Late: they need PyTorch, and most pages hold no benchmark.
    from dora.timing.measure import table as steps_table
    from dora.timing.setting import Setting
    from dora.timing.whole_run import runs_table

    found = json.loads(file.read_text(encoding="utf-8"))
    v, git = found["versions"], found["git"]
    changed = " (changed)" if git["dirty"] else ""
    where = f"commit {git['commit'][:7]}{changed}, {found['cpus']} CPU cores, Python {v['python']}"
    versions = ", ".join(f"{name} {v[name]}" for name in ("torch", "transformers"))
    peft = f", PEFT {found['compared']['peft']}" if "peft" in found["compared"] else ""
    # A load far above the candidates' threads: something else was at work, and times are too long.
    loads = " and ".join(f"{found[when][0]:.1f}" for when in ("load_before", "load_after"))
    parts = [
        f"    {found['command']}",
        f"{where}, {versions}{peft}; load average before and after: {loads}.",
    ]
    parts += [
        "\n".join(steps_table(Setting(**t["setting"]), t["figures"]))
        for t in found.get("tables", [])
    ]
    parts += ["\n".join(runs_table(t["setting"], t["figures"])) for t in found.get("runs", [])]
    if "startup" in found:
        rows = [
            f"| {name} | {f['wall_s']:.1f} | {f['cpu_s']:.1f} |"
            for name, f in found["startup"].items()
        ]
        parts.append("\n".join(["| start-up | seconds | CPU-seconds |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


MAKERS = {
    "pruned": pruned,
    "verdict": verdict,
    "changes": changes,
    "variants": variants,
    "tables": shown,
    "search": searched,
    "bench": measured,
}


def page(path: Path) -> str:
    """Returns the page's text with every block made anew."""

    def block(found: re.Match[str]) -> str:
        begin, kind, folder, end = found.groups()
        return f"{begin}\n{MAKERS[kind](path.parent / folder)}\n\n{end}"

    return BLOCK.sub(block, path.read_text(encoding="utf-8"))


def main() -> None:
    """Writes the pages; with --check compares them instead, and exits 1 if one is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES, help="Markdown files")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    given = parser.parse_args()
    for file in given.pages:
        text = page(file)
        if not given.check:
            write_atomic(file, text)
        elif text != file.read_text(encoding="utf-8"):
            sys.exit(f"{file} does not show what the records say: python scripts/results_page.py")


if __name__ == "__main__":
    main()
