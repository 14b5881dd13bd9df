"""Trains as `python -m dora.run` does; the second of several processes fails in step 5."""

import os

from dora.run import main
from dora.training.step import Stepper

_take = Stepper.take


def take(self, step):
    """Takes the step, unless it is the one that fails."""
    if step == 5 and os.environ["RANK"] == "1":
        raise ValueError("a fault of one process")
    return _take(self, step)


if __name__ == "__main__":
    Stepper.take = take
    main()
