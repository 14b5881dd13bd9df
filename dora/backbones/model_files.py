"""The files of a model folder: those that Transformers reads must be there, whole and readable.

Only names, JSON and the first bytes of files are read, so that a folder is judged without PyTorch
or Transformers.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Sequence
from pathlib import Path

from dora.backbones.architectures import ARCHITECTURES
from dora.backbones.model_config import read_config
from dora.checked_files import check_readable, check_safetensors, read_object
from dora.errors import UserError, attempt

# The files that a fingerprint covers. Chat templates are left out: no task here has a chat.
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
# The files to fetch from the hub. `|` separates alternatives in order of preference; an empty last
# one makes the file optional.
FETCHED = [
    "config.json",
    "*.safetensors|pytorch_model.bin|pytorch_model*.bin*",
    "tokenizer.json|vocab.*|*.model",
    *(f"{name}|" for name in ("model.safetensors.index.json", *TOKENIZER)),
]
# The files that a tokenizer reads beside its vocabulary.
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# The vocabulary that a tokenizer's class reads where there is no tokenizer.json.
_VOCABULARIES = {
    "Bert": (("vocab.txt",),),
    "Roberta": (("vocab.json", "merges.txt"),),
    "DebertaV2": (("spm.model",), ("tokenizer.model",)),
    "XLMRoberta": (("sentencepiece.bpe.model",),),
    "Electra": (("vocab.txt",),),
    "MPNet": (("vocab.txt",),),
    "DistilBert": (("vocab.txt",),),
}
# For a tokenizer of another class: any vocabulary is accepted here, and loading it decides.
_ANY = (
    *dict.fromkeys(v for kinds in _VOCABULARIES.values() for v in kinds),
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
# The first bytes of a file by torch.save of PyTorch before 1.6, which did not write zip archives.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# Transformers would attach the adapter, or load another model that it names, and say nothing.
_ADAPTER = (
    "model folder {0} holds an adapter beside its weights (adapter_config.json), and which of them "
    "is meant is not said: merge the adapter into its model (python -m dora.export RUN_DIR "
    "--merge, or PEFT's merge_and_unload), start from a run of this suite with "
    "init_from=RUN_DIR, or remove adapter_config.json for the weights alone"
)


def found(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """Returns the folder's files that match one of the `patterns`, by name."""
    return {f.name: f for pattern in patterns for f in sorted(folder.glob(pattern)) if f.is_file()}


def weight_files(folder: Path) -> list[Path]:
    """Returns the files from which Transformers reads the weights; empty if there are none.

    Raises UserError where an index is damaged.
    """
    # Transformers' order of preference: safetensors before pickles, one file before shards.
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
    # An index of somebody else's could name any file of this machine, such as ../../x.bin.
    if outside := [n for n in names.values() if Path(n).name != n]:
        raise UserError(f"{index} names a file outside of its folder: {outside[0]}")
    return [index.parent / name for name in sorted(set(names.values()))]


def vocabulary(folder: Path, model_type: object) -> tuple[Path, ...]:
    """Returns the files of the tokenizer's vocabulary, preferably tokenizer.json; () without one.

    Without a vocabulary, Transformers makes a tokenizer of its special tokens alone, in silence.
    """
    for names in _vocabularies(folder, model_type):
        if all((folder / name).is_file() for name in names):
            return tuple(folder / name for name in names)
    return ()


def _vocabularies(folder: Path, model_type: object) -> tuple[tuple[str, ...], ...]:
    """Returns the names of the files that may hold the vocabulary, most preferred first."""
    config = folder / "tokenizer_config.json"
    given = read_object(config).get("tokenizer_class") if config.is_file() else None
    row = ARCHITECTURES.get(str(model_type))
    kind = None if row is None else row.tokenizer
    # `BertTokenizerFast` and `BertTokenizer` read the same files.
    if given:
        kind = str(given).removesuffix("Fast").removesuffix("Tokenizer")
    return (("tokenizer.json",), *_VOCABULARIES.get(str(kind), _ANY))


def missing(folder: Path, random_weights: bool) -> list[str]:
    """Returns the files that a model folder lacks, in words.

    Raises UserError where config.json or an index, which name the others, cannot be read.
    """
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
    if random_weights:  # such a folder needs no weights at all
        return lacking
    files = weight_files(folder)
    lacking += [f"shard {f.name}, which its index names" for f in files if not f.is_file()]
    if not files:
        others = found(folder, _OTHER_WEIGHTS)
        held = f"; {', '.join(others)} is not read" if others else ""
        lacking.append(
            "weights (model.safetensors or pytorch_model.bin, whole or in shards with their index"
            f"{held})"
        )
    return lacking


def check(folder: Path, random_weights: bool) -> None:
    """Raises UserError with every problem found: files missing, damaged or unreadable."""
    rule = "a model folder holds config.json, a tokenizer and weights, as save_pretrained writes it"
    try:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise UserError(f"model folder {folder} {what}; {rule}")
        if lacking := missing(folder, random_weights):
            raise UserError(
                f"model folder {folder} has no {' and no '.join(lacking)}; {rule}{_whose(folder)}"
            )
        problems = _damaged(folder, random_weights)
        # Random weights take only config.json and the tokenizer: there is nothing to attach to.
        if _is_adapter(folder) and not random_weights:
            problems.append(_ADAPTER.format(folder))
    except OSError as e:
        raise UserError(f"model folder {folder} cannot be read: {e.strerror}") from e
    if problems:
        raise UserError(*problems)


def _whose(folder: Path) -> str:
    """Says what a folder is that is no model's, and how a model comes of it; "" if it is unknown."""
    if (folder / "run.json").is_file():
        if (folder / "model/config.json").is_file():  # that of a run with keep_model=true
            return f"; it is a run's directory, whose model is {folder / 'model'}"
        return (
            "; it is a run's directory: python -m dora.export RUN_DIR --merge makes a model folder, "
            "export/ in the run's directory"
        )
    if _is_adapter(folder):
        return (
            "; it is an adapter: merge it into its model first (python -m dora.export RUN_DIR "
            "--merge, or PEFT's merge_and_unload)"
        )
    return ""


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def read_by_tokenizer(folder: Path) -> list[Path]:
    """Returns the files of which the folder's tokenizer is made.

    Files that a tokenizer of another class would read are not among them, damaged or not.
    """
    model_type = read_object(folder / "config.json").get("model_type")
    beside = (folder / name for name in _BESIDE if (folder / name).is_file())
    return [*vocabulary(folder, model_type), *beside]


def _damaged(folder: Path, random_weights: bool) -> list[str]:
    """Returns the problems of config.json, and those that the first bytes of other files show.

    The tokenizer's files are only opened here, before a fingerprint reads them whole. Their content
    takes longer to parse: `vocabulary.malformed` does so once for each fingerprint.
    """
    problems: list[str] = []
    # Every file is tried, so that all problems come in one message.
    attempt(lambda: read_config(folder), problems)
    by_suffix = {".safetensors": check_safetensors, ".bin": _check_bin}
    for file in [*read_by_tokenizer(folder), *([] if random_weights else weight_files(folder))]:
        check_one = by_suffix.get(file.suffix, check_readable)
        attempt(functools.partial(check_one, file), problems)
    return problems


def _check_bin(file: Path) -> None:
    """Raises UserError where torch.save did not write the file, or it is cut short.

    Unpickles nothing: a pickle may run any code.
    """
    check_readable(file)
    with file.open("rb") as f:
        start = f.read(len(_LEGACY))
    # A zip's table of contents stands at its end, so a file that was cut short has none. The legacy
    # format shows it only when it is loaded.
    if not zipfile.is_zipfile(file) and start != _LEGACY:
        raise UserError(
            f"the weights in {file.parent} cannot be read: {file.name} is cut short or no file of "
            "PyTorch's"
        )
