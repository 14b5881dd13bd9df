"""The learning rates that a search found best, as the `rates:` of a study's YAML, and every score it saw.

    python scripts/rates.py results/study_tiny/search

Reads the finished runs with `select=heldout` under the folder. The score is the task's first metric on the held-out
part of the training set, at the best evaluation of the second half; the development set plays no part. Exit 1 where
the methods of a task had unequal numbers of rates to choose from, or unequal numbers of seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from dora.cells import Run, read_runs
from dora.data.tasks import TASKS

Found = dict[tuple[str, str], dict[float, list[float]]]


def collect(runs: list[Run]) -> Found:
    """(task, method) → rate → held-out scores in points, one a seed; a score that is not defined counts as 0."""
    found: Found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        task, config = run["config"]["task"], run["config"]
        if config["select"] == "heldout":
            score = run["results"]["best"].get(f"{TASKS[task].metrics[0]}_heldout", 0.0)
            found[task, config["method"]["name"]][config["lr"]].append(100 * score)
    return found


def unequal(found: Found) -> list[str]:
    """Tasks whose methods were not searched with the same effort."""
    effort = defaultdict(set)
    for (task, _), by_rate in found.items():
        effort[task].add(tuple(sorted(len(scores) for scores in by_rate.values())))
    return [task for task, kinds in effort.items() if len(kinds) > 1]


def best(by_rate: dict[float, list[float]]) -> float:
    """The rate with the highest mean; of equal ones the lowest."""
    return max(sorted(by_rate), key=lambda rate: statistics.mean(by_rate[rate]))


def main() -> None:
    """Prints a Markdown table of the search and the YAML of its winners."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the results folder of the search")
    found = collect(read_runs(parser.parse_args().results))
    if not found:
        sys.exit("no finished run with select=heldout there")
    print("| task | method | rate: held-out score |\n| --- | --- | --- |")
    for (task, method), by_rate in sorted(found.items()):
        chosen = best(by_rate)
        scores = (
            f"{'**' if rate == chosen else ''}{rate:g}: {statistics.mean(by_rate[rate]):.1f}{'**' if rate == chosen else ''}"
            for rate in sorted(by_rate)
        )
        print(f"| {task} | {method} | {', '.join(scores)} |")
    print("\nrates:")
    for task in TASKS:
        rates = {m: best(by_rate) for (t, m), by_rate in sorted(found.items()) if t == task}
        if rates:
            print(f"  {task}: {{{', '.join(f'{m}: {rate:g}' for m, rate in rates.items())}}}")
    if odd := unequal(found):
        sys.exit(f"unequal effort in {', '.join(odd)}: search on before choosing")


if __name__ == "__main__":
    main()
