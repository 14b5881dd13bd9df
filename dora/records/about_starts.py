"""The processes that trained a run, as its record describes them: one start, or several if resumed."""

from __future__ import annotations

from typing import Any

from dora.records.schema import Run


def dirty(run: Run) -> bool:
    """Returns whether any process that trained the run had sources with uncommitted changes."""
    return any((start["git"] or {}).get("dirty") for start in run["starts"])


def commits(run: Run) -> str:
    """Returns the commits that trained a run, marked if its sources had uncommitted changes."""
    names = [_named(start["git"], run["versions"]["dora-glue"]) for start in run["starts"]]
    return ", then ".join(dict.fromkeys(names))  # each commit once, in order


def _named(git: dict[str, Any] | None, version: str) -> str:
    if git is None:
        return f"installed package, version {version}"
    return f"{git['commit']} with uncommitted changes" if git["dirty"] else str(git["commit"])
