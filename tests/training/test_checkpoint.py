"""A checkpoint is used only if it is whole: any changed bit is noticed."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dora.records.record import Record
from dora.training import checkpoint
from runs import cut, left_alone, lines, only_run, run, same_files, small

TENSORS = {"weights/a": torch.arange(12.0).view(3, 4), "moments/a/step": torch.tensor(7.0)}


def two(folder: Path) -> Path:
    """Writes checkpoints of steps 2 and 4, and returns the newer one's file."""
    for step in (2, 4):
        tensors = {name: t + step for name, t in TENSORS.items()}
        checkpoint.save(
            folder, step, tensors, {"journals": {}, "seconds": 0.5, "best": {"step": step}}
        )
    return folder / "step-4.checkpoint"


def test_a_tensor_of_two_names_is_kept_under_both(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    given = {"one": shared, "two": shared, "turned": shared.t(), "row": shared[1]}
    checkpoint.save(tmp_path, 1, given, {})
    found = checkpoint.load(tmp_path, pytest.fail)
    assert found is not None
    assert found[0].keys() == given.keys()
    assert all(torch.equal(found[0][name], t) for name, t in given.items())


def test_every_flipped_bit_is_noticed_and_the_one_before_is_used(tmp_path: Path) -> None:
    newest = two(tmp_path)
    whole, chance = newest.read_bytes(), random.Random(0)
    # Every byte of the checksum and of the header's length, and a sample of the rest.
    places = {*range(40), *(chance.randrange(len(whole)) for _ in range(260))}
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        newest.write_bytes(flipped)
        said: list[str] = []
        found = checkpoint.load(tmp_path, said.append)
        assert found is not None
        assert found[1]["step"] == 2, place
        assert "step-4.checkpoint is damaged (its checksum does not match)" in said[0]
    newest.write_bytes(whole)
    found = checkpoint.load(tmp_path, print)
    assert found is not None
    assert found[1] == {"step": 4, "journals": {}, "seconds": 0.5, "best": {"step": 4}}
    assert all(bool((found[0][name] == t + 4).all()) for name, t in TENSORS.items())


# Within the checksum, right after it, within the header's length, within the header.
@pytest.mark.parametrize("size", [0, 5, 32, 39, 200])
def test_a_checkpoint_cut_short_is_noticed(size: int, tmp_path: Path) -> None:
    newest = two(tmp_path)
    newest.write_bytes(newest.read_bytes()[:size])
    assert checkpoint.load(tmp_path, lambda _: None)[1]["step"] == 2  # type: ignore[index]


def test_a_checkpoint_under_another_steps_name_is_not_believed(tmp_path: Path) -> None:
    newest = two(tmp_path)
    newest.rename(tmp_path / "step-6.checkpoint")
    said: list[str] = []
    assert checkpoint.load(tmp_path, said.append)[1]["step"] == 2  # type: ignore[index]
    assert "it is that of step 4" in said[0]  # the label says so, which the checksum covers


def test_a_run_that_could_use_no_checkpoint_keeps_those_that_it_writes(tmp_path: Path) -> None:
    newest = two(tmp_path)
    for file in (newest, tmp_path / "step-2.checkpoint"):
        file.write_bytes(b"damaged")
    said: list[str] = []
    assert checkpoint.load(tmp_path, said.append) is None
    assert [text.rpartition("; ")[2] for text in said] == [
        "using the one before",
        "the run begins anew",
    ]
    for step in (1, 2):
        checkpoint.save(tmp_path, step, TENSORS, {})
        assert checkpoint.load(tmp_path, pytest.fail)[1]["step"] == step  # type: ignore[index]


def test_a_run_that_used_the_checkpoint_before_keeps_it_beside_the_next(tmp_path: Path) -> None:
    two(tmp_path).write_bytes(b"damaged")
    checkpoint.save(tmp_path, 3, TENSORS, {})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-2.checkpoint", "step-3.checkpoint"]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_a_checkpoint_that_cannot_be_read_now_is_no_damaged_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = two(tmp_path)
    original = Path.open

    def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == newest:
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        # The run's own translation of the error says that the same command takes it up.
        with pytest.raises(OSError, match=os.strerror(number)):
            checkpoint.load(tmp_path, pytest.fail)
    assert checkpoint.load(tmp_path, pytest.fail)[1]["step"] == 4  # type: ignore[index]


# The last one is the temporary name of an atomic write that was killed.
@pytest.mark.parametrize(
    "name",
    ["step-99.json", "step-old.checkpoint", "step-5.checkpoint.bak", ".step-9.checkpoint.12.tmp"],
)
def test_files_of_other_names_are_left_alone(name: str, tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / name).write_text("{}")
    assert checkpoint.newest(tmp_path) == 4
    checkpoint.save(tmp_path, 6, TENSORS, {})
    assert (tmp_path / name).exists()
    assert checkpoint.load(tmp_path, pytest.fail)[1]["step"] == 6  # type: ignore[index]


def test_a_journal_that_was_changed_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = left_alone("method=dora")
    cut(tmp_path / "cut", 20, monkeypatch, "method=dora", "checkpoint_every=null")
    folder = only_run(tmp_path / "cut")
    for journal in ("metrics.jsonl", "ranks.jsonl"):
        again = shutil.copytree(tmp_path / "cut", tmp_path / journal)
        path = only_run(again) / journal
        data = bytearray(path.read_bytes())
        data[data.index(b"4")] ^= 1  # 4 becomes 5: still JSON, and another number
        path.write_bytes(data)
        run(small(again, "method=dora"))
        assert f"{journal} is not as it was" in (path.parent / "log.txt").read_text()
        same_files(only_run(alone), path.parent)
    evaluated = [e["step"] for e in lines(folder / "metrics.jsonl") if e["split"] == "dev"]
    assert evaluated == [6, 12, 18]


def test_journals_are_sealed_over_restarts(tmp_path: Path) -> None:
    def opened() -> Record:
        found = Record(tmp_path)
        where = {"host": "a", "device": "cpu", "processor": "one", "world_size": 1}
        found.open({**where, "git": None, "versions": {}})
        return found

    first = opened()
    first.start_journals({})
    first.log("metrics.jsonl", {"step": 1})
    sealed = first.sync()
    first.log("metrics.jsonl", {"step": 2})  # after the checkpoint, so it is cut off again
    first.close()
    second = opened()
    assert second.journals_differ({"journals": sealed}) is None
    second.start_journals(sealed)
    assert second.sync() == sealed
    second.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1}]
