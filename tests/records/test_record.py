"""A run's record: kept from one start to the next, with the changes between them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dora.backbones.backbone import ASSETS
from dora.configuration.config import Config
from dora.errors import RunFailed, UserError
from dora.preparing.prepare import prepare
from dora.records import provenance as provenance_module
from dora.records import study
from dora.records.identity import (
    ARITHMETIC,
    LATER,
    OF_ARCHITECTURE,
    configuration,
    identity,
)
from dora.records.provenance import processor, provenance
from dora.records.record import REMOVED, Record, read_finished
from dora.records.run_json import read, read_done
from dora.training.header import header
from dora.training.processes import World
from runs import configure, cut, only_run, record, run, small


def opened(folder: Path, **header: Any) -> Record:
    """Opens a record of a run, on a CPU unless the header says otherwise."""
    found = Record(folder)
    about = {
        "host": "a",
        "device": "cpu",
        "processor": "one (AVX2)",
        "world_size": 1,
        "git": None,
        "versions": {"torch": "2.8"},
        **header,
    }
    found.open(about)
    return found


def start_again(folder: Path, step: int, **header: Any) -> str | None:
    """Starts a run at 0, then after `step`; returns the changes that the second start says."""
    first = opened(folder)
    first.start(0)
    first.close()
    second = opened(folder, **header)
    try:
        return second.start(step)
    finally:
        second.close()


def test_another_processor_is_said_since_its_bits_are_others(tmp_path: Path) -> None:
    said = start_again(tmp_path, 5, processor="two (AVX512)")
    assert said == "processor one (AVX2) before, now two (AVX512)"


@pytest.mark.parametrize(
    "package",
    ["torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "dora-glue"],
)
def test_another_version_of_what_the_bits_depend_on_is_said(package: str, tmp_path: Path) -> None:
    # A package that no record names could change without anybody being told.
    assert package in provenance()["versions"]
    first = opened(tmp_path, versions={package: "2.8"})
    first.start(0)
    first.close()
    second = opened(tmp_path, versions={package: "2.9"})
    assert second.start(5) == f"{package} 2.8 before, now 2.9"
    second.close()


# These read and write, and compute nothing. A warning that means nothing hides those that do.
@pytest.mark.parametrize("package", ["safetensors", "hydra-core", "datasets", "python"])
def test_another_version_of_what_no_bit_depends_on_is_not_said(
    package: str, tmp_path: Path
) -> None:
    assert start_again(tmp_path, 5, versions={"torch": "2.8", package: "9"}) is None


def test_a_version_that_an_older_record_does_not_hold_is_not_called_changed(tmp_path: Path) -> None:
    assert start_again(tmp_path, 5, versions={"torch": "2.8", "scipy": "1.2"}) is None


@pytest.mark.parametrize("device", ["cpu", "H100"])
def test_a_resumed_run_says_that_it_is_compiled_or_has_graphs_now(
    device: str, tmp_path: Path
) -> None:
    for key, said in (
        ("compile", "compile false before, now true"),
        ("cuda_graphs", None if device == "cpu" else "cuda_graphs false before, now true"),
    ):
        # An older record does not say what its start had.
        for before, changed in (({key: False}, said), ({}, None)):
            folder = tmp_path / f"{key}{before}"
            first = opened(folder, device=device, config=before)
            first.start(0)
            first.close()
            second = opened(folder, device=device, config={key: True})
            assert second.start(5) == changed
            second.close()
            assert read(folder)["starts"][-1][key] is True


@pytest.mark.parametrize("library", ["cuda", "cudnn"])
def test_another_cuda_is_said_where_it_computes(library: str, tmp_path: Path) -> None:
    # A machine without a GPU may have a PyTorch that was built with CUDA.
    for name, device, said in (
        ("cpu", "cpu", None),
        ("gpu", "H100", f"{library} 12 before, now 13"),
    ):
        first = opened(tmp_path / name, device=device, versions={library: "12"})
        first.start(0)
        first.close()
        second = opened(tmp_path / name, device=device, versions={library: "13"})
        assert second.start(5) == said
        second.close()


def test_the_processor_beside_a_gpu_changes_nothing(tmp_path: Path) -> None:
    # It only loads data and writes files there.
    assert start_again(tmp_path / "a", 5) is None
    assert "processor two" not in (
        start_again(tmp_path / "b", 5, device="H100", processor="two") or ""
    )


def test_the_processor_is_named_with_its_instructions() -> None:
    assert re.fullmatch(r".+ \([A-Z0-9]+\)", processor())


def test_a_resumed_run_shows_the_progress_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, 10, monkeypatch, "method=lora")
    # Without checkpoints of its own, the second start gets as far as step 11 and notes nothing.
    cut(tmp_path, 11, monkeypatch, "method=lora", "checkpoint_every=null")
    assert record(tmp_path)["resumed_from"] == [10]
    assert study.look(only_run(tmp_path)).step == 10


def test_a_run_without_a_checkpoint_shows_no_progress(tmp_path: Path) -> None:
    folder = tmp_path / "dir/wnli/m/lora/r8/k/s1"
    opened(folder).close()
    found = opened(folder)
    # As a run leaves it that was killed after progress, and whose checkpoints are gone.
    found.update(progress={"step": 7, "total_steps": 10, "seconds": 1.0})
    found.start(0)
    found.close()
    assert study.look(folder).step is None


@pytest.mark.parametrize("words", [[], ["method.alpha=8", "budget=5000"]])
def test_a_setting_that_came_later_leaves_runs_of_before_their_directories(
    words: list[str],
) -> None:
    now = configure("method=lora", *words).resolved()
    method = now["method"]
    then = {k: v for k, v in method.items() if k in ("name", "alpha", "dropout")}
    assert then.keys() != method.keys()
    key = identity({**now, "method": then}, {})
    assert identity(now, {}) == key
    assert now["method"] == method  # the record has all of them
    others = {"scaling": "rslora", "lr_ratio": 16.0, "init": "pissa"}
    keys = {identity({**now, "method": {**method, k: v}}, {}) for k, v in others.items()}
    assert len(keys | {key}) == 4
    fair = [{"name": "lora_fair", "server_step": step} for step in ("fixed", "relative")]
    steps = [identity({"method": m}, {}) for m in [{"name": "lora_fair"}, *fair]]
    assert steps[0] == steps[1] != steps[2]
    # Another method's setting of that name is its own.
    named = [{"name": "other", "init": init} for init in ("kaiming", "pissa")]
    assert len({identity({"method": m}, {}) for m in [{"name": "other"}, *named]}) == 3


def test_a_new_setting_of_every_run_leaves_their_directories_at_the_value_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass
    class Grown(Config):
        averaging: float = 0.0

    then = configure("method=fedit")
    before, after = then.resolved(), Grown(**vars(then)).resolved()
    after["fed"]["momentum"] = 0.0
    key = identity(before, {})
    assert identity(after, {}) != key
    monkeypatch.setitem(LATER, "", {"averaging": 0.0, "fed.momentum": 0.0})
    assert identity(after, {}) == key
    assert (after["averaging"], after["fed"]["momentum"]) == (0.0, 0.0)  # the record has both
    others = {"averaging": 0.9}, {"fed": {**after["fed"], "momentum": 0.9}}
    assert len({key, *(identity({**after, **other}, {}) for other in others)}) == 3
    # Readers see the settings in the records of before, but clients' in a federated run alone.
    assert configuration({"config": before}) == after
    assert "averaging" not in before
    alone = configure("method=lora").resolved()
    assert configuration({"config": alone}) == {**alone, "averaging": 0.0}


@pytest.mark.parametrize(
    ("model", "number"),
    [("tiny_roberta", ARITHMETIC), ("tiny_deberta", OF_ARCHITECTURE["deberta-v2"])],
)
def test_record_and_directory_have_the_arithmetic_of_their_architecture(
    model: str, number: int, tmp_path: Path
) -> None:
    p = prepare(small(tmp_path, f"model={model}"))
    assert header(p, World(0, 1, torch.device("cpu")), None)["arithmetic"] == number
    assert p.folder.parent.name == identity(p.settings, p.fingerprints, number)


# The words become a command that is shown to be pasted.
@pytest.mark.parametrize("words", [[1, 2], 5, {"a": 1}])
def test_words_that_are_none_are_no_record(words: object, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({"schema": 1, "status": "failed", "words": words})
    )
    with pytest.raises(UserError, match=r"words.* is .*, which must be a"):
        read_finished(tmp_path)


def test_a_record_that_is_a_pipe_or_too_deep_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"run.json cannot be read \(RecursionError"):
        read_finished(tmp_path)
    assert read_done(tmp_path) is None
    (tmp_path / "run.json").unlink()
    # Opening a pipe would wait for ever.
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(UserError, match=r"run.json cannot be read \(it is no regular file"):
        read_finished(tmp_path)


def test_a_record_names_a_models_folder_only_where_the_user_did(tmp_path: Path) -> None:
    given = small(
        tmp_path / "given", "method=lora", "max_steps=4", f"model.path={ASSETS / 'tiny_roberta'}"
    )
    # A path inside an installed package would say nothing to another machine.
    assert run(given)["model"]["path"] == str(ASSETS / "tiny_roberta")
    assert run(small(tmp_path / "own", "method=lora", "max_steps=4"))["model"]["path"] is None


def test_a_done_record_without_results_is_not_taken_for_done(tmp_path: Path) -> None:
    # Tables would otherwise fail on it, or show a hole where the run should be trained again.
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "status": "done"}))
    assert read_done(tmp_path) is None


@pytest.mark.parametrize(
    "name",
    ["log.txt", ".lock", "metrics.jsonl", "run.json", "checkpoint", "checkpoint/state", "adapter"],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_directory_that_leads_elsewhere_is_not_opened_and_nothing_is_written(
    name: str, kind: str, tmp_path: Path
) -> None:
    folder, precious = tmp_path / "run", tmp_path / "precious"
    precious.write_text("mine")
    path = folder / name
    path.parent.mkdir(parents=True)
    # Results may be unpacked from somebody's archive: to open one must not write to what it points
    # to.
    path.symlink_to(precious) if kind == "link" else os.mkfifo(path)
    for force in (False, True):
        found = Record(folder)
        with pytest.raises(
            UserError,
            match=rf"holds links or pipes, and no run leaves any: {re.escape(name)}; remove them",
        ):
            found.open({}, force=force)
        found.close()
    assert precious.read_text() == "mine"
    # Not even a lock file: the check comes before everything else.
    assert [p.name for p in folder.rglob("*") if p.is_file() and not p.is_symlink()] == []


@pytest.mark.parametrize("how", ["removed", "moved", "taken by another"])
def test_a_run_whose_directory_is_gone_writes_no_other(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = Record(folder)
    found.open({"config": {}})
    try:
        shutil.rmtree(folder) if how == "removed" else folder.rename(tmp_path / "elsewhere")
        if how == "taken by another":
            folder.mkdir()
            # A new directory under the old name belongs to whoever made it.
            (folder / ".lock").write_text(json.dumps({"host": "h", "pid": 7, "token": "t"}))
        with pytest.raises(
            RunFailed, match="taken over by process 7 on h" if "taken" in how else "moved away"
        ):
            found.update(status="done")
        assert found.taken_by == ("process 7 on h" if "taken" in how else REMOVED)
    finally:
        found.close()
    # To write would make a second directory of this run, with one half of its files.
    assert not (folder / "run.json").exists()


def test_a_hidden_file_of_the_users_own_stays_where_leftovers_are_swept(tmp_path: Path) -> None:
    # The last one alone is as this suite names unfinished files: with the mark of a process.
    names = [".mine.tmp", ".notes.2.tmp.txt", ".run.json.12.tmp", ".run.json.12-0a1b2c3d.tmp"]
    for name in names:
        (tmp_path / name).touch()
    found = Record(tmp_path)
    found.open({"config": {}})
    found.close()
    assert [name for name in names if (tmp_path / name).exists()] == names[:3]


def test_a_checkout_that_a_link_leads_to_has_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real"
    git = ["git", "-C", str(real), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet", str(real)], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    (tmp_path / "link").symlink_to(real)
    monkeypatch.setattr(provenance_module, "CHECKOUT", tmp_path / "link")
    monkeypatch.setattr(provenance_module, "_git", provenance_module._git.__wrapped__)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance()["git"] == {"commit": head.stdout.strip(), "dirty": False}


def test_another_users_checkout_has_its_commit_as_one_mounted_into_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    # A variable of git's own tests.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    head = [*git, "-c", f"safe.directory={tmp_path.resolve()}", "rev-parse", "HEAD"]
    done = subprocess.run(head, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this git takes safe.directory from files alone")
    monkeypatch.setattr(provenance_module, "CHECKOUT", tmp_path)
    (tmp_path / "dora").mkdir()
    (tmp_path / "dora" / "changed.py").touch()
    found = provenance_module._git.__wrapped__()
    assert found == {"commit": done.stdout.strip(), "dirty": True}
