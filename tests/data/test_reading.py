"""A file that cannot be read gives one message with the file, the reason and the way out."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
from glue_files import RTE, SST2, hub_rte, problems, write, write_zip

from dora.data import reading
from dora.data.sources import read_dir, read_hub
from dora.data.tasks import TASKS

RTE_TASK = TASKS["rte"]
WRONG = [
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EMFILE,
]


def failing(monkeypatch: pytest.MonkeyPatch, call: str, at: Path, code: int) -> None:
    """Lets a system call on `at`, or on any path below it, fail with `code`."""
    module, name = (os if call == "listdir" else Path), call
    real = getattr(module, name)

    def broken(path, *args, **kwargs):
        if at in (Path(os.fspath(path)), *Path(os.fspath(path)).parents):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(module, name, broken)


@pytest.mark.parametrize("code", WRONG, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("call", "at"), [("stat", "RTE"), ("stat", "RTE/dev.tsv"), ("open", "RTE/dev.tsv")]
)
def test_a_file_that_cannot_be_looked_at_or_opened_is_named(tmp_path, monkeypatch, call, at, code):
    write(tmp_path, RTE)
    failing(monkeypatch, call, tmp_path / at, code)
    (found,) = problems(read_dir, RTE_TASK, tmp_path)
    assert f"{tmp_path / at}" in found
    assert f"cannot be read ({os.strerror(code)}); " in found


@pytest.mark.parametrize("call", ["open", "stat"])
def test_an_archive_one_may_not_read_is_not_called_damaged(tmp_path, monkeypatch, call):
    write_zip(tmp_path, "RTE.zip", RTE)
    failing(monkeypatch, call, tmp_path / "RTE.zip", errno.EACCES)
    (found,) = problems(read_dir, RTE_TASK, tmp_path)
    assert (
        f"{tmp_path / 'RTE.zip'} cannot be read (Permission denied); its owner lets others read"
        in found
    )


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    failing(monkeypatch, "listdir", tmp_path, errno.EACCES)
    (found,) = problems(read_dir, RTE_TASK, tmp_path)
    assert f"{tmp_path} cannot be read (Permission denied)" in found


@pytest.mark.parametrize(
    ("call", "at"),
    [("listdir", "rte"), ("stat", "rte"), ("open", "rte/train-00000-of-00002.parquet")],
)
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_parquet_files_that_cannot_be_read_are_named(tmp_path, monkeypatch, call, at, code):
    hub_rte(tmp_path)
    failing(monkeypatch, call, tmp_path / at, code)
    found = problems(read_hub, RTE_TASK, tmp_path)
    assert f"{tmp_path / at} cannot be read ({os.strerror(code)})" in found[0]


def test_a_link_to_itself_is_named(tmp_path):
    write(tmp_path, {"RTE/train.tsv": RTE["RTE/train.tsv"]})
    (tmp_path / "RTE" / "dev.tsv").symlink_to(tmp_path / "RTE" / "dev.tsv")
    (found,) = problems(read_dir, RTE_TASK, tmp_path)
    assert (
        f"{tmp_path / 'RTE' / 'dev.tsv'} cannot be read (Too many levels of symbolic links)"
        in found
    )
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (found,) = problems(read_dir, RTE_TASK, tmp_path / "loop")
    assert f"{tmp_path / 'loop'} cannot be read (Too many" in found


def test_a_way_through_a_file_leads_to_no_folder(tmp_path):
    write(tmp_path, {"RTE": "a file"})
    assert (
        "is not a folder; it must be" in problems(read_dir, RTE_TASK, tmp_path / "RTE" / "glue")[0]
    )
    assert "holds no RTE data" in problems(read_dir, RTE_TASK, tmp_path)[0]


@pytest.mark.parametrize(("at", "mode"), [("RTE", 0o600), ("RTE/dev.tsv", 0o200), ("", 0o600)])
def test_permissions_are_named(tmp_path, at, mode):
    write(tmp_path / "glue", RTE)
    (tmp_path / "probe").touch(0)
    if os.access(tmp_path / "probe", os.R_OK):
        pytest.skip("root may read everything")
    (tmp_path / "glue" / at).chmod(mode)
    found = problems(read_dir, RTE_TASK, tmp_path / "glue")
    (tmp_path / "glue" / at).chmod(0o700)
    assert any("cannot be read (Permission denied); its owner" in f for f in found)


@pytest.mark.parametrize("end", ["", "\t1\n"])
def test_a_line_longer_than_any_of_glue_is_refused_unread(tmp_path, monkeypatch, end):
    monkeypatch.setattr(reading, "LINE_BYTES", 1000)
    text = "sentence\tlabel\nok\t1\n" + "a" * 50_000 + end
    for folder in (
        write(tmp_path / "tsv", {**SST2, "SST-2/dev.tsv": text}),
        write_zip(tmp_path, "SST-2.zip", {**SST2, "SST-2/dev.tsv": text}),
    ):
        (found,) = problems(read_dir, TASKS["sst2"], folder)
        assert (
            "SST-2/dev.tsv, line 3: longer than the 1,000 bytes that a line of GLUE may have"
            in found
        )


def test_the_limits_stand_above_glue_and_below_memory():
    assert 20 * 12_000 < reading.LINE_BYTES < 20_000_000
    assert 2 * 450_000_000 < reading.FILE_BYTES < 4_000_000_000


@pytest.mark.parametrize("rows", ["one long line", "many rows"])
def test_a_bomb_is_refused_by_the_size_it_declares(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(reading, "FILE_BYTES", 1_000_000)
    text = "sentence\tlabel\n" + (
        "x" * 2_000_000 if rows == "one long line" else "x\t1\n" * 500_000
    )
    with zipfile.ZipFile(tmp_path / "SST-2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**SST2, "SST-2/train.tsv": text}.items():
            archive.writestr(name, content)
    assert (tmp_path / "SST-2.zip").stat().st_size < 10_000
    real = zipfile.ZipFile.open

    def unpack(archive, name, *args, **kwargs):
        assert "train" not in str(name)
        return real(archive, name, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", unpack)
    found = problems(read_dir, TASKS["sst2"], tmp_path)
    assert (
        f"SST-2/train.tsv holds {len(text):,} bytes unpacked, more than the 1,000,000 that"
        in found[0]
    )


def test_a_bomb_that_declares_a_small_size_is_refused_by_what_comes_out(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "SST-2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
            **SST2,
            "SST-2/train.tsv": "sentence\tlabel\n" + "x\t1\n" * 500_000,
        }.items():
            archive.writestr(name, content)
    size = (15 + 2_000_000).to_bytes(4, "little")
    stored = (tmp_path / "SST-2.zip").read_bytes()
    assert stored.count(size) == 2
    (tmp_path / "SST-2.zip").write_bytes(stored.replace(size, (35).to_bytes(4, "little")))
    (found,) = problems(read_dir, TASKS["sst2"], tmp_path)
    assert "SST-2/train.tsv cannot be read (Bad CRC-32" in found


def test_what_comes_out_counts_whatever_was_declared(tmp_path, monkeypatch):
    write(tmp_path, {**SST2, "SST-2/train.tsv": "sentence\tlabel\n" + "x\t1\n" * 500})
    monkeypatch.setattr(reading, "FILE_BYTES", 1000)
    monkeypatch.setattr(reading, "_declared", lambda path: 10)
    (found,) = problems(read_dir, TASKS["sst2"], tmp_path)
    assert "SST-2/train.tsv holds 1,003 bytes unpacked, more than the 1,000" in found


def test_a_packed_archive_larger_than_glue_is_refused(tmp_path, monkeypatch):
    write_zip(tmp_path, "inner", {**RTE, "RTE/notes": os.urandom(5000)})
    write_zip(tmp_path, "RTE.zip", {"RTE.zip": (tmp_path / "inner").read_bytes()})
    monkeypatch.setattr(reading, "FILE_BYTES", 2000)
    (found,) = problems(read_dir, RTE_TASK, tmp_path)
    assert "RTE.zip/RTE.zip holds" in found


def test_an_encrypted_archive_is_told_to_be_unpacked(tmp_path):
    write_zip(tmp_path, "RTE.zip", RTE)
    stored = bytearray((tmp_path / "RTE.zip").read_bytes())
    for at in (i for i in range(len(stored)) if stored[i : i + 4] == b"PK\x01\x02"):
        stored[at + 8] |= 1  # the flag in the archive's directory
    for at in (i for i in range(len(stored)) if stored[i : i + 4] == b"PK\x03\x04"):
        stored[at + 6] |= 1
    (tmp_path / "RTE.zip").write_bytes(stored)
    for found in problems(read_dir, RTE_TASK, tmp_path):
        assert "encrypted" in found
        assert "unpack it yourself" in found
