"""The processes that trained a run, as its record describes them: one start, or several if resumed."""

from __future__ import annotations

from typing import Any

from dora.records.schema import Run


def starts(run: Run) -> list[dict[str, Any]]:
    """Returns a description of each process that trained the run.

    Older records have no list of them, and describe the first at their own top level.
    """
    return run.get("starts") or [run]


def dirty(run: Run) -> bool:
    """Returns whether any process that trained the run had sources with uncommitted changes."""
    return any((start["git"] or {}).get("dirty") for start in starts(run))


def commits(run: Run) -> str:
    """Returns the commits that trained a run, marked if its sources had uncommitted changes."""
    names = [_named(start["git"], run["versions"]["dora-glue"]) for start in starts(run)]
    return ", then ".join(dict.fromkeys(names))  # each commit once, in order


def _named(git: dict[str, Any] | None, version: str) -> str:
    if git is None:
        return f"installed package, version {version}"
    return f"{git['commit']} with uncommitted changes" if git["dirty"] else str(git["commit"])
