"""A predictions.npz that no run wrote is refused within a second, whatever its headers claim."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dora.data import npz
from dora.data.predictions import save, unpredicted
from dora.data.tasks import Rows
from dora.errors import UserError
from dora.records.finished import read_runs
from dora.sharing.leaderboard import FILES, read_logits
from record_files import write_run

LOGITS = "best/dev/logits"
GOOD = {
    LOGITS: np.eye(2)[[0, 1, 1]],
    "dev/labels": np.array([0, 1, 0]),
    "dev/ids": np.arange(3),
    "best/test/logits": np.zeros((2, 2), np.float32),
    "test/ids": np.arange(2),
}


def header(shape: str, descr: str = "'<f8'", version: bytes = b"\x01\x00") -> bytes:
    """Returns the beginning of a .npy that claims this shape."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text


def archive(member: bytes, how: int = zipfile.ZIP_STORED, name: str = LOGITS) -> bytes:
    """Returns a zip with one array."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as file:
        file.writestr(f"{name}.npy", member)
    return buffer.getvalue()


def lying(member: bytes, size: int) -> bytes:
    """Returns a zip whose packed member claims `size` unpacked bytes."""
    return archive(member, zipfile.ZIP_DEFLATED).replace(
        struct.pack("<I", len(member)), struct.pack("<I", size)
    )


def twice(size: int) -> bytes:
    """Returns a zip of two packed members of `size` bytes each, whose names are one to NumPy."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in (LOGITS, f"{LOGITS}.npy"):
            file.writestr(name, header(f"({size // 8}, 1)") + bytes(size))
    return buffer.getvalue()


def listing(number: int) -> bytes:
    """Returns a zip whose table of contents claims `number` bytes."""
    whole = archive(header("(0, 2)"))
    return whole[:-10] + struct.pack("<I", number) + whole[-6:]


def stored(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **(GOOD | arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


BOMBS = {
    "4 TB claimed": archive(header("(500000000000, 1)")),
    "4 TB claimed and listed": lying(header("(500000000, 1)"), 4_000_000_128),
    "more than its bytes": archive(header("(9, 2)") + bytes(16)),
    "beyond 64 bits": archive(header(f"({10**30}, {10**30})")),
    "a negative shape": archive(header("(-1, 2)") + bytes(16)),
    "two negative ones": archive(header("(-1, -2)") + bytes(16)),
    "a header of 4 GB": archive(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64)),
    "a header that nests": archive(header("(" * 5000 + ")" * 5000)),
    "a header of no tuple": archive(header("7")),
    "a header without an end": archive(header("(872, 2(")),
    "a packed bomb": archive(
        header("(2500000, 1)") + bytes(20_000_000), zipfile.ZIP_DEFLATED
    ).replace(
        struct.pack("<I", len(header("(2500000, 1)")) + 20_000_000), struct.pack("<I", 2**32 - 2)
    ),
    "2 GB claimed": archive(header("(250000000, 1)")),
    "a name twice": twice(20_000_000),
    "a listing of 4 GB": listing(2**32 - 2),
    "a listing of 1 MB": listing(2**20),
    "objects": stored(**{LOGITS: np.array([[{}]], object)}),
    "texts": stored(**{LOGITS: np.array([["a"]])}),
    "complex numbers": stored(**{LOGITS: np.ones((3, 2), complex)}),
    "records": archive(header("(1,)", "[('a', '<f8')]") + bytes(8)),
    "arrays in arrays": archive(header("(1, 2)", "('<f8', (10, 10))") + bytes(1600)),
    "one dimension": stored(**{LOGITS: np.ones(3)}),
    "three dimensions": stored(**{LOGITS: np.ones((3, 2, 1))}),
    "no rows": stored(
        **{LOGITS: np.ones((0, 2)), "dev/labels": np.arange(0), "dev/ids": np.arange(0)}
    ),
    "fewer labels": stored(**{"dev/labels": np.array([0])}),
    "labels by two": stored(**{"dev/labels": np.zeros((3, 2), int)}),
    "labels beyond the classes": stored(**{"dev/labels": np.array([0, 1, 2])}),
    "labels below the classes": stored(**{"dev/labels": np.array([0, 1, -1])}),
    "labels between the classes": stored(**{"dev/labels": np.array([0, 1, 0.5])}),
    "no such class": stored(**{LOGITS: np.ones((3, 3))}),
    "no array": archive(b"hello"),
    "no zip": b"PK\x03\x04 and so on",
    "nothing": b"",
    "cut short": stored()[:-40],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_a_second_and_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, "lora", 1, 0.9, task="wnli")
    (folder / npz.NAME).write_bytes(BOMBS[name])
    began = time.process_time()  # not by the clock, which runs on while other processes compute
    with pytest.raises(npz.Refused) as e:
        npz.load(folder, [LOGITS, "dev/labels"], 2)
    assert str(e.value).isprintable()
    (run,) = read_runs(tmp_path)
    assert run["predicted"] == {}
    assert f"left out: {folder / npz.NAME} cannot be read" in capsys.readouterr().err
    assert isinstance(unpredicted(folder, {"test": Rows(["a"], None, None, np.arange(1))}), list)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "run" / npz.NAME, tmp_path / "elsewhere.npz"
    path.parent.mkdir()
    elsewhere.write_bytes(stored())
    {
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(elsewhere),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(OSError, match=r"regular file|is a link"):
        npz.load(path.parent)
    with pytest.raises(UserError, match=r"regular file|is a link"):
        read_logits(FILES[-2], path, "best")


def test_rows_are_unpredicted_where_a_file_lacks_them_or_has_others(tmp_path: Path) -> None:
    save(tmp_path / npz.NAME, GOOD)
    rows = {n: Rows(["a"] * n, None, None, np.arange(n)) for n in (2, 3)}
    assert unpredicted(tmp_path, {"test": rows[2]}) == []
    assert unpredicted(tmp_path, {"test": rows[3], "ax": rows[2]}) == ["test", "ax"]


def test_what_a_run_saves_is_read_to_the_bit(tmp_path: Path) -> None:
    save(tmp_path / npz.NAME, GOOD)
    for found in (npz.load(tmp_path), npz.load(tmp_path, GOOD, 2)):
        assert found.keys() == GOOD.keys()
        for name, array in GOOD.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
    assert npz.load(tmp_path, ["dev/ids", "absent"]).keys() == {"dev/ids"}


@pytest.mark.parametrize("order", ["C", "F"])
def test_either_order_of_a_matrix_and_packed_members_are_read(order: str, tmp_path: Path) -> None:
    array = np.array(np.arange(6.0).reshape(3, 2), order=order)  # type: ignore[call-overload]
    np.savez_compressed(tmp_path / npz.NAME, **{LOGITS: array})
    assert np.array_equal(npz.load(tmp_path)[LOGITS], array)


def test_the_largest_real_predictions_are_read_in_double_precision_too(tmp_path: Path) -> None:
    rows = {"dev": 40_430, "test": 390_965}  # QQP's
    arrays = {f"{w}/{s}/logits": np.ones((n, 2)) for s, n in rows.items() for w in ("best", "last")}
    arrays |= {f"{s}/ids": np.arange(n) for s, n in rows.items()}
    save(tmp_path / npz.NAME, {**arrays, "dev/labels": np.zeros(rows["dev"], int)})
    assert (tmp_path / npz.NAME).stat().st_size < 0.75 * npz.MOST_BYTES
    assert len(npz.load(tmp_path, outputs=2)) == 7


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(stored())
    whole[whole.index(b"NUMPY") + 130] ^= 1  # in the first array's numbers
    (tmp_path / npz.NAME).write_bytes(whole)
    with pytest.raises(npz.Refused, match="CRC"):
        npz.load(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        archive(header("(500000000000, 1)"), name="best/test/logits"),
        stored(**{"test/ids": np.arange(3)}),
        stored(**{"best/test/logits": np.array([[{}]], object)}),
        b"",
        stored(**{"best/test/logits": np.ones((0, 2)), "test/ids": np.arange(0)}),
    ],
    ids=["4 TB", "more ids", "objects", "nothing", "no rows"],
)
def test_a_submission_refuses_them_with_a_way_out(data: bytes, tmp_path: Path) -> None:
    (tmp_path / npz.NAME).write_bytes(data)
    with pytest.raises(
        UserError, match=r"npz cannot be read: .*; train that run again with force=true"
    ):
        read_logits(
            next(file for file in FILES if file.trained == "wnli"), tmp_path / npz.NAME, "best"
        )
