"""Small model folders of every architecture, for the tests of damaged or odd ones."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    RobertaConfig,
    RobertaModel,
)

from conftest import DEBERTA_V3
from dora.configuration.config import Config
from dora.preparing.prepare import Prepared, prepare
from runs import small

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
# A WordPiece vocabulary; SentencePiece learns its own from sentences of these words.
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "film", "was", "good", "bad", "##s", "."]
# A file as git leaves it that was cloned without git-lfs.
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)
_MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (BertConfig, BertModel, {}),
    "roberta": (RobertaConfig, RobertaModel, {"type_vocab_size": 1, "pad_token_id": 1}),
    "deberta-v2": (DebertaV2Config, DebertaV2Model, DEBERTA_V3),
}
_LETTERS = [chr(i) for i in range(97, 123)]


@functools.cache
def _made(kind: str) -> Path:
    """Makes a model's weights and config.json, once for each kind; tests copy the folder."""
    folder = Path(tempfile.mkdtemp())
    config, model, own = _MODELS[kind]
    torch.manual_seed(0)
    # 60 embeddings, more than any of the vocabularies has tokens, as published models have, too.
    model(config(vocab_size=60, **SIZES, **own)).save_pretrained(folder)
    return folder


@functools.cache
def _pieces() -> bytes:
    """Trains a SentencePiece model of 40 pieces, DeBERTa's special tokens among them."""
    from sentencepiece import SentencePieceTrainer

    folder = Path(tempfile.mkdtemp())
    # Pangram-like, so that every letter is a piece; repeated, since rare pieces are dropped.
    sentences = [
        " ".join(WORDS[:6]),
        "films are seen by many people",
        "my quiz box just grew very odd",
    ] * 20
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "spm"),
        vocab_size=40,
        pad_id=0,
        unk_id=3,
        bos_id=1,
        eos_id=2,
        pad_piece="[PAD]",
        unk_piece="[UNK]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        minloglevel=2,
        hard_vocab_limit=False,  # so few sentences may not give 40 pieces
    )
    return (folder / "spm.model").read_bytes()


def model_folder(folder: Path, kind: str) -> Path:
    """Makes a whole model in `folder`: weights with 60 embeddings, and its kind's vocabulary."""
    shutil.copytree(_made(kind), folder)
    if kind == "bert":
        (folder / "vocab.txt").write_text("\n".join([*MARKS, *WORDS]) + "\n")
    elif kind == "roberta":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *_LETTERS, "Ġ", "th", "<mask>"]
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    else:
        (folder / "spm.model").write_bytes(_pieces())
    return folder


def edit(file: Path, **changes: Any) -> None:
    """Changes keys of a JSON file, or makes the file with them."""
    value = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**value, **changes}))


def remove(file: Path, *keys: str) -> None:
    """Removes keys of a JSON file."""
    value = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in value.items() if k not in keys}))


@functools.cache  # a composition takes 0.2 s
def _composed(words: tuple[str, ...]) -> Config:
    """Composes a configuration once; `prepared` puts model and results into copies of it."""
    return small(Path("nowhere"), *words)


def prepared(
    folder: Path, results: Path, words: Sequence[str] = ("method=lora", "budget=r1")
) -> Prepared:
    """Prepares a short run on the model in `folder`."""
    config = _composed(tuple(words))
    model = replace(config.model, path=str(folder))
    return prepare(replace(config, model=model, results=str(results)))
