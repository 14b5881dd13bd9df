"""Checks that a tokenizer is whole and belongs to its model, before any training."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from dora.backbones.model_files import read_by_tokenizer
from dora.checked_files import read_object
from dora.errors import UserError, attempt, reason

_MARK = re.compile(r"[\[<][^\s\[\]<>]+[\]>]")  # [CLS], <mask> and the like
# The end of most messages: the two ways out.
WAYS = "use the tokenizer that the model was saved with, or download the folder again"


def malformed(folder: Path) -> list[str]:
    """Returns what is wrong inside the tokenizer's JSON files and SentencePiece models, by file.

    `model_files.check` has seen that they can be opened. Transformers would not name the file, and
    takes a SentencePiece model that was cut short for a file of another kind.
    """
    found: list[str] = []
    by_suffix = {".json": read_object, ".model": _check_pieces}
    for file in read_by_tokenizer(folder):
        if file.suffix in by_suffix:
            attempt(functools.partial(by_suffix[file.suffix], file), found)
    return found


def _check_pieces(file: Path) -> None:
    try:
        from sentencepiece import SentencePieceProcessor

        SentencePieceProcessor(model_file=str(file))
    except Exception as e:  # RuntimeError, and ImportError in a bare environment
        raise UserError(
            f"{file} cannot be read ({reason(e)}); it is cut short or no SentencePiece model"
        ) from e


def problems(tokenizer: Any, folder: Path, rows: int, pad: int | None) -> list[str]:
    """Returns the reasons why a loaded tokenizer is not whole, or not the model's.

    rows: the number of rows of the embedding. pad: config.json's padding id.
    """
    ids, special = tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
    words = [token for token in ids if token not in special and not _MARK.fullmatch(token)]
    if not words:
        # Without a vocabulary, Transformers makes a tokenizer of special tokens alone.
        return [
            f"the tokenizer in {folder} knows {len(ids)} tokens and no words: its vocabulary is "
            f"missing, or of another kind than {type(tokenizer).__name__} reads; {WAYS}"
        ]
    found = _half_there(tokenizer, words, folder)
    # Fewer ids than rows are common: embeddings are padded to a multiple of 8 or 64.
    if (largest := max(ids.values())) >= rows:
        found.append(
            f"the tokenizer in {folder} has ids up to {largest:,}, the model's embedding has "
            f"{rows:,} rows (vocab_size in config.json): they are not of one model; {WAYS}"
        )
    if tokenizer.pad_token_id is None and pad not in ids.values():
        found.append(
            f"the tokenizer in {folder} has no padding token (pad_token is null), and "
            "config.json's pad_token_id names none; set one of the two"
        )
    return found


def _half_there(tokenizer: Any, words: list[str], folder: Path) -> list[str]:
    """Returns the gaps of a vocabulary that could be read: special tokens or merges are missing.

    Transformers gives missing special tokens new ids, whose rows of the embedding belong to other
    tokens, and spells words in letters where merges are missing.
    """
    from tokenizers.models import BPE

    # Tokenizers in Python, such as the Japanese BERT's, have none.
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is not None and (file := folder / "vocab.txt") in read_by_tokenizer(folder):
        own = inner.get_vocab(with_added_tokens=False)
        needed = (tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token)
        if lacking := [token for token in needed if token and token not in own]:
            return [
                f"{file} has no {' and no '.join(lacking)}: it is cut short or another model's; "
                f"{WAYS}"
            ]
    if inner is not None and isinstance(inner.model, BPE):
        merges = len(json.loads(inner.to_str())["model"]["merges"])
        # Every token of several letters comes from a merge. A tenth of tolerance is for tokens
        # that were added by hand; a file that was cut short misses far more.
        several = sum(len(token) > 1 for token in words)
        if merges < 0.9 * several:
            return [
                f"the tokenizer in {folder} has {merges:,} merges for {several:,} tokens of several "
                f"letters: they are cut short or another model's; {WAYS}"
            ]
    return []


def check_known(ids: np.ndarray, rows: int, tokenizer: Any, split: str) -> None:
    """Raises UserError where most tokens of a split are unknown, or hardly any is left.

    ids: (tokens,) of all `rows` of the split, special tokens included.
    """
    special = np.isin(ids, tokenizer.all_special_ids)
    unk = tokenizer.unk_token_id
    unknown = int((ids == unk).sum()) if unk is not None else 0
    known = len(ids) - int(special.sum())
    # The unknown token is a special one in most tokenizers, and then already taken off.
    if unk not in tokenizer.all_special_ids:
        known -= unknown
    # Fewer than one known token for two rows: a byte-level tokenizer has no unknown token and drops
    # every byte that its vocabulary lacks.
    if rows and known <= max(unknown, rows // 2):
        share = 100 * unknown / max(known + unknown, 1)
        raise UserError(
            f"{share:.0f} % of the tokens of {split} are unknown to the tokenizer of "
            f"{tokenizer.name_or_path}, {known:,} are left for {rows:,} rows: it is of another "
            f"language or damaged; {WAYS}"
        )
