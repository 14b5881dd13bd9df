"""`python -m dora.tune`: searches rates and settings, with equal effort for every method."""

from __future__ import annotations

import argparse
import sys

DESCRIPTION = """\
Searches settings before a study: as many candidates for every method, task and budget, each with as
many seeds, scored on a held-out part of the training set. Candidates are ordinary runs: the
same command goes on where it was stopped, and hydra/launcher=slurm makes them jobs.

  python -m dora.tune experiment=study_base data.dir=GLUE
  python -m dora.tune task=sst2,mrpc method=full,lora,adalora,dora budget=331776 model=minilm \\
      data=dir data.dir=GLUE max_steps=600 eval_every=100 results=results/mine

All other words are settings, as python -m dora.run takes them, without lr, seed, select and
rates_from, which a search sets itself; force=true trains its candidates again. The first three are
half of the rate that a run without lr takes, that rate and twice it; then one at a time, beyond the
best one while it lies at an edge, else in the middle of the wider gap beside it. The last of a
method whose YAML names a setting of its own (_tune_: {dem: [0.3, 0.5]}) are that setting's other
values, at the best rate; method._tune_=null leaves all of them to the rate.
RESULTS/search/choices.json holds every score, of earlier commands for other methods or tasks too; a
study reads it with rates_from=RESULTS/search/choices.json."""


def _seeds(text: str) -> list[int]:
    """Returns the seeds in `1,2`. Raises ArgumentTypeError where they are not what seeds can be."""
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        seeds = []
    # 01 and 1 are one seed.
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(
            f"{text} must be different whole numbers from 0, such as 1,2"
        )
    return seeds


def main() -> None:
    """Turns the options into settings of the sweeper, and hands all words to `dora.run`.

    Exits as `dora.run` does.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dora.tune",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--candidates", type=int, default=6, help="of each search (default: 6)")
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default="1,2",
        metavar="SEED,…",
        help="seeds of each candidate (default: 1,2)",
    )
    given, words = parser.parse_known_args()
    if shown := [w for w in words if w.partition("=")[0] in ("-c", "--cfg", "-i", "--info")]:
        parser.error(f"{shown[0]} shows one run's configuration: give it to python -m dora.run")
    sys.argv[1:] = [
        "-m",
        "hydra/sweeper=tune",
        f"hydra.sweeper.candidates={given.candidates}",
        f"hydra.sweeper.seeds={given.seeds}",
        *words,
    ]
    from dora.run import main as run  # late: --help needs no Hydra

    run()


if __name__ == "__main__":
    from dora.process.command import command

    command(main, prints_only=False)
