"""What can go wrong in a way the user should hear about, each with its exit code."""

from __future__ import annotations

from collections.abc import Callable


class UserError(Exception):
    """A mistake in what was asked for. Holds every problem found, not only the first; exit code 2."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        many = len(problems) > 1
        super().__init__("\n".join(f"  - {p}" if many else p for p in problems))


class RunFailed(Exception):
    """The run ended without a result it may report (divergence, a missed budget); exit code 1."""

    exit_code = 1


class Stopped(Exception):
    """A signal asked the run to stop; its checkpoint is written and the same command resumes it; exit code 75.

    `hand_over`: passes the signal on to who handled it before the run, such as a cluster's requeueing.
    """

    exit_code = 75
    hand_over: Callable[[], None] = staticmethod(lambda: None)
