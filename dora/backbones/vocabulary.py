"""Checks that a tokenizer is whole and belongs to its model: by its files, then once loaded.

The files tell most of it within a tenth of a second and without Transformers, so before a sweep
begins. Tokens that Transformers itself adds are known only when it has loaded the tokenizer, which
still is before any training.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dora.backbones.model_files import read_by_tokenizer, vocabulary
from dora.errors import UserError, attempt
from dora.files import read_object

_MARK = re.compile(r"[\[<][^\s\[\]<>]+[\]>]")  # [CLS], <mask> and the like
# The end of every message: the two ways out.
_WAYS = "use the tokenizer that the model was saved with, or download the folder again"


# The runs of a sweep ask again and again, of a handful of models.
@functools.lru_cache(maxsize=16)
def problems(
    folder: Path, config_type: str, rows: int, pad: int | None, fingerprint: str
) -> tuple[str, ...]:
    """Returns the problems of the tokenizer's files.

    rows: the number of rows of the embedding. pad: config.json's padding id. fingerprint: a hash of
    the files, by which the cache notices that one has changed.
    """
    del fingerprint  # part of the cache's key alone
    found: list[str] = []
    files = [file for file in read_by_tokenizer(folder) if file.suffix == ".json"]
    held: dict[str, Any] = {
        file.name: attempt(functools.partial(read_object, file), found) for file in files
    }
    if found:  # with a damaged file nothing else can be told
        return tuple(found)
    config, special = held.get("tokenizer_config.json", {}), held.get("special_tokens_map.json", {})
    ids = attempt(lambda: _ids(vocabulary(folder, config_type)), found)
    if ids is not None:
        found += _half_there(ids, vocabulary(folder, config_type), held, folder)
        # Tokens that are added after training have ids too, and need rows of the embedding.
        added = {**held.get("added_tokens.json", {}), **_added(config)}
        found += _misfit({**ids, **added}, rows, folder)
    # Without the key, the tokenizer's class has a padding token; null takes it away.
    taken_away = "pad_token" in config and config["pad_token"] is None
    if taken_away and not special.get("pad_token") and pad is None:
        found.append(_no_padding(folder))
    return tuple(found)


def _half_there(
    ids: Mapping[str, Any], files: tuple[Path, ...], held: Mapping[str, Any], folder: Path
) -> list[str]:
    """Returns the gaps of a vocabulary that can be read: special tokens or merges are missing.

    Transformers would give missing special tokens new ids, whose rows of the embedding belong to
    other tokens, and would spell words in letters where merges are missing.
    """
    first, config = files[0], held.get("tokenizer_config.json", {})
    if first.name == "vocab.txt":
        # MPNet's vocabulary has RoBERTa's marks.
        cls, sep = ("<s>", "</s>") if "<s>" in ids else ("[CLS]", "[SEP]")
        names = (("unk_token", "[UNK]"), ("cls_token", cls), ("sep_token", sep))
        lacking = [t for key, usual in names if (t := _token(config.get(key), usual)) not in ids]
        if lacking:
            return [
                f"{first} has no {' and no '.join(lacking)}: it is cut short or another model's; "
                f"{_WAYS}"
            ]
    merges = _merges(files, held)
    # Every token of several letters comes from a merge. A tenth of tolerance is for tokens that
    # were added by hand; a file that was cut short misses far more.
    several = sum(len(token) > 1 and not _MARK.fullmatch(token) for token in ids)
    if merges is not None and merges < 0.9 * several:
        return [
            f"the tokenizer in {folder} has {merges:,} merges for {several:,} tokens of several "
            f"letters: they are cut short or another model's; {_WAYS}"
        ]
    return []


def _token(given: object, usual: str) -> str:
    # A token is its text, or an object of an AddedToken's settings.
    value = given.get("content") if isinstance(given, dict) else given
    return value if isinstance(value, str) else usual


def _merges(files: tuple[Path, ...], held: Mapping[str, Any]) -> int | None:
    """Returns the number of merges of a byte-pair encoding; None for another kind of vocabulary."""
    from tokenizers.models import BPE

    if len(files) == 2:  # vocab.json with merges.txt
        return len(BPE.read_file(*map(str, files))[1])
    model = held.get("tokenizer.json", {}).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        return None
    return len(model["merges"])


def _added(config: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids that tokenizer_config.json adds, each under a made-up name, `added 50264`.

    Only the ids matter here; their texts may repeat those of the vocabulary.
    """
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return {}
    return {f"added {i}": int(i) for i in decoder if i.isdecimal()}


def _ids(files: tuple[Path, ...]) -> dict[str, int]:
    """Returns ids by token from the vocabulary's files. Raises UserError if they hold none."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE, WordPiece

    first = files[0]
    try:
        if first.name == "tokenizer.json":
            return dict(Tokenizer.from_file(str(first)).get_vocab(with_added_tokens=True))
        if first.suffix == ".model":
            return _pieces(first)
        if len(files) == 2:
            return dict(BPE.read_file(*map(str, files))[0])
        return dict(WordPiece.read_file(str(first)))
    except Exception as e:  # both libraries raise plain Exception, or close to it
        raise UserError(
            f"{' with '.join(map(str, files))} cannot be read: {_first_line(e)}; it is cut short "
            "or no vocabulary"
        ) from e


def _pieces(file: Path) -> dict[str, int]:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    return {model.id_to_piece(i): i for i in range(model.get_piece_size())}


def _misfit(ids: Mapping[str, object], rows: int, folder: Path) -> list[str]:
    # Special tokens alone are what Transformers makes of a folder without a vocabulary.
    if all(_MARK.fullmatch(token) or token.startswith("added ") for token in ids):
        return [
            f"the tokenizer in {folder} knows {len(ids)} tokens and no words: its vocabulary is "
            f"missing; {_WAYS}"
        ]
    if not all(isinstance(i, int) for i in ids.values()):
        return [f"the tokenizer in {folder} has a token whose id is no whole number; {_WAYS}"]
    return _too_many(ids.values(), rows, folder)


def _too_many(ids: Iterable[Any], rows: int, folder: Path) -> list[str]:
    # Fewer ids than rows are common: embeddings are padded to a multiple of 8 or 64.
    largest = max(ids)
    if largest < rows:
        return []
    return [
        f"the tokenizer in {folder} has ids up to {largest:,}, the model's embedding has {rows:,} "
        f"rows (vocab_size in config.json): they are not of one model; {_WAYS}"
    ]


def _no_padding(folder: Path) -> str:
    return (
        f"the tokenizer in {folder} has no padding token (pad_token is null), and config.json's "
        "pad_token_id names none; set one of the two"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_loaded(tokenizer: Any, folder: Path, rows: int, pad: int | None) -> None:
    """Checks a loaded tokenizer, and gives it config.json's padding where it has none.

    rows: the number of rows of the embedding. pad: config.json's padding id. Raises UserError where
    the tokenizer does not fit the model.
    """
    ids = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    if not ids.keys() - special:
        raise UserError(
            f"the tokenizer in {folder} knows {len(ids)} tokens and no words: its vocabulary is "
            f"missing, or of another kind than {type(tokenizer).__name__} reads; {_WAYS}"
        )
    if wrong := _too_many(ids.values(), rows, folder):
        raise UserError(*wrong)
    if tokenizer.pad_token_id is None:
        token = next((t for t, i in ids.items() if i == pad), None)
        if token is None:
            raise UserError(_no_padding(folder))
        tokenizer.pad_token = token


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
            f"language or damaged; {_WAYS}"
        )
