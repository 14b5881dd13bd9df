"""The problems of a run, collected so that all of them come in one message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dora.errors import UserError

T = TypeVar("T")


@dataclass
class Findings:
    """Collects problems without repeats, so that all of them come in one message."""

    problems: list[str]

    def attempt(self, action: Callable[[], T]) -> T | None:
        """Returns the result of `action`; notes a UserError or ValueError and returns None."""
        try:
            return action()
        except UserError as e:
            self.problems.extend(p for p in e.problems if p not in self.problems)
        except ValueError as e:
            self.problems.extend([] if str(e) in self.problems else [str(e)])
        return None
