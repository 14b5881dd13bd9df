"""The files of a model folder: which of them Transformers reads, and whether these are there, whole and readable.

Reads names, JSON and the first bytes of files, so that a folder is judged without PyTorch or Transformers.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dora.backbones.model_config import read_config
from dora.errors import UserError
from dora.files import check_readable, check_safetensors, read_object

# What a fingerprint covers. Chat templates are left out: no task here has a chat.
WEIGHTS = (
    "*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
TOKENIZER = (
    "tokenizer*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What to fetch from the hub: alternatives in order of preference, an empty one where the file is optional.
FETCHED = [
    "config.json",
    "*.safetensors|pytorch_model.bin|pytorch_model*.bin*",
    "tokenizer.json|vocab.*|*.model",
    *(f"{name}|" for name in ("model.safetensors.index.json", *TOKENIZER)),
]
# What a tokenizer reads beside its vocabulary.
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# The vocabulary that a tokenizer's class reads where there is no tokenizer.json.
_VOCABULARIES = {
    "Bert": (("vocab.txt",),),
    "Roberta": (("vocab.json", "merges.txt"),),
    "DebertaV2": (("spm.model",), ("tokenizer.model",)),
}
_CLASSES = {"bert": "Bert", "roberta": "Roberta", "deberta-v2": "DebertaV2"}
_ANY = (
    *(v for kinds in _VOCABULARIES.values() for v in kinds),
    ("sentencepiece.bpe.model",),
    ("spiece.model",),
)
# Weights in formats that Transformers leaves alone, or under names that it does not look for.
_OTHER_WEIGHTS = (
    "*.safetensors",
    "*.bin",
    "*.h5",
    "*.msgpack",
    "*.ckpt*",
    "*.gguf",
    "*.onnx",
    "*.pt",
    "*.pth",
)
_LEGACY = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began a file before it wrote zips
)

# Transformers would attach the adapter, or load another model that it names, and say nothing.
_ADAPTER = (
    "model folder {0} holds an adapter beside its weights (adapter_config.json), and which of them is meant is not said: "
    "merge the adapter into its model (python -m dora.export RUN_DIR --merge, or PEFT's merge_and_unload), start from a "
    "run of this suite with init_from=RUN_DIR, or remove adapter_config.json for the weights alone"
)


def found(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """The folder's files that match one of the `patterns`, by name."""
    return {f.name: f for pattern in patterns for f in sorted(folder.glob(pattern)) if f.is_file()}


def weight_files(folder: Path) -> list[Path]:
    """The files that Transformers reads the weights from, in its order of preference; empty where there are none.

    Raises UserError where an index is damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            return _shards(index)
    return []


def _shards(index: Path) -> list[Path]:
    names = read_object(index).get("weight_map")
    if (
        not isinstance(names, dict)
        or not names
        or not all(isinstance(n, str) for n in names.values())
    ):
        raise UserError(f"{index} has no weight_map from the tensors' names to their files")
    if outside := [n for n in names.values() if Path(n).name != n]:
        raise UserError(f"{index} names a file outside of its folder: {outside[0]}")
    return [index.parent / name for name in sorted(set(names.values()))]


def vocabulary(folder: Path, model_type: object) -> tuple[Path, ...]:
    """The files of the tokenizer's vocabulary, tokenizer.json where it is there; empty where it lacks one.

    Without one, Transformers makes a tokenizer of its special tokens alone, and says nothing.
    """
    for names in _vocabularies(folder, model_type):
        if all((folder / name).is_file() for name in names):
            return tuple(folder / name for name in names)
    return ()


def _vocabularies(folder: Path, model_type: object) -> tuple[tuple[str, ...], ...]:
    """The names of the files that may hold the vocabulary, in the order in which the tokenizer's class reads them."""
    config = folder / "tokenizer_config.json"
    given = read_object(config).get("tokenizer_class") if config.is_file() else None
    kind = (
        str(given).removesuffix("Fast").removesuffix("Tokenizer")
        if given
        else _CLASSES.get(str(model_type))
    )
    return (("tokenizer.json",), *_VOCABULARIES.get(str(kind), _ANY))


def missing(folder: Path, random_weights: bool) -> list[str]:
    """What a model folder lacks, in words. Raises UserError where a file that says so cannot be read."""
    lacking = []
    model_type = None
    if (folder / "config.json").is_file():
        model_type = read_object(folder / "config.json").get("model_type")
    else:
        lacking.append("config.json")
    if not vocabulary(folder, model_type):
        names = ", or ".join(" with ".join(names) for names in _vocabularies(folder, model_type))
        lacking.append(
            f"tokenizer vocabulary ({names})" if found(folder, TOKENIZER) else "tokenizer"
        )
    if random_weights:
        return lacking
    files = weight_files(folder)
    lacking += [f"shard {f.name}, which its index names" for f in files if not f.is_file()]
    if not files:
        others = found(folder, _OTHER_WEIGHTS)
        held = f"; {', '.join(others)} is not read" if others else ""
        lacking.append(
            f"weights (model.safetensors or pytorch_model.bin, whole or in shards with their index{held})"
        )
    return lacking


def check(folder: Path, random_weights: bool) -> None:
    """Raises UserError, with every problem found, where a file is missing, damaged or may not be read."""
    rule = "a model folder holds config.json, a tokenizer and weights, as save_pretrained writes it"
    try:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise UserError(f"model folder {folder} {what}; {rule}")
        if lacking := missing(folder, random_weights):
            whose = (
                "; it is an adapter: merge it into its model first" if _is_adapter(folder) else ""
            )
            raise UserError(
                f"model folder {folder} has no {' and no '.join(lacking)}; {rule}{whose}"
            )
        problems = _damaged(folder, random_weights)
        if _is_adapter(folder) and not random_weights:
            problems.append(_ADAPTER.format(folder))
    except OSError as e:
        raise UserError(f"model folder {folder} cannot be read: {e.strerror}") from e
    if problems:
        raise UserError(*problems)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def read_by_tokenizer(folder: Path) -> list[Path]:
    """The files of the folder that its tokenizer is made of; others of such names lie there unread."""
    model_type = read_object(folder / "config.json").get("model_type")
    beside = (folder / name for name in _BESIDE if (folder / name).is_file())
    return [*vocabulary(folder, model_type), *beside]


def _damaged(folder: Path, random_weights: bool) -> list[str]:
    checks: list[Callable[[], object]] = [lambda: read_config(folder)]
    for file in [*read_by_tokenizer(folder), *([] if random_weights else weight_files(folder))]:
        check_one = {".safetensors": check_safetensors, ".bin": _check_bin}.get(
            file.suffix, check_readable
        )
        checks.append(functools.partial(check_one, file))
    problems: list[str] = []
    for each in checks:
        try:
            each()
        except UserError as e:
            problems += e.problems
    return problems


def _check_bin(file: Path) -> None:
    """Raises UserError where the file is not what torch.save writes, or is cut short; unpickles nothing."""
    check_readable(file)
    with file.open("rb") as f:
        start = f.read(len(_LEGACY))
    if not zipfile.is_zipfile(file) and start != _LEGACY:
        raise UserError(
            f"the weights in {file.parent} cannot be read: {file.name} is cut short or no file of PyTorch's"
        )
