"""Stored predictions come back as they were written, and a file that is none costs no memory and no waiting."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dora.predictions import UNREADABLE, load, save

ARRAYS: dict[str, np.ndarray] = {
    "best/dev/logits": np.arange(12, dtype=np.float32).reshape(6, 2),
    "dev/ids": np.arange(6),
    "test/labels": np.zeros(0),
}


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    save(tmp_path / "predictions.npz", ARRAYS)
    found = load(tmp_path)
    assert found.keys() == ARRAYS.keys()
    assert all(found[k].dtype == v.dtype and np.array_equal(found[k], v) for k, v in ARRAYS.items())
    assert load(tmp_path, ["dev/ids", "no such"]).keys() == {"dev/ids"}


def header(shape: tuple[int, ...], kind: str = "<f4", data: bytes = b"") -> bytes:
    """A .npy file that claims this shape, whatever data it has."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": kind})
    return file.getvalue() + data


@pytest.mark.parametrize(
    "array",
    [
        header((1 << 40,)),  # 4 TB
        header((2, 2), data=bytes(15)),
        header((-2, -2), data=bytes(16)),
        header((1,), "|O", bytes(8)),
        b"no array",
        b"",
    ],
    ids=["4 TB", "too short", "negative", "pickled", "text", "empty"],
)
def test_an_array_that_is_none_is_refused_in_a_moment(array: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "predictions.npz", "w") as archive:
        archive.writestr("best/dev/logits.npy", array)
    with pytest.raises(UNREADABLE):
        load(tmp_path)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.predictions.AT_MOST", 1 << 20)
    with zipfile.ZipFile(tmp_path / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("best/dev/logits.npy", header((1 << 19,), data=bytes(1 << 21)))
    with pytest.raises(ValueError, match="its arrays have more than 1,048,576 bytes"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        save(tmp_path / "other.npz", ARRAYS)
        path.symlink_to("other.npz")
    with pytest.raises(OSError):  # noqa: PT011  # one of several
        load(tmp_path)
