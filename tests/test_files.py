"""A file that is written takes the place of another only where that is meant."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dora.errors import UserError
from dora.files import write_atomic


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_added_replaces_none(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    write_atomic(tmp_path / "x", "first", over=False)
    with pytest.raises(UserError, match="x is there already, and nothing is overwritten"):
        write_atomic(tmp_path / "x", "second", over=False)
    assert (tmp_path / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    write_atomic(tmp_path / "x", "second")
    assert (tmp_path / "x").read_text() == "second"
