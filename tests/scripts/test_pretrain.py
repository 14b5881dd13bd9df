"""Pretraining on a few sentences: masks, blocks, held-out texts, resuming, the model's folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from dora.data.mini import mini
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.process.signals import StopSignals
from runs import load_script, small_glue

script = load_script("pretrain_tiny")
from pretraining import card, corpus  # noqa: E402
from pretraining import loop as pretraining_loop  # noqa: E402

KINDS = ("roberta", "deberta")


def arguments(kind: str, folder: Path, *more: str) -> argparse.Namespace:
    """Returns the command line's values for a pretraining of 8 steps on mini's reviews."""
    text = folder / "reviews.txt"
    if not text.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text.write_text("\n".join(mini(TASKS["sst2"])["train"].first))
    words = [kind, "--text", str(text), "--work", str(folder), "--out", str(folder / "out")]
    # 8 steps of 4 blocks.
    words += f"--layers 1 --hidden 32 --batch 4 --tokens {8 * 4 * corpus.LENGTH}".split()
    return script.parser().parse_args([*words, "--log-every", "4", *more])


def loop_of(args: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """Returns (the loop at its newest checkpoint, held-out blocks)."""
    work = args.work / args.kind
    tokenizer, train, heldout = corpus.prepared(args.kind, work, args.text, args.glue)
    loop = pretraining_loop.Pretraining(args, work, tokenizer, train)
    loop.load()
    return loop, heldout


class StopAfter(StopSignals):
    """Stands for a signal that comes while step `n` runs."""

    def __init__(self, loop: Any, n: int) -> None:
        self.loop, self.n = loop, n

    @property
    def received(self) -> int | None:  # type: ignore[override]
        return 15 if self.loop.step >= self.n else None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_pretraining_resumes_bit_for_bit_and_its_folder_is_a_plain_model(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Stopped after 3 of 8 steps, between two lines of the log.
    whole, heldout = loop_of(arguments(kind, tmp_path / "a"))
    assert whole.run(heldout, StopAfter(whole, 99))
    first, _ = loop_of(arguments(kind, tmp_path / "b"))
    assert not first.run(heldout, StopAfter(first, 3))
    second, _ = loop_of(arguments(kind, tmp_path / "b"))
    assert second.step == 3
    assert second.run(heldout, StopAfter(second, 99))
    for name, parameter in whole.named().items():
        assert torch.equal(parameter, second.named()[name]), name
    assert whole.log[-1]["heldout_loss"] == second.log[-1]["heldout_loss"]

    out = tmp_path / "out"
    card.export(whole, heldout, out)
    assert f"tiny_{kind}" in (out / "README.md").read_text()
    model = AutoModelForMaskedLM.from_pretrained(out, dtype=torch.float32)
    # The stored weights are the trained ones, rounded to 16 bits.
    named = dict(model.named_parameters())
    assert all(torch.equal(named[n], p.half().float()) for n, p in whole.named().items())
    encoder, report = AutoModel.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert all(name.startswith("pooler.") for name in report["missing_keys"])
    # What a run loads is the encoder alone, to which only a pooler may be new.
    ids = torch.tensor(AutoTokenizer.from_pretrained(out)(["a film"])["input_ids"])
    assert torch.equal(encoder(ids).last_hidden_state, getattr(model, kind)(ids).last_hidden_state)


def test_masks_are_a_function_of_the_seed_and_touch_no_special_token(tmp_path: Path) -> None:
    loop, _ = loop_of(arguments("roberta", tmp_path))
    blocks = (
        np.random.default_rng(0)
        .integers(0, len(loop.tokenizer), (400, corpus.LENGTH))
        .astype(np.uint16)
    )
    # Any ids, special tokens among them: enough for shares to be within a hundredth.
    ids, where, targets = pretraining_loop.masked(blocks, loop.tokenizer, [1, 2])
    again = pretraining_loop.masked(blocks, loop.tokenizer, [1, 2])
    assert all(torch.equal(a, b) for a, b in zip((ids, where, targets), again, strict=True))
    original = torch.from_numpy(blocks.astype(np.int64))
    assert torch.equal(original[where], targets)
    assert torch.equal(original[~where], ids[~where])
    assert (targets >= 5).all()  # below are the special tokens
    assert where.float().mean().item() == pytest.approx(pretraining_loop.MASKED, abs=0.01)
    shown = ids[where]
    # 80 % the mask, 10 % the token itself (BERT, section 3.1); the rest is another token.
    assert (shown == loop.tokenizer.mask_token_id).float().mean().item() == pytest.approx(
        0.8, abs=0.02
    )
    assert (shown == targets).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_blocks_hold_the_documents_end_to_end(tmp_path: Path) -> None:
    loop, _ = loop_of(arguments("deberta", tmp_path))
    # Their order is mixed; a pair stays a pair.
    pairs = [("a film", "the film"), ("it is dull", None), ("a bad one", "not good")] * 40
    blocks = corpus.pack(pairs, loop.tokenizer)
    assert (blocks[:, 0] == loop.tokenizer.cls_token_id).all()
    text = loop.tokenizer.decode(blocks[:, 1:].reshape(-1)).replace(" ", "")
    assert "afilm[SEP]thefilm[SEP]" in text
    assert "itisdull[SEP]" in text


def test_the_glue_texts_are_the_training_sets_less_what_other_splits_hold() -> None:
    task = TASKS["wnli"]
    splits = read_dir(task, small_glue())
    unseen = {t for s in ("dev", "test") for t in (*splits[s].first, *(splits[s].second or ()))}
    # WNLI's training sentences recur in its other splits.
    texts = list(corpus._glue_texts(task, small_glue()))
    assert texts
    assert not unseen & {t for pair in texts for t in pair}
    assert len(texts) == sum(
        a not in unseen and b not in unseen
        for a, b in zip(splits["train"].first, splits["train"].second or (), strict=True)
    )


def test_no_document_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    args = arguments("roberta", tmp_path)
    train, held = corpus.documents(args.text, small_glue())
    assert held
    assert not set(train) & set(held)
