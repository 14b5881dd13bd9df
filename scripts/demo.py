"""Trains four methods on the embedded model and data, prints their tables, draws their figures.

    python scripts/demo.py [--results results] [--task cola]

All methods have budget r8, and train from pretrained and from random weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Runs the commands that a user would type, one after the other. Exits 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", default="results", help="the results folder (default: results)"
    )
    parser.add_argument("--task", default="cola", help="a GLUE task (default: cola)")
    given = parser.parse_args()
    commands = [
        [
            "dora.run",
            "-m",
            f"task={given.task}",
            "method=full,lora,adalora,dora",
            "budget=r8",
            "model.random_weights=false,true",  # the difference is what pretraining gives
            f"results={given.results}",
        ],
        ["dora.tables", "--results", given.results],
        ["dora.plots", "--results", given.results],
    ]
    # In processes of their own, so that the demo shows what the commands themselves say.
    for command in commands:
        print(f"\n$ python -m {' '.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
        # 3: all is made, less what is named, such as cells of earlier runs with other settings.
        if code not in (0, 3):
            sys.exit(1)


if __name__ == "__main__":
    main()
