"""AX that came after MNLI was trained: the same predictions as from the start, without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dora import experiment, prepare
from dora.lock import Lock
from dora.run import main
from dora.submit import absent
from dora.train import Loop
from runs import only_run, record, run, small, small_glue, small_words

WORDS = ("task=mnli", "max_steps=12", "eval_every=2", "batch_size=4")


def glue(folder: Path, ax: bool) -> str:
    """A download of MNLI alone, with AX or without, as the word that names it."""
    folder.mkdir(exist_ok=True)
    if not (folder / "MNLI").exists():
        (folder / "MNLI").symlink_to(small_glue() / "MNLI")
    if ax:
        shutil.copy(small_glue() / "AX.tsv", folder / "AX.tsv")
    prepare._read_rows.cache_clear()  # what a new process would not remember
    return f"data.dir={folder}"


def again(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """The command in this process, in which no step may be trained."""
    monkeypatch.setattr(Loop, "train_step", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr("sys.argv", ["dora.run", *words])
    main()


@pytest.mark.parametrize("method", [["method=adalora"], ["method=dora", "precision=bf16"], ["method=full", "keep_model=true"]],
                         ids=["adalora", "dora-bf16", "full"])  # fmt: skip
def test_ax_added_later_gives_the_bits_of_a_run_that_had_it(
    method: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, *method]
    run(small(tmp_path / "first", *words, glue(tmp_path / "whole", ax=True)))
    run(small(tmp_path / "later", *words, glue(tmp_path / "glue", ax=False)))
    before = np.load(only_run(tmp_path / "later") / "predictions.npz")
    assert "ax/ids" not in before
    weights = {f: f.read_bytes() for f in only_run(tmp_path / "later").rglob("*.safetensors")}

    again(monkeypatch, *small_words(tmp_path / "later", *words, glue(tmp_path / "glue", ax=True)))

    assert "AX predicted from the kept weights, without training" in capsys.readouterr().out
    first, later = (np.load(only_run(tmp_path / name) / "predictions.npz") for name in ("first", "later"))
    assert only_run(tmp_path / "first").parts[-7:] == only_run(tmp_path / "later").parts[-7:]
    last = {"last/ax/logits"} - set(later)  # the last evaluation's weights are not kept
    assert set(first) - set(later) == last
    for name in later:
        assert first[name].tobytes() == later[name].tobytes(), name
    assert record(tmp_path / "later")["data"] == record(tmp_path / "first")["data"]
    assert record(tmp_path / "later")["added"][0]["splits"] == ["ax"]
    assert all(f.read_bytes() == content for f, content in weights.items())


def done_without_ax(tmp_path: Path, *words: str) -> list[str]:
    """A short run that is done and lacks AX, which is there now; its command."""
    run(small(tmp_path, *WORDS, "max_steps=1", *words, glue(tmp_path / "glue", ax=False)))
    return small_words(tmp_path, *WORDS, "max_steps=1", *words, glue(tmp_path / "glue", ax=True))


def test_weights_that_were_not_kept_are_said_and_the_run_stays_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = done_without_ax(tmp_path, "method=full")
    again(monkeypatch, *words)
    assert "AX not predicted" in (said := capsys.readouterr().out)
    assert "kept no weights; keep_model=true force=true trains it again" in said
    assert record(tmp_path)["status"] == "done"


@pytest.mark.parametrize("kind", ["damaged", "another's", "disk", "in use"])
def test_a_done_run_stays_done_whatever_keeps_ax_from_being_predicted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = done_without_ax(tmp_path, "method=lora", "budget=r1")
    folder = only_run(tmp_path)
    before, lock = (folder / "predictions.npz").read_bytes(), Lock(folder)
    if kind == "damaged":
        (folder / "best.safetensors").write_bytes((folder / "best.safetensors").read_bytes()[:999])
    elif kind == "another's":
        shutil.copy(folder / "adapter" / "adapter_model.safetensors", folder / "best.safetensors")
    elif kind == "disk":
        monkeypatch.setattr("dora.added.save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))  # fmt: skip
    else:
        lock.take()
    again(monkeypatch, *words)
    lock.release()
    assert capsys.readouterr().out.count("AX not predicted: ") == 1
    assert (folder / "predictions.npz").read_bytes() == before
    assert record(tmp_path)["status"] == "done"


def test_ax_is_no_part_of_what_a_run_of_mnli_is(tmp_path: Path) -> None:
    words = (*WORDS, "method=lora")
    without = prepare.prepare(small(tmp_path, *words, glue(tmp_path / "glue", ax=False)))
    assert "ax" not in without.rows
    with_ax = prepare.prepare(small(tmp_path, *words, glue(tmp_path / "glue", ax=True)))
    assert len(with_ax.rows["ax"]) == 40
    assert with_ax.folder == without.folder
    mini = prepare.prepare(small(tmp_path, *words, "data=mini"))
    rows = {k: v for k, v in mini.rows.items() if k != "ax"}
    assert mini.fingerprints["data"] == prepare.sources.fingerprint(rows)


def test_another_ax_is_tokenised_anew(tmp_path: Path) -> None:
    words = (*WORDS, "method=lora", "max_steps=1")
    run(small(tmp_path, *words, glue(tmp_path / "glue", ax=True)))
    text = (tmp_path / "glue" / "AX.tsv").read_text().splitlines()
    (tmp_path / "glue" / "AX.tsv").write_text("\n".join([*text[:1], *reversed(text[1:])]) + "\n")
    prepare._read_rows.cache_clear()
    before = np.load(only_run(tmp_path) / "predictions.npz")
    experiment.run(prepare.prepare(small(tmp_path, *words, f"data.dir={tmp_path / 'glue'}", "force=true")))
    after = np.load(only_run(tmp_path) / "predictions.npz")
    assert (after["ax/ids"] == before["ax/ids"][::-1]).all()
    assert (after["best/ax/logits"] == before["best/ax/logits"][::-1]).all()
