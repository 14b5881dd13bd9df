"""The main job on what is embedded: the four methods at one budget, the same with random weights, their tables.

python scripts/demo.py [--results results] [--task cola]
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Runs what a user would type, one command after the other; exit 1 where one fails."""
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
            "model.random_weights=false,true",
            f"results={given.results}",
        ],
        ["dora.tables", "--results", given.results],
    ]
    for command in commands:
        print(f"\n$ python -m {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
            sys.exit(1)


if __name__ == "__main__":
    main()
