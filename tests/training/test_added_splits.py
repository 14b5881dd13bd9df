"""AX added after MNLI was trained: the predictions are those of a run that had it, bit for bit."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dora.cli.sweep import plan
from dora.configuration.groups import DataConfig
from dora.data.predictions import save, unpredicted
from dora.data.sources import fingerprint, read_dir
from dora.data.tasks import AX, TASKS
from dora.preparing import prepare
from dora.records import artefacts
from dora.records.lock import Lock
from dora.records.record import Record
from dora.records.verify import verify
from dora.run import main
from dora.training.added_splits import predict_added
from dora.training.loop import Loop
from dora.training.processes import World
from runs import (
    arrays,
    change_record,
    configure,
    only_run,
    record,
    run,
    small,
    small_glue,
    small_words,
)

WORDS = ("task=mnli", "max_steps=10", "eval_every=5", "batch_size=4", "limit_train=32")


def glue(folder: Path, ax: bool) -> str:
    """Makes a download of MNLI alone, with AX or without; returns the word that names it."""
    folder.mkdir(exist_ok=True)
    if not (folder / "MNLI").exists():
        (folder / "MNLI").symlink_to(small_glue() / "MNLI")
    if ax:
        shutil.copy(small_glue() / "AX.tsv", folder / "AX.tsv")
    return f"data.dir={folder}"


def again(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Runs the command in this process, where any training step fails the test."""
    monkeypatch.setattr(Loop, "train_step", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr("sys.argv", ["dora.run", *words])
    main()


@pytest.mark.parametrize(
    "words",
    [
        ("method=adalora", "budget=r2"),  # masks components, which the kept weights leave out
        # At this rate no score changes, so the first evaluation that counts stays the best.
        pytest.param(
            ("method=full", "keep_model=true", "eval_every=2", "lr=1e-9"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda words: words[0],
)
def test_ax_added_later_gives_the_bits_of_a_run_that_had_it(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (*WORDS, *words)
    run(small(tmp_path / "first", *words, glue(tmp_path / "whole", ax=True)))
    run(small(tmp_path / "later", *words, glue(tmp_path / "glue", ax=False)))
    before = arrays(only_run(tmp_path / "later"))
    assert "ax/ids" not in before
    weights = {f: f.read_bytes() for f in only_run(tmp_path / "later").rglob("*.safetensors")}

    # A sweep sees that the run is done and lacks a split, takes it up once, and not again.
    typed = small_words(tmp_path / "later", *words, glue(tmp_path / "glue", ax=True))
    assert plan([typed], lambda words: configure(*words)).begin() == [typed]
    said = "1 run: 0 done before, 0 to train, 1 done before and to predict rows that came later"
    assert said in capsys.readouterr().out
    again(monkeypatch, *typed)
    assert plan([typed], lambda words: configure(*words)).begin() == []

    assert "AX predicted from the kept weights, without training" in capsys.readouterr().out
    first, later = (arrays(only_run(tmp_path / name)) for name in ("first", "later"))
    assert only_run(tmp_path / "first").parts[-7:] == only_run(tmp_path / "later").parts[-7:]
    # Both cases are tested: the best evaluation is the last one, and an earlier one.
    results = record(tmp_path / "later")["results"]
    assert (results["best"]["step"] < results["last"]["step"]) == ("method=full" in words)
    # Only the best weights are kept: the last evaluation's are gone unless they are the best.
    assert set(first) - set(later) == ({"last/ax/logits"} if "method=full" in words else set())
    for name in later:
        assert first[name].tobytes() == later[name].tobytes(), name
    assert record(tmp_path / "later")["data"] == record(tmp_path / "first")["data"]
    assert record(tmp_path / "later")["added"][0]["splits"] == ["ax"]
    assert all(f.read_bytes() == content for f, content in weights.items())  # only read


def test_a_process_without_the_record_ends_well_where_ax_came_later(
    done: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Under torchrun every process finds the run done and predicts; one of them has the record.
    shutil.copytree(done["lora"], tmp_path / "out")
    words = (*WORDS, "max_steps=2", "method=lora")
    monkeypatch.setattr("dora.cli.job._run", lambda prepared: {})
    again(monkeypatch, *small_words(tmp_path / "out", *words, glue(tmp_path / "glue", ax=True)))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Gives the results folder of a run of one step without AX, by method."""
    root = tmp_path_factory.mktemp("done")
    for method in ("lora", "full"):
        words = (*WORDS, "max_steps=2", f"method={method}", glue(root / "glue", ax=False))
        run(small(root / method, *words))
    return {method: root / method for method in ("lora", "full")}


# Damage to weights or predictions is found by the record's checksums. Weights that the record names
# and the method no longer trains, or that are not finite, show in their content.
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("not kept", "kept no weights; keep_model=true force=true trains it again"),
        ("damaged", "best.safetensors is damaged or another's: it has 999 bytes, run.json says "),
        ("another's", "best.safetensors is damaged or another's: it has "),
        ("not finite", "best.safetensors is damaged or another's: "),
        ("no checksums", "its record has no checksums; its command trains it anew"),
        ("another's, recorded", "the kept weights lack "),
        ("not finite, recorded", "the kept weights hold NaN or infinity: classifier.dense.bias"),
        (
            "predictions",
            "predictions.npz is damaged or another's: its sha256 is not the one in run.json",
        ),
        ("disk", "No space left on device"),
        ("in use", "is in use by process"),
    ],
)
def test_a_done_run_stays_done_whatever_keeps_ax_from_being_predicted(
    kind: str,
    said: str,
    done: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    method = "full" if kind == "not kept" else "lora"
    results = shutil.copytree(done[method], tmp_path / "results")
    folder, weights = only_run(results), only_run(results) / "best.safetensors"
    if kind == "no checksums":
        change_record(folder, "files")
    if kind == "predictions":  # one bit in the middle
        content = bytearray((folder / "predictions.npz").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "predictions.npz").write_bytes(content)
    before, lock = (folder / "predictions.npz").read_bytes(), Lock(folder)
    kind, _, recorded = kind.partition(", ")
    if kind == "damaged":
        weights.write_bytes(weights.read_bytes()[:999])
    elif kind == "another's":  # whole tensors under PEFT's names, none of which is this model's
        shutil.copy(folder / "adapter" / "adapter_model.safetensors", weights)
    elif kind == "not finite":
        tensors = safetensors.torch.load_file(weights)
        tensors["classifier.dense.bias"].fill_(float("nan"))
        safetensors.torch.save_file(tensors, weights)
    elif kind == "disk":
        monkeypatch.setattr("dora.training.added_splits.save", no_space)
    elif kind == "in use":
        lock.take()
    if recorded:
        change_record(folder, files=artefacts.sums(folder, [weights.name, "predictions.npz"]))
    words = (*WORDS, "max_steps=2", f"method={method}", glue(tmp_path / "glue", ax=True))
    again(monkeypatch, *small_words(results, *words))
    lock.release()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "not predicted" in line]
    assert line.startswith("AX not predicted: ")
    assert said in line
    assert (folder / "predictions.npz").read_bytes() == before
    assert record(results)["status"] == "done"


def test_a_process_that_holds_no_record_gives_up_where_the_first_one_does(
    done: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks a process that could go on: it would wait for the first one's predictions for ever."""
    folder = only_run(shutil.copytree(done["lora"], tmp_path / "results"))
    (folder / "best.safetensors").write_bytes(b"damaged")
    words = (*WORDS, "max_steps=2", "method=lora", glue(tmp_path / "glue", ax=True))
    prepared = prepare.prepare(small(tmp_path / "results", *words))
    # What the main process broadcasts: the missing splits, then its record.
    first = iter([["ax"], record(tmp_path / "results")])
    monkeypatch.setattr(World, "broadcast", lambda world, value: next(first))
    second = World(1, 2, torch.device("cpu"))
    monkeypatch.setattr(
        "dora.training.added_splits.build", lambda *_, **__: pytest.fail("predicts")
    )
    predict_added(prepared, second, Record(folder), lambda text: None)
    assert next(first, None) is None


def test_a_kill_between_record_and_predictions_leaves_a_run_that_is_sound_and_is_taken_up(
    done: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = shutil.copytree(done["lora"], tmp_path / "results")
    folder = only_run(results)
    words = (*WORDS, "max_steps=2", "method=lora", glue(tmp_path / "glue", ax=True))
    for time in (1, 2):  # the second time the record already names the first attempt
        with monkeypatch.context() as patch:
            patch.setattr("dora.training.added_splits.save", no_space)
            again(patch, *small_words(results, *words))
        assert len(record(results)["added"]) == time
        assert verify(folder).problems == []
    again(monkeypatch, *small_words(results, *words))
    assert "best/ax/logits" in arrays(folder)
    assert verify(folder).problems == []


def test_an_ax_of_other_rows_is_predicted_anew_once_it_is_mended(
    done: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = only_run(shutil.copytree(done["lora"], tmp_path / "results"))
    cut = {"best/ax/logits": np.zeros((5, 3)), "last/ax/logits": np.zeros((5, 3))}
    save(folder / "predictions.npz", {**arrays(folder), **cut, "ax/ids": np.arange(5)})
    # As where the last evaluation is not the best one: nobody has its weights.
    results = record(tmp_path / "results")["results"]
    change_record(
        folder,
        files=artefacts.sums(folder, ["best.safetensors", "predictions.npz"]),
        results={**results, "best": {**results["best"], "step": 1}},
    )
    words = (*WORDS, "max_steps=2", "method=lora", glue(tmp_path / "glue", ax=True))
    again(monkeypatch, *small_words(tmp_path / "results", *words))
    assert (len(arrays(folder)["ax/ids"]), len(arrays(folder)["best/ax/logits"])) == (40, 40)
    assert "last/ax/logits" not in arrays(folder)
    assert record(tmp_path / "results")["data"]["rows"]["ax"] == 40


def test_an_ax_of_other_texts_is_predicted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, "method=lora", "max_steps=2", glue(tmp_path / "glue", ax=True))
    ax = tmp_path / "glue" / "AX.tsv"
    right = ax.read_text()
    # The two texts of each row exchanged: ids, number of rows and size stay.
    ax.write_text(right.replace("sentence1\tsentence2", "sentence2\tsentence1"))
    run(small(tmp_path, *words))
    wrong = arrays(only_run(tmp_path))
    ax.write_text(right)
    again(monkeypatch, *small_words(tmp_path, *words))
    mended = arrays(only_run(tmp_path))
    assert not np.allclose(mended["best/ax/logits"], wrong["best/ax/logits"], atol=1e-4)
    monkeypatch.undo()
    run(small(tmp_path, *words, "force=true"))
    trained = arrays(only_run(tmp_path))
    assert mended["best/ax/logits"].tobytes() == trained["best/ax/logits"].tobytes()
    # Once is enough, also where an older file has no sums.
    assert unpredicted(only_run(tmp_path), {"ax": read_dir(AX, tmp_path / "glue")["ax"]}) == []
    old = {name: array for name, array in trained.items() if name != "ax/texts"}
    save(only_run(tmp_path) / "predictions.npz", old)
    assert unpredicted(only_run(tmp_path), {"ax": read_dir(AX, tmp_path / "glue")["ax"]}) == []


def no_space(path: Path, arrays: object) -> None:
    """Fails as a write on a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_ax_is_no_part_of_what_a_run_of_mnli_is(tmp_path: Path) -> None:
    words = (*WORDS, "method=lora")
    without = prepare.prepare(small(tmp_path, *words, glue(tmp_path / "glue", ax=False)))
    assert "ax" not in without.rows
    with_ax = prepare.prepare(small(tmp_path, *words, glue(tmp_path / "glue", ax=True)))
    assert len(with_ax.rows["ax"]) == 40
    assert with_ax.folder == without.folder
    # The generated data come with AX, and it is no part of their fingerprint either.
    rows, _, mini = prepare.read_rows(DataConfig("mini"), TASKS["mnli"])
    assert len(rows.pop("ax")) == 300
    assert mini == fingerprint(rows)


def test_another_ax_is_tokenised_anew(tmp_path: Path) -> None:
    words = (*WORDS, "method=lora", "max_steps=2", glue(tmp_path / "glue", ax=True))
    run(small(tmp_path, *words))
    text = (tmp_path / "glue" / "AX.tsv").read_text().splitlines()
    # The same rows in reverse order: equal in number and size, so only their content tells.
    (tmp_path / "glue" / "AX.tsv").write_text("\n".join([*text[:1], *reversed(text[1:])]) + "\n")
    before = arrays(only_run(tmp_path))
    run(small(tmp_path, *words, "force=true"))
    after = arrays(only_run(tmp_path))
    assert (after["ax/ids"] == before["ax/ids"][::-1]).all()
    # Not to the bit: in another order rows have other neighbours in their batch, and other padding.
    np.testing.assert_allclose(after["best/ax/logits"], before["best/ax/logits"][::-1], atol=1e-5)
    assert not np.allclose(after["best/ax/logits"], before["best/ax/logits"], atol=1e-4)
