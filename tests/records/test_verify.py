"""`dora.status --verify` finds damage in a study, and neither stops nor waits at odd files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dora import status
from dora.data.predictions import save
from dora.errors import UserError
from dora.records import artefacts, packed
from dora.records import verify as verify_module
from dora.records.run_json import read_placed
from dora.records.verify import report, verify
from dora.training import checkpoint
from record_files import write_run
from runs import change_record, cut, only_run

# The least that any event of a run holds.
JOURNAL = '{"step": 1, "loss": 0.5}\n'


def finished(results: Path, seed: int = 1, checksums: bool = True) -> Path:
    """Writes a finished run that kept everything: 900 parameters, 30 of 40 rows right."""
    labels = np.arange(40) % 2
    folder = write_run(results, "lora", seed, 0.75)
    logits = np.eye(2)[np.where(np.arange(40) < 30, labels, 1 - labels)]
    save(
        folder / "predictions.npz",
        {"dev/labels": labels, "best/dev/logits": logits, "last/dev/logits": logits},
    )
    save_file({"classifier.weight": np.ones(3, "f")}, folder / "best.safetensors")
    (folder / "adapter").mkdir()
    save_file(
        {"base.q.lora_A.weight": np.ones((9, 100), "f")},
        folder / "adapter" / "adapter_model.safetensors",
    )
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    for name in ("metrics.jsonl", "ranks.jsonl"):
        (folder / name).write_text(JOURNAL)
    if checksums:
        seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Records the sums of all files that are there, as the run's end does."""
    names = [*artefacts.left(folder), "metrics.jsonl", "ranks.jsonl"]
    change_record(folder, files=artefacts.sums(folder, names))


# One bit in the middle, as a bad disk or a transfer flips it.
def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_a_sound_study_is_counted(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        finished(tmp_path, seed, checksums=seed < 3)
    assert report(tmp_path) == (["3 runs, 12 files verified, 0 damaged, 1 without checksums"], True)


@pytest.mark.parametrize(
    "name",
    [
        "predictions.npz",
        "best.safetensors",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "metrics.jsonl",
        "ranks.jsonl",
    ],
)
def test_a_damaged_file_is_named_and_the_rest_goes_on(name: str, tmp_path: Path) -> None:
    finished(tmp_path, 1)
    flip(finished(tmp_path, 2) / name)
    lines, sound = report(tmp_path)
    assert not sound
    assert lines[0].startswith("damaged   dir/sst2/minilm/lora/r8/abcd1234/s2: ")
    assert f"{name} is damaged or another's" in lines[0]
    assert lines[1:] == ["2 runs, 11 files verified, 1 damaged, 0 without checksums"]


# Each of these four leaves a file that contradicts the record, or is cut short.
def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], times: int) -> None:
    """Lets `change` happen just after a record is read to be checked, so many times."""
    left = [change] * times

    def read(folder: Path) -> Any:
        run = read_placed(folder)
        if left:
            left.pop()()
        return run

    monkeypatch.setattr(verify_module, "read_placed", read)


def test_a_run_that_is_begun_anew_while_it_is_checked_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(tmp_path)

    def begun() -> None:
        (folder / "metrics.jsonl").write_text("")
        change_record(folder, status="running")

    meanwhile(monkeypatch, begun, 1)
    assert report(tmp_path) == (["1 run, 0 files verified, 0 damaged, 0 without checksums"], True)


def test_a_run_that_is_removed_while_it_is_checked_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        folder = finished(tmp_path, seed)
    meanwhile(monkeypatch, lambda: shutil.rmtree(folder, ignore_errors=True), 2)
    assert report(tmp_path) == (["1 run, 6 files verified, 0 damaged, 0 without checksums"], True)


def test_a_damaged_run_whose_record_changes_all_the_time_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(tmp_path)
    flip(folder / "best.safetensors")
    counts = iter(range(9))
    meanwhile(monkeypatch, lambda: change_record(folder, reason=f"{next(counts)}"), 9)
    assert not report(tmp_path)[1]
    assert next(counts) == verify_module.TRIES


def test_damage_of_a_packed_run_is_named_by_its_file(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "metrics.jsonl").write_text("")
    packed.write(tmp_path / packed.NAME, [folder])
    shutil.rmtree(tmp_path / "runs")
    line = report(tmp_path)[0][0]
    assert line.startswith("damaged   dir/sst2/minilm/lora/r8/abcd1234/s1: ")
    named = f"{tmp_path / packed.NAME}: dir/sst2/minilm/lora/r8/abcd1234/s1/metrics.jsonl"
    assert f"s1: {named} is damaged or another's" in line


def another_score(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    change_record(
        folder, results={**run["results"], "last": {**run["results"]["last"], "accuracy": 0.85}}
    )


def fewer_parameters(folder: Path) -> None:
    save_file(
        {"base.q.lora_A.weight": np.ones((9, 99), "f")},
        folder / "adapter" / "adapter_model.safetensors",
    )


def cut_short(folder: Path) -> None:
    file = folder / "predictions.npz"
    file.write_bytes(file.read_bytes()[:-9])


def half_a_line(folder: Path) -> None:
    (folder / "ranks.jsonl").write_text(JOURNAL + JOURNAL[:9])


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "none"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (another_score, "its last accuracy is 0.85 in run.json, its predictions.npz gives 0.75"),
        (
            fewer_parameters,
            "adapter/adapter_model.safetensors holds 891 parameters, run.json says 900",
        ),
        (cut_short, "predictions.npz cannot be read (Refused: it is no whole archive"),
        (half_a_line, "line 2 of ranks.jsonl cannot be read (Expecting value"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_files_say_against_the_record_is_named_whether_it_has_checksums_or_not(
    damage: Callable[[Path], None], said: str, checksums: bool, tmp_path: Path
) -> None:
    folder = finished(tmp_path, checksums=checksums)
    damage(folder)
    # Sealed again over the damage: the sums are right, so only the content can tell.
    if checksums and damage is not half_a_line:
        seal(folder)
    (line, *_), sound = report(tmp_path)
    assert not sound
    assert (
        said if not checksums or damage is not half_a_line else "ranks.jsonl is damaged"
    ) in line


def test_a_record_kept_without_its_files_is_said_and_is_not_damaged(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = finished(tmp_path, seed, checksums=seed == 1)
        shutil.rmtree(folder / "adapter")
        for name in ("predictions.npz", "best.safetensors", "metrics.jsonl"):
            (folder / name).unlink()
    assert report(tmp_path) == (
        [
            "2 runs kept without weights or predictions",
            "2 runs, 1 file verified, 0 damaged, 1 without checksums",
        ],
        True,
    )


def test_a_file_that_the_record_does_not_name_is_not_the_runs(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    # Somebody else's weights, or those of another run, beside a sound record.
    files = json.loads((folder / "run.json").read_text())["files"]
    change_record(folder, files={k: v for k, v in files.items() if k != "best.safetensors"})
    assert "best.safetensors is not among the files that run.json names" in report(tmp_path)[0][0]


# Each would stop a careless reader: wait for ever, follow, fill the memory, or raise.
ODD = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "empty": Path.touch,
    "huge": lambda path: os.truncate(path, 1 << 40) if path.touch() is None else None,
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "none"])
def test_nothing_odd_in_a_files_place_stops_it(odd: str, checksums: bool, tmp_path: Path) -> None:
    names = [
        "run.json",
        "predictions.npz",
        "best.safetensors",
        "metrics.jsonl",
        "adapter/adapter_model.safetensors",
    ]
    for seed, name in enumerate(names, 1):
        folder = finished(tmp_path, seed, checksums)
        (folder / name).unlink()
        ODD[odd](folder / name)
    lines, _ = report(tmp_path)
    damaged = [line.split(": ", 1)[0][-2:] for line in lines if line.startswith("damaged")]
    # Without a checksum nothing says what weights must be, nor what lines there must have been.
    fine = {"s3"} | ({"s4"} if odd == "empty" else set())
    assert set(damaged) == {"s1", "s2", "s3", "s4", "s5"} - (set() if checksums else fine)
    shutil.rmtree(folder / "adapter")
    # A folder that is a link, with a run's files behind it.
    (folder / "adapter").symlink_to(tmp_path)
    verify(folder)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "1",
        "null",
        '"done"',
        "{}",
        "[" * 100_000,
        '{"status": "done"}',
        '{"status": ["done"]}',
        # Read by key without a look, each of these would be another exception.
        '{"status": "done", "files": 3}',
        '{"status": "done", "config": []}',
        '{"status": "done", "config": {"method": 1}}',
        '{"status": "done", "config": {"task": "sst3", "method": {"name": "lora"}}}',
    ],
    ids=lambda text: text[:40],
)
def test_no_record_however_odd_stops_it(text: str, tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "run.json").write_text(text)
    (line, *_), sound = report(tmp_path)
    assert not sound
    assert "s1: run.json " in line


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory of a run that broke off after two checkpoints."""
    results = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        # Broken off for real: the checkpoints are those that training writes.
        cut(results, 2, patch, "method=lora", "max_steps=4", "eval_every=2")
    return only_run(results)


def test_an_unfinished_runs_checkpoints_and_journals_are_looked_at(broken_off: Path) -> None:
    assert verify(broken_off).problems == []
    for name, said in [
        (
            "checkpoint/step-2.checkpoint",
            "step-2.checkpoint is damaged (its checksum does not match)",
        ),
        (
            "checkpoint/step-1.checkpoint",
            "step-1.checkpoint is damaged (its checksum does not match)",
        ),
        (
            "metrics.jsonl",
            "metrics.jsonl does not begin with the lines that step-2.checkpoint knows",
        ),
        ("run.json", "run.json cannot be read (it does not match its checksum: edited or damaged)"),
    ]:
        whole = (broken_off / name).read_bytes()
        content = bytearray(whole)
        # In a checkpoint byte 20 is part of its seal; in a record "step" becomes "qtep".
        content[whole.index(b"step") if name == "run.json" else 20] ^= 2
        (broken_off / name).write_bytes(content)
        assert said in verify(broken_off).problems
        (broken_off / name).write_bytes(whole)


@pytest.mark.parametrize("odd", ODD)
def test_nothing_odd_in_a_checkpoints_place_stops_it(odd: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "lora", 1, 0.5, status="stopped")
    checkpoint.save(
        # A seal is no signature: a label can be made up, and must not make us read other files.
        folder / "checkpoint",
        3,
        {},
        {"journals": {"../../x": {"bytes": 1, "sha256": ""}}},
    )
    (folder / "checkpoint" / "step-4.checkpoint").parent.mkdir(exist_ok=True)
    ODD[odd](folder / "checkpoint" / "step-4.checkpoint")
    first, second = verify(folder).problems
    assert first == "step-3.checkpoint is damaged ('../../x' is no journal)"
    assert second.startswith("step-4.checkpoint ")


def test_the_command_exits_0_for_a_sound_study_and_3_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def code() -> object:
        monkeypatch.setattr("sys.argv", ["dora.status", "--verify", "--results", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            status.main()
        return ended.value.code

    # Nothing to verify is not the same as everything sound.
    with pytest.raises(UserError, match=r"^no run under"):
        code()
    folder = finished(tmp_path)
    assert code() == 0
    flip(folder / "best.safetensors")
    assert code() == 3
    assert capsys.readouterr().out.endswith(
        "1 run, 5 files verified, 1 damaged, 0 without checksums\n"
    )


# The size is how much would be read into memory.
@pytest.mark.parametrize("claimed", [1 << 62, -1, "9", None])
def test_a_checkpoint_whose_label_claims_an_odd_journal_is_damaged(
    claimed: Any, tmp_path: Path
) -> None:
    folder = write_run(tmp_path, "lora", 1, None, status="stopped")
    (folder / "metrics.jsonl").write_text("{}\n")
    label = {"journals": {"metrics.jsonl": {"bytes": claimed, "sha256": "0" * 64}}}
    checkpoint.save(folder / "checkpoint", 4, {"a": torch.zeros(1)}, label)
    assert verify(folder).problems == [
        "metrics.jsonl does not begin with the lines that step-4.checkpoint knows"
    ]
