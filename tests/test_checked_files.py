"""Opening a file of a run directory never waits, follows a link or reads too much."""

# A run directory may come from somebody else, and an export or a table reads its files.

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dora.checked_files import open_own, strange


def test_a_regular_file_of_a_run_is_opened(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_bytes(b"12345")
    with open_own(tmp_path, "adapter/weights", at_most=5) as file:
        assert file.read() == b"12345"


def test_a_run_directory_behind_a_link_is_as_good_as_any(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_bytes(b"1")
    # The user names the directory, and may well have linked it; only inside are links suspect.
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with open_own(tmp_path / "link", "file") as file:
        assert file.read() == b"1"


# Each of these puts something at run/file that no run leaves.


def linked(folder: Path) -> None:
    """Makes it a link to a file outside the run."""
    (folder / "secret").write_bytes(b"key")
    (folder / "run" / "file").symlink_to(folder / "secret")


def piped(folder: Path) -> None:
    """Makes it a pipe, of which an ordinary open waits for a writer."""
    os.mkfifo(folder / "run" / "file")


def large(folder: Path) -> None:
    """Makes it one byte longer than allowed."""
    (folder / "run" / "file").write_bytes(b"0" * 11)


def directory(folder: Path) -> None:
    """Makes it a folder."""
    (folder / "run" / "file").mkdir()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (linked, "a link"),
        (piped, "no regular file"),
        (large, "11 bytes"),
        (directory, "no regular file"),
    ],
)
def test_what_no_run_leaves_is_refused_at_once(
    spoil: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    spoil(tmp_path)
    with pytest.raises(OSError, match=says):
        open_own(tmp_path / "run", "file", at_most=10)


def test_a_file_in_a_linked_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"key")
    (tmp_path / "run").mkdir()
    # Every part of the path is looked at, not the last one alone.
    (tmp_path / "run" / "adapter").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="adapter is a link"):
        open_own(tmp_path / "run", "adapter/file")


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_own(tmp_path, "file")


def test_links_pipes_and_devices_inside_a_directory_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "checkpoint" / "state").touch()
    assert strange(run) == []
    (run / "log.txt").symlink_to("/etc/passwd")
    (run / "model").symlink_to(tmp_path)
    (run / "gone").symlink_to("nowhere")
    os.mkfifo(run / "checkpoint" / "pipe")
    assert strange(run) == ["checkpoint/pipe", "gone", "log.txt", "model"]
