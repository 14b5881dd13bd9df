"""Shows the learning rates that a search found best, and every score that it saw.

    python scripts/rates.py results/study_tiny/search

Prints the best rates as `rates:` for a study's YAML. Reads the finished runs with `select=heldout`
under the folder. The score is the task's first metric on the held-out part of the training set, at
the best evaluation of the second half of the run; the development set plays no part. A rate at an
edge of its grid is marked: a rate beyond might be better still. Exits 1 if the methods of a task
had unequal numbers of rates to choose from, or unequal numbers of seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from dora.analysis.grouping import read_runs
from dora.data.tasks import TASKS
from dora.records.schema import Run

Key = tuple[str, str, str]  # model, task, method
Found = dict[Key, dict[float, list[float]]]


def collect(runs: list[Run]) -> Found:
    """Returns (model, task, method) → rate → held-out scores in points, one for each seed.

    An undefined score counts as 0.
    """
    found: Found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        task, config = run["config"]["task"], run["config"]
        if config["select"] == "heldout":
            # Undefined for STS-B where all predictions are equal, as after a rate far too high.
            score = run["results"]["best"].get(f"{TASKS[task].metrics[0]}_heldout", 0.0)
            model = run["folder"].parts[-5]
            found[model, task, config["method"]["name"]][config["lr"]].append(100 * score)
    return dict(sorted(found.items()))


def unequal(found: Found) -> list[str]:
    """Returns the tasks whose methods were searched with unequal effort."""
    effort = defaultdict(set)
    for (model, task, _), by_rate in found.items():
        # The numbers of seeds, a number for each rate, whichever the rates are.
        effort[model, task].add(tuple(sorted(len(scores) for scores in by_rate.values())))
    return sorted({task for (_, task), kinds in effort.items() if len(kinds) > 1})


def best(by_rate: dict[float, list[float]]) -> float:
    """Returns the rate with the highest mean, the lowest of equal ones."""
    # `max` takes the first of equals.
    return max(sorted(by_rate), key=lambda rate: statistics.mean(by_rate[rate]))


def at_edge(by_rate: dict[float, list[float]]) -> bool:
    """Returns True if the best rate is the lowest or highest that was tried."""
    return best(by_rate) in (min(by_rate), max(by_rate))


def table(found: Found) -> list[str]:
    """Returns a Markdown table with a line for each search, and a summary of the edges chosen."""
    models = len({model for model, _, _ in found}) > 1  # one model needs no column
    names = [*(["model"] if models else []), "task", "method", "rate: held-out score"]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for key, by_rate in found.items():
        cells = [_cell(by_rate, rate) for rate in sorted(by_rate)]
        lines.append(f"| {' | '.join([*(key if models else key[1:]), ', '.join(cells)])} |")
    edges = [
        " ".join(key if models else key[1:]) for key, by_rate in found.items() if at_edge(by_rate)
    ]
    summary = f"{len(edges)} of {len(found)} searches chose a rate at an edge of their grid"
    return [*lines, "", summary + (f": {', '.join(edges)}" if edges else "")]


def _cell(by_rate: dict[float, list[float]], rate: float) -> str:
    """Returns `0.002: 7.6`, in bold if it was chosen, and marked if that was at an edge."""
    text = f"{rate:g}: {statistics.mean(by_rate[rate]):.1f}"
    if rate != best(by_rate):
        return text
    return f"**{text}** (edge)" if at_edge(by_rate) else f"**{text}**"


def main() -> None:
    """Prints a Markdown table of the search and the YAML of its winners."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the results folder of the search")
    found = collect(read_runs(parser.parse_args().results))
    if not found:
        sys.exit("no finished run with select=heldout there")
    print("\n".join(table(found)))
    models = list(dict.fromkeys(model for model, _, _ in found))
    # One block for each model: a study's YAML holds the rates of one.
    for model in models:
        print("\nrates:" if len(models) == 1 else f"\nrates:  # {model}")
        for task in TASKS:
            rates = {
                method: best(by_rate)
                for (m, t, method), by_rate in found.items()
                if (m, t) == (model, task)
            }
            if rates:
                print(f"  {task}: {{{', '.join(f'{m}: {rate:g}' for m, rate in rates.items())}}}")
    # Last: the table above shows where a search is missing.
    if odd := unequal(found):
        sys.exit(f"unequal effort in {', '.join(odd)}: search on before choosing")


if __name__ == "__main__":
    main()
