"""Which tensors config.json asks of a backbone, and how the tensors in a file differ from them.

Names are those inside the backbone, without its prefix such as "roberta."; files hold names with or
without it. The head is not part of the backbone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from dora.backbones.architectures import architecture_of
from dora.backbones.quiet import quiet
from dora.checked_files import Shape
from dora.errors import UserError, reason
from dora.plain import first_few

_OF_THE_HEAD = ("id2label", "label2id", "num_labels", "problem_type")
# May be missing from a file: the heads of some tasks, such as masked language modelling, have none.
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


def prefix(model_type: str) -> str:
    """Returns the name of the backbone in a whole model, with its dot: `roberta.`."""
    return architecture_of(model_type).prefix


def in_head(name: str, model_type: str) -> bool:
    """Tells whether a tensor of this name in a file belongs to a classification head."""
    return name.split(".", 1)[0] in architecture_of(model_type).head


def in_new_head(name: str, model_type: str) -> bool:
    """Tells whether a tensor of this name belongs to the modules that every run draws anew."""
    kept = architecture_of(model_type).pretrained_head
    return in_head(name, model_type) and name.split(".", 1)[0] not in kept


def bare(name: str, model_type: str) -> str:
    """Returns a file's name for a tensor without the backbone's prefix and in today's spelling.

    Files converted from TensorFlow call a layer norm's weight and bias gamma and beta.
    """
    short = name.removeprefix(prefix(model_type))
    return short.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def strange(config: Mapping[str, Any], held: Iterable[str]) -> list[str]:
    """Returns the names in a file that lie in an encoder layer, but that this backbone does not have.

    An adapter that was saved beside the weights has such names: nothing would read its tensors.
    """
    kind, expected = config["model_type"], _expected(config)
    inside = f"{architecture_of(kind).layers}."
    return [n for n in held if (own := bare(n, kind)).startswith(inside) and own not in expected]


def misfits(config: Mapping[str, Any], shapes: Mapping[str, Shape], where: str) -> list[str]:
    """Returns the reasons why the tensors of `where` are not this backbone's.

    The reasons are tensors that are missing or have another shape. A pooler may be missing, since
    the heads of some tasks have none: it is drawn with the head. Any other missing tensor would be
    drawn at random and frozen under an adapter, and the run would learn little without a message.
    """
    own = {bare(name, config["model_type"]): shape for name, shape in shapes.items()}
    try:
        expected = _expected(config)
    except UserError as e:
        return [f"{where} fit no model: {problem}" for problem in e.problems]
    row = architecture_of(config["model_type"])
    inside, key = f"{row.layers}.", row.key("num_hidden_layers")
    # Half a pooler is no pooler that may be missing, but a damaged file.
    if not set(POOLER) & own.keys():
        expected = {name: shape for name, shape in expected.items() if name not in POOLER}
    lacking = [name for name in expected if name not in own]
    wrong = [name for name, shape in expected.items() if name in own and own[name] != shape]
    problems = []
    numbers = (name.removeprefix(inside).split(".")[0] for name in own if name.startswith(inside))
    layers = {int(number) for number in numbers if number.isdigit()}
    # Other tensors that the backbone lacks are no problem: a head, or buffers of old versions.
    if layers and max(layers) >= (count := config[key]):
        problems.append(
            f"{where} hold {max(layers) + 1} layers, config.json says {key}={count}: "
            "the others would be left out; take the config.json that belongs to them"
        )
    if lacking:
        problems.append(
            f"{where} lack {len(lacking)} of the {len(expected)} tensors that config.json asks "
            f"for: {first_few(lacking)}; only a head and its pooler may be new; download the folder "
            "again, or take the config.json that belongs to it"
        )
    if wrong:
        told = [f"{name} is {_size(own[name])}, not {_size(expected[name])}" for name in wrong]
        problems.append(
            f"{where} do not fit config.json: {first_few(told)}; take the config.json that "
            "belongs to them"
        )
    return problems


def _size(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _expected(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Returns every tensor of the backbone with its shape, as Transformers builds it.

    Raises UserError where Transformers refuses the configuration.
    """
    # The head's keys are left out: its size is the task's. As text, a configuration can be cached.
    kept = {k: v for k, v in config.items() if k not in _OF_THE_HEAD}
    return dict(_built(json.dumps(kept, sort_keys=True)))


# A sweep's runs ask again and again, of a handful of models.
@functools.lru_cache(maxsize=16)
def _built(config: str) -> tuple[tuple[str, Shape], ...]:
    """Returns (bare name, shape) of the tensors of a backbone, for the text of its config.json."""
    import torch
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

    keys = json.loads(config)
    inside = prefix(keys["model_type"])
    try:
        with quiet():
            settings = AutoConfig.for_model(**keys)
            # This imports the architecture's module. Under "meta" torch 2.6 would fail to import
            # what such a module needs of torch.
            classifier: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(settings)]
            with torch.device("meta"):  # shapes alone: nothing is drawn, nothing takes memory
                model = classifier(settings)
    except ImportError as e:
        raise UserError(
            f"Transformers cannot import its own code for {keys['model_type']} ({reason(e)}): the "
            "environment is at fault, and not the model"
        ) from e
    except Exception as e:  # a value that Transformers checks and this suite does not
        raise UserError(f"config.json cannot be used ({reason(e)})") from e
    return tuple(
        (name.removeprefix(inside), tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
        if name.startswith(inside)
    )
