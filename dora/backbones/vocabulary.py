"""Whether a tokenizer is whole and belongs to its model: found from its files at first, then from what was loaded.

The files tell most of it within a tenth of a second and without Transformers, so before a sweep begins. What
Transformers itself adds to a vocabulary is known only when it has loaded it, which still is before any training.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dora.backbones.model_files import read_by_tokenizer, vocabulary
from dora.errors import UserError
from dora.files import read_object

_MARK = re.compile(r"[\[<][^\s\[\]<>]+[\]>]")  # [CLS], <mask> and the like
_WAYS = "use the tokenizer that the model was saved with, or download the folder again"


@functools.lru_cache(maxsize=16)
def problems(
    folder: Path, config_type: str, rows: int, pad: int | None, fingerprint: str
) -> tuple[str, ...]:
    """What is wrong with the tokenizer's files, `rows` being those of the embedding and `pad` config.json's padding.

    The runs of a sweep ask again and again: `fingerprint`, of the files, says whether anything has changed.
    """
    del fingerprint
    found: list[str] = []

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except UserError as e:
            found.extend(e.problems)
        return None

    files = [file for file in read_by_tokenizer(folder) if file.suffix == ".json"]
    held = {file.name: attempt(functools.partial(read_object, file)) for file in files}
    if found:
        return tuple(found)
    config, special = held.get("tokenizer_config.json", {}), held.get("special_tokens_map.json", {})
    ids = attempt(lambda: _ids(vocabulary(folder, config_type)))
    if ids is not None:
        found += _half_there(ids, vocabulary(folder, config_type), held, folder)
        added = {**held.get("added_tokens.json", {}), **_added(config)}
        found += _misfit({**ids, **added}, rows, folder)
    if (
        "pad_token" in config
        and config["pad_token"] is None
        and not special.get("pad_token")
        and pad is None
    ):
        found.append(_no_padding(folder))
    return tuple(found)


def _half_there(
    ids: Mapping[str, Any], files: tuple[Path, ...], held: Mapping[str, Any], folder: Path
) -> list[str]:
    """What a vocabulary lacks that reads as a whole one: special tokens, which would get new ids, or its merges."""
    first, config = files[0], held.get("tokenizer_config.json", {})
    if first.name == "vocab.txt":
        names = (("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
        lacking = [t for key, usual in names if (t := _token(config.get(key), usual)) not in ids]
        if lacking:
            return [
                f"{first} has no {' and no '.join(lacking)}: it is cut short or another model's; {_WAYS}"
            ]
    merges = _merges(files, held)
    several = sum(len(token) > 1 and not _MARK.fullmatch(token) for token in ids)
    if merges is not None and merges < 0.9 * several:
        return [
            f"the tokenizer in {folder} has {merges:,} merges for {several:,} tokens of several letters: they are cut "
            f"short or another model's; {_WAYS}"
        ]
    return []


def _token(given: object, usual: str) -> str:
    value = given.get("content") if isinstance(given, dict) else given
    return value if isinstance(value, str) else usual


def _merges(files: tuple[Path, ...], held: Mapping[str, Any]) -> int | None:
    """How many merges a byte-pair encoding has; None for a vocabulary of another kind."""
    from tokenizers.models import BPE

    if len(files) == 2:
        return len(BPE.read_file(*map(str, files))[1])
    model = held.get("tokenizer.json", {}).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        return None
    return len(model["merges"])


def _added(config: Mapping[str, Any]) -> dict[str, int]:
    """Tokens by id that tokenizer_config.json adds, by a name of their own each."""
    decoder = config.get("added_tokens_decoder")
    return (
        {f"added {i}": int(i) for i in decoder if i.isdecimal()}
        if isinstance(decoder, dict)
        else {}
    )


def _ids(files: tuple[Path, ...]) -> dict[str, int]:
    """Ids by token from the vocabulary's files. Raises UserError where they hold none."""
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
    except Exception as e:  # both libraries raise nothing but Exception and what is close to it
        raise UserError(
            f"{' with '.join(map(str, files))} cannot be read: {_first_line(e)}; it is cut short or no vocabulary"
        ) from e


def _pieces(file: Path) -> dict[str, int]:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    return {model.id_to_piece(i): i for i in range(model.get_piece_size())}


def _misfit(ids: Mapping[str, object], rows: int, folder: Path) -> list[str]:
    if all(_MARK.fullmatch(token) or token.startswith("added ") for token in ids):
        return [
            f"the tokenizer in {folder} knows {len(ids)} tokens and no words: its vocabulary is missing; {_WAYS}"
        ]
    if not all(isinstance(i, int) for i in ids.values()):
        return [f"the tokenizer in {folder} has a token whose id is no whole number; {_WAYS}"]
    return _too_many(ids.values(), rows, folder)


def _too_many(ids: Iterable[Any], rows: int, folder: Path) -> list[str]:
    largest = max(ids)
    if largest < rows:
        return []
    return [
        f"the tokenizer in {folder} has ids up to {largest:,}, the model's embedding has {rows:,} rows (vocab_size in "
        f"config.json): they are not of one model; {_WAYS}"
    ]


def _no_padding(folder: Path) -> str:
    return (
        f"the tokenizer in {folder} has no padding token (pad_token is null), and config.json's pad_token_id names none; "
        "set one of the two"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_loaded(tokenizer: Any, folder: Path, rows: int, pad: int | None) -> None:
    """Gives a tokenizer without a padding token that of config.json. Raises UserError where it does not fit the model."""
    ids = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    if not ids.keys() - special:
        raise UserError(
            f"the tokenizer in {folder} knows {len(ids)} tokens and no words: its vocabulary is missing, or of "
            f"another kind than {type(tokenizer).__name__} reads; {_WAYS}"
        )
    if wrong := _too_many(ids.values(), rows, folder):
        raise UserError(*wrong)
    if tokenizer.pad_token_id is None:
        token = next((t for t, i in ids.items() if i == pad), None)
        if token is None:
            raise UserError(_no_padding(folder))
        tokenizer.pad_token = token


def check_known(ids: np.ndarray, rows: int, tokenizer: Any, split: str) -> None:
    """Raises UserError where a split is mostly unknown tokens, or rows that nothing is left of.

    ids: (tokens,) of all `rows`, special tokens included.
    """
    special = np.isin(ids, tokenizer.all_special_ids)
    unknown = (
        int((ids == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0
    )
    known = (
        len(ids)
        - int(special.sum())
        - (0 if tokenizer.unk_token_id in tokenizer.all_special_ids else unknown)
    )
    if rows and known <= max(unknown, rows // 2):
        share = 100 * unknown / max(known + unknown, 1)
        raise UserError(
            f"{share:.0f} % of the tokens of {split} are unknown to the tokenizer of {tokenizer.name_or_path}, "
            f"{known:,} are left for {rows:,} rows: it is of another language or damaged; {_WAYS}"
        )
