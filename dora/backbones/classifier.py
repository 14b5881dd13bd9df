"""The sequence classifier as Transformers builds it: its configuration, and how it gets weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dora.backbones import model_files, tensors
from dora.backbones.model_config import read_config
from dora.backbones.quiet import quiet
from dora.errors import UserError, reason

# Quantised weights, integers or 8-bit floats, would load too, but without their scales.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextlib.contextmanager
def building(folder: Path) -> Iterator[None]:
    """Turns an error of Transformers while it builds a model into a UserError.

    Examples are an activation that it does not know, and a kept head of another width.
    """
    try:
        yield
    except MemoryError:  # no fault of the folder's
        raise
    except Exception as e:
        raise UserError(
            f"no model can be made of config.json and weights in {folder} ({reason(e)})"
        ) from e


def configuration(folder: Path, outputs: int) -> Any:
    """Returns Transformers' configuration of the classifier in a model folder.

    Outputs that the loop does not read (hidden states, attentions) are switched off. Raises
    UserError for a value of config.json that Transformers refuses.
    """
    from transformers import AutoConfig

    file = folder / "config.json"
    try:
        with quiet():  # it warns where config.json has another number of labels
            config = AutoConfig.from_pretrained(
                folder,
                num_labels=outputs,
                return_dict=True,
                output_hidden_states=False,
                output_attentions=False,
            )
    except Exception as e:  # a value that Transformers checks and this suite does not
        raise UserError(f"{file} cannot be used ({reason(e)})") from e
    return config


def drawn(config: Any, seed: int) -> Any:
    """Returns a model of random weights: always the same backbone, a head drawn from `seed`."""
    from transformers import AutoModelForSequenceClassification

    # Two whole models are drawn, and the head is taken from the second. To draw only the head anew
    # would need to know how each architecture initialises its head.
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    torch.manual_seed(seed)
    fresh = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).state_dict()
    outside = tensors.prefix(config.model_type)
    model.load_state_dict(
        {k: v for k, v in fresh.items() if not k.startswith(outside)}, strict=False
    )
    return model


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Returns every tensor of the folder's weights, by the names in its files.

    Pickled weights are read with weights_only=True. Raises UserError where a file cannot be read, a
    weight is not in floating point, or the tensors do not fit config.json.
    """
    from transformers.modeling_utils import load_state_dict

    where = f"the weights in {folder}"
    held: dict[str, torch.Tensor] = {}
    for file in model_files.weight_files(folder):
        try:
            held |= load_state_dict(str(file), weights_only=True)
        except Exception as e:  # every format has its own exceptions, some plain `Exception`
            why = reason(e)
            # PyTorch's own message recommends to switch weights_only off, which runs any code.
            if file.suffix == ".bin":
                why = f"{type(e).__name__}: damaged, or it holds Python objects beside tensors, which are unsupported"
            raise UserError(f"{where} cannot be read: {file.name} ({why})") from e
    if strange := [name for name in held if not isinstance(name, str)]:
        raise UserError(
            f"{where} cannot be read: a tensor is called {strange[0]!r}, which is no name"
        )
    # A pickle may hold plain numbers and strings beside tensors; they are left out.
    shapes = {name: tuple(t.shape) for name, t in held.items() if isinstance(t, torch.Tensor)}
    weights = [name for name in shapes if name.endswith((".weight", ".bias"))]
    if odd := [name for name in weights if held[name].dtype not in _FLOATS]:
        raise UserError(
            f"{where} cannot be trained on: {odd[0]} is of {held[odd[0]].dtype}; take weights in "
            "floating-point numbers of 16 or more bits"
        )
    if wrong := tensors.misfits(read_config(folder), shapes, where):
        raise UserError(*wrong)
    return {name: held[name] for name in shapes}


def filled(
    folder: Path, config: Any, held: dict[str, torch.Tensor], seed: int
) -> tuple[Any, set[str]]:
    """Returns a model with the weights `held`, and the names of the tensors drawn from `seed`.

    Raises UserError where a tensor of the backbone, its pooler excepted, would have to be drawn.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as MODELS

    classifier: Any = MODELS[type(config)]
    torch.manual_seed(seed)
    with warnings.catch_warnings(), quiet(), building(folder):
        warnings.simplefilter("ignore")
        # Tensors of ours, not the folder: a head that is not to be used has been taken out.
        model, report = classifier.from_pretrained(
            None, config=config, state_dict=held, dtype=torch.float32, output_loading_info=True
        )
    model.config.name_or_path = model.name_or_path = str(folder)
    missing = set(report["missing_keys"])
    inside = tensors.prefix(config.model_type)
    pooler = f"{inside}pooler."
    # `tensors.misfits` has looked for these; this is Transformers' own word on what it drew.
    if new := sorted(n for n in missing if n.startswith(inside) and not n.startswith(pooler)):
        raise UserError(
            f"the weights in {folder} lack {', '.join(new)}; only a head and its pooler may be new"
        )
    return model, missing
