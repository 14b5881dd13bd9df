"""The main job on what is embedded: the four methods at one budget, then their table.

python scripts/demo.py [--results results] [--task sst2]
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Runs each method as a user would; stops at the first that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", default="results", help="the results folder (default: results)")
    parser.add_argument("--task", default="sst2", help="a GLUE task (default: sst2)")
    given = parser.parse_args()
    for method in ("full", "lora", "adalora", "dora"):
        words = [f"task={given.task}", f"method={method}", "budget=r8", f"results={given.results}"]
        print(f"\n$ python -m dora.run {' '.join(words)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "dora.run", *words], check=False).returncode
        if code:
            sys.exit(code)
    print()
    sys.exit(
        subprocess.run(
            [sys.executable, "-m", "dora.tables", "--results", given.results], check=False
        ).returncode
    )


if __name__ == "__main__":
    main()
