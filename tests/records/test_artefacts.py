"""Records are believed with their seal, files with the sum that their record names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora.errors import UserError
from dora.records import artefacts
from dora.records.record import Record, read_finished
from dora.records.run_json import read_done
from record_files import write_run
from runs import change_record

RECORD = {
    "schema": 1,
    "status": "done",
    "results": {"best": {"accuracy": 0.698, "step": 3}},
    # Text beyond ASCII and numbers whose spelling could change: the seal is of bytes.
    "note": "Größe \U0001f600",
    "numbers": [1, 1.0, 1e-7, None, True],
}


def problem(text: str) -> str | None:
    return artefacts.seal_problem(text.encode(), json.loads(text))


def test_a_sealed_record_is_believed_and_sealed_again_is_the_same() -> None:
    text = artefacts.sealed(RECORD)
    assert problem(text) is None
    assert list(json.loads(text)) == [*RECORD, "sealed", "sha256"]
    # Predictions of another split that are added to a finished run seal its record again.
    assert artefacts.sealed(json.loads(text)) == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Values, the keys of the seal itself, the seal's own digits, and white space: any byte
        # counts.
        ("done", "dono"),
        ("1e-07", "1e-08"),
        ('"sealed"', '"sealee"'),
        ('"sha256": "', '"sha256": "0'),
        ('"sha256"', '"sha356"'),
        ("\n}\n", "\n} \n"),
        ("  ", " "),
    ],
)
def test_a_record_with_anything_else_in_it_is_not_believed(old: str, new: str) -> None:
    text = artefacts.sealed(RECORD)
    assert old in text
    assert "checksum: edited or damaged" in str(problem(text.replace(old, new, 1)))


def test_a_record_of_before_there_were_seals_is_believed_and_one_that_lost_its_seal_is_not() -> (
    None
):
    assert problem(json.dumps(RECORD)) is None
    # Any of the three keys says that a seal was there. With one key alone, its loss would turn a
    # damaged record into one of before there were seals.
    for rest in ({"files": {}}, {"sealed": True}, {"sha256": "0" * 64}):
        assert (
            problem(json.dumps({**RECORD, **rest})) == "it has lost its checksum: edited or damaged"
        )


def test_every_reader_refuses_a_record_that_was_edited(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "lora", 1, 0.698)
    change_record(folder)
    assert read_done(folder) == read_finished(folder)
    text = (folder / "run.json").read_text()
    # A better score, typed by hand: still JSON, and still of the right types.
    (folder / "run.json").write_text(text.replace("0.698", "0.798", 1))
    assert read_done(folder) is None
    with pytest.raises(
        UserError,
        match=r"run\.json cannot be read \(it does not match its checksum: edited or damaged",
    ):
        read_finished(folder)
    # Nor is such a run resumed: only force=true begins it anew.
    record = Record(folder)
    with pytest.raises(
        UserError,
        match=r"it does not match its checksum: edited or damaged\); remove it to resume, or use",
    ):
        record.open({})
    record.close()
    record.open({}, force=True)
    record.close()
    assert problem((folder / "run.json").read_text()) is None


def finished(folder: Path) -> dict[str, Any]:
    """Writes two files and returns a record that names their sums."""
    folder.mkdir(exist_ok=True)
    # No weights at all: a sum is of bytes, whatever they are.
    (folder / "best.safetensors").write_bytes(b"weights")
    (folder / "predictions.npz").write_bytes(b"logits")
    return {"files": artefacts.sums(folder, ["best.safetensors", "predictions.npz"])}


def longer(file: Path) -> None:
    file.write_bytes(b"weights of another")


# As long as the right one, so that only the sum tells.
def other(file: Path) -> None:
    file.write_bytes(b"Weights")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (longer, r"is damaged or another's: it has 18 bytes, run\.json says 7"),
        (other, r"is damaged or another's: its sha256 is not the one in run\.json"),
        (Path.unlink, "is missing"),
        (pipe, "cannot be read: it is no regular file"),
        (link, "cannot be read: best.safetensors is a link"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_is_not_what_the_run_wrote_is_named(
    damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    run = finished(tmp_path)
    artefacts.check(tmp_path, run, "best.safetensors", "predictions.npz")
    damage(tmp_path / "best.safetensors")
    with pytest.raises(
        UserError, match=rf"best\.safetensors {said}.*; fetch it again, or train it again"
    ) as caught:
        artefacts.check(tmp_path, run, "best.safetensors", "predictions.npz")
    # The sound file beside it is not blamed.
    assert len(caught.value.problems) == 1


def test_the_file_that_was_there_before_counts_beside_the_one_to_come(tmp_path: Path) -> None:
    run = finished(tmp_path)
    before = run["files"]["predictions.npz"]
    # A kill can come between the record, which is written first, and the file.
    run["files"]["predictions.npz"] = {**artefacts.sum_of(b"logits of AX too"), "before": before}
    for content in (b"logits", b"logits of AX too"):
        (tmp_path / "predictions.npz").write_bytes(content)
        assert artefacts.fault(tmp_path, run, "predictions.npz") is None
    (tmp_path / "predictions.npz").write_bytes(b"login")
    said = artefacts.fault(tmp_path, run, "predictions.npz") or ""
    assert said.endswith("it has 5 bytes, run.json says 16")


def test_the_files_of_a_record_without_checksums_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        artefacts.check(tmp_path, {}, "best.safetensors", "predictions.npz")
    assert caught.value.problems == (
        f"{tmp_path}: its record has no checksums; its command trains it anew",
    )
