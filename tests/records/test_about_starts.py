"""A run is described by all processes that trained it, not by the last one alone."""

from __future__ import annotations

from typing import Any

import pytest

from dora.records.about_starts import commits, dirty

VERSIONS = {"dora-glue": "0.1.0"}


def git(commit: str, changed: bool = False) -> dict[str, Any]:
    """Returns what a record says of the sources of one start."""
    return {"git": {"commit": commit, "dirty": changed}}


def test_each_commit_is_named_once_and_in_order() -> None:
    run = {"starts": [git("b"), git("a"), git("b")], "versions": VERSIONS, **git("b")}
    assert commits(run) == "b, then a"


@pytest.mark.parametrize("changed", [(True, False), (False, True)])
def test_changed_sources_of_any_start_mark_the_run(changed: tuple[bool, bool]) -> None:
    run = {"starts": [git("a", c) for c in changed], "versions": VERSIONS, **git("a")}
    assert dirty(run)
    assert "a with uncommitted changes" in commits(run)


def test_an_installed_package_has_a_version_and_no_uncommitted_changes() -> None:
    run = {"starts": [{"git": None}], "versions": VERSIONS, "git": None}
    assert not dirty(run)
    assert commits(run) == "installed package, version 0.1.0"
