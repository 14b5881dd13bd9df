"""Errors that the user should hear about, each with its exit code."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The way out of a key that is unknown and like no other, for the command line and for Python.
ALL_KEYS = "--help and docs/settings.md list the keys"

# Failures of the disk that pass: somebody makes room, a server comes back.
TEMPORARY = {errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}


class UserError(Exception):
    """A mistake in the user's request, with all problems found, not only the first; exit code 2."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        many = len(problems) > 1  # a single problem needs no list mark
        super().__init__("\n".join(f"  - {p}" if many else p for p in problems))

    def under(self, heading: str) -> str:
        """Returns a single problem behind the heading, or the list of several below it."""
        return f"{heading}\n{self}" if len(self.problems) > 1 else f"{heading} {self}"


def attempt(action: Callable[[], T], problems: list[str]) -> T | None:
    """Returns the result of `action`; notes a UserError or ValueError and returns None.

    `problems`: those found so far, each once, so that all of them come in one message.
    """
    try:
        return action()
    except (UserError, ValueError) as e:
        new = e.problems if isinstance(e, UserError) else (str(e),)
        problems += [text for text in dict.fromkeys(new) if text not in problems]
    return None


def reason(error: BaseException) -> str:
    """Returns the class and the message of another library's error, on one line.

    The message is cut to 300 characters; the class stands alone where there is none. A failed
    import is told by its first cause: Transformers says no more than that it failed.
    """
    while isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__
    kind, message = type(error).__name__, " ".join(str(error).split())[:300]
    return f"{kind}: {message}" if message else kind


class RunFailed(Exception):
    """A run that ended without a result to report, such as one that missed its budget; exit code 1.

    `status`: what run.json says of a run that ended with this error.
    """

    exit_code = 1
    status = "failed"


class Diverged(RunFailed):
    """A run whose loss, gradients, weights or scores are no longer finite."""

    # It ends with RunFailed's exit code. Three more places would have to know another one:
    # `refuse_diverged` of records/record.py and `Sweep.end` raise RunFailed for such runs, and
    # `together` of dora/torchrun.py returns no other code of a failure than RunFailed's.
    status = "diverged"


class Stopped(Exception):
    """A run stopped by a signal, with its checkpoint written; exit code 75.

    The same command resumes the run.
    """

    exit_code = 75
    status = "stopped"


class NotNow(Stopped):
    """An obstacle outside the run that will pass; exit code 75.

    Examples are a full disk and another process at work in the run's directory. The same command
    takes the run up later. The error ends this run, but not the sweep that the run belongs to.
    """


class PeerEnded(NotNow):
    """The end of another process of the run, which may have left its reason with the group."""
