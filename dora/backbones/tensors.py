"""The tensors that a backbone has by its config.json, and how those of a file differ from them.

Names are those inside the backbone, without its prefix such as "roberta."; files hold names with or
without it. The head is not part of the backbone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dora.backbones.architectures import KINDS, LINEARS

Shape = tuple[int, ...]
# May be missing from a file: the heads of some tasks, such as masked language modelling, have none.
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
# The modules of a classification head. DeBERTa's pooler stands outside its backbone, BERT's inside;
# RoBERTa's classifier has none.
_HEAD = {
    "bert": ("classifier.",),
    "roberta": ("classifier.",),
    "deberta-v2": ("classifier.", "pooler."),
}


def prefix(model_type: str) -> str:
    """Returns the name of the backbone in a whole model, with its dot: `roberta.`."""
    return {"deberta-v2": "deberta"}.get(model_type, model_type) + "."


def in_head(name: str, model_type: str) -> bool:
    """Tells whether a tensor of this name in a file belongs to a classification head."""
    return name.startswith(_HEAD[model_type])


def bare(name: str, model_type: str) -> str:
    """Returns a file's name for a tensor without the backbone's prefix and in today's spelling.

    Files converted from TensorFlow call a layer norm's weight and bias gamma and beta.
    """
    short = name.removeprefix(prefix(model_type))
    return short.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def of_files(files: list[Path]) -> dict[str, Shape] | None:
    """Returns names and shapes from the headers of safetensors files.

    Returns None if one is of another format, which must be loaded to know its shapes.
    """
    if any(file.suffix != ".safetensors" for file in files):
        return None
    shapes: dict[str, Shape] = {}
    for file in files:
        with safe_open(file, "np") as f:
            # `f` is no mapping: it has keys(), and cannot be iterated.
            for name in f.keys():  # noqa: SIM118
                shapes[name] = tuple(f.get_slice(name).get_shape())
    return shapes


def not_floating(file: Path) -> dict[str, str]:
    """Returns the types of the tensors in a safetensors file that are not floating point, by name.

    Reads the header alone. `position_ids`, which models of earlier Transformers hold beside their
    weights, are integers by right and left out.
    """
    with safe_open(file, "np") as f:
        kinds = {name: f.get_slice(name).get_dtype() for name in f.keys()}  # noqa: SIM118
    known = ("F64", "F32", "F16", "BF16")
    return {n: k for n, k in kinds.items() if k not in known and not n.endswith("position_ids")}


def names(config: Mapping[str, Any]) -> set[str]:
    """Returns the bare name of every tensor of the backbone that this config.json describes."""
    return {name for name, _ in _expected(config)}


def misfits(config: Mapping[str, Any], shapes: Mapping[str, Shape], where: str) -> list[str]:
    """Returns the reasons why the tensors of `where` are not this backbone's.

    Tensors are missing or have another shape. A pooler may be missing, since the heads of some
    tasks have none: it is drawn with the head. Random weights anywhere else would be frozen under
    an adapter, and the run would learn little, in silence.
    """
    own = {bare(name, config["model_type"]): shape for name, shape in shapes.items()}
    expected = dict(_expected(config))
    # Half a pooler is no pooler that may be missing, but a damaged file.
    if not set(POOLER) & own.keys():
        expected = {name: shape for name, shape in expected.items() if name not in POOLER}
    lacking = [name for name in expected if name not in own]
    wrong = [name for name, shape in expected.items() if name in own and own[name] != shape]
    problems = []
    layers = {
        int(found[1]) for name in own if (found := re.match(r"encoder\.layer\.(\d+)\.", name))
    }
    # Other tensors that the backbone lacks are no problem: a head, or buffers of old versions.
    if layers and max(layers) >= (count := config["num_hidden_layers"]):
        problems.append(
            f"{where} hold {max(layers) + 1} layers, config.json says num_hidden_layers={count}: "
            "the others would be left out; take the config.json that belongs to them"
        )
    if lacking:
        problems.append(
            f"{where} lack {len(lacking)} of the {len(expected)} tensors that config.json asks "
            f"for: {_some(lacking)}; only a head and its pooler may be new; download the folder "
            "again, or take the config.json that belongs to it"
        )
    if wrong:
        told = [f"{name} is {_size(own[name])}, not {_size(expected[name])}" for name in wrong]
        problems.append(
            f"{where} do not fit config.json: {_some(told)}; take the config.json that "
            "belongs to them"
        )
    return problems


def _size(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _some(items: list[str], most: int = 3) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _dense(name: str, out: int, into: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, size: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.LayerNorm.weight", (size,)
    yield f"{name}.LayerNorm.bias", (size,)


def _expected(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Yields every tensor of the backbone with its shape, as Transformers builds it.

    Written down here, since to ask Transformers takes seconds, and a sweep asks once a run. A test
    compares both for every architecture.
    """
    deberta = config["model_type"] == "deberta-v2"
    yield from _embeddings(config, deberta)
    for i in range(config["num_hidden_layers"]):
        yield from _layer(config, f"encoder.layer.{i}", deberta)
    if deberta:
        yield from _relative(config)
    elif config["model_type"] == "bert":
        # RoBERTa's classifier is built without a pooler.
        yield from _dense("pooler.dense", config["hidden_size"], config["hidden_size"])


def _embeddings(config: Mapping[str, Any], deberta: bool) -> Iterator[tuple[str, Shape]]:
    hidden = config["hidden_size"]
    width = config.get("embedding_size", hidden) if deberta else hidden
    rows = {"word": config["vocab_size"]}
    if not deberta or config.get("position_biased_input", True):
        rows["position"] = config.get("max_position_embeddings", 512)
    # Transformers' defaults: configurations leave out the keys that have them.
    rows["token_type"] = config.get("type_vocab_size", 0 if deberta else 2)
    for kind, count in rows.items():
        if count or not deberta:
            yield f"embeddings.{kind}_embeddings.weight", (count, width)
    if width != hidden:
        yield "embeddings.embed_proj.weight", (hidden, width)
    yield from _norm("embeddings", hidden)


def _layer(config: Mapping[str, Any], name: str, deberta: bool) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"ffn1": (inner, hidden), "ffn2": (hidden, inner)}
    for kind in KINDS:
        yield from _dense(
            f"{name}.{LINEARS[config['model_type']][kind]}", *shapes.get(kind, (hidden, hidden))
        )
    yield from _norm(f"{name}.attention.output", hidden)
    yield from _norm(f"{name}.output", hidden)
    relative = deberta and config.get("relative_attention", False)
    # With share_att_key, as DeBERTaV3 has it, positions go through the layer's own q and k.
    if relative and not config.get("share_att_key", False):
        for way, matrix in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
            # A list of names, or one text such as "c2p|p2c": `in` serves both.
            if way in (config.get("pos_att_type") or ()):
                yield from _dense(f"{name}.attention.self.{matrix}", hidden, hidden)


def _relative(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Yields DeBERTa's relative positions, their norm, and the largest models' convolution."""
    hidden = config["hidden_size"]
    if config.get("relative_attention", False):
        # -1 stands for the number of absolute positions; buckets, where there are any, win.
        most = config.get("max_relative_positions", -1)
        most = most if most > 0 else config.get("max_position_embeddings", 512)
        buckets = config.get("position_buckets", -1)
        yield "encoder.rel_embeddings.weight", (2 * (buckets if buckets > 0 else most), hidden)
    if "layer_norm" in config.get("norm_rel_ebd", "none").lower():
        yield from _norm("encoder", hidden)
    if kernel := config.get("conv_kernel_size", 0):
        yield "encoder.conv.conv.weight", (hidden, hidden // config.get("conv_groups", 1), kernel)
        yield "encoder.conv.conv.bias", (hidden,)
        yield from _norm("encoder.conv", hidden)
