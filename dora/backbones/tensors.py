"""The tensors that a backbone has, by config.json, and how a file's differ from them.

Names are those inside the backbone, without "roberta." and the like: a file may hold either. The head is no part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dora.backbones.architectures import KINDS, LINEARS

Shape = tuple[int, ...]
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
# The modules of a classification head, by `model_type`. DeBERTa's pooler stands outside of its backbone.
_HEAD = {
    "bert": ("classifier.",),
    "roberta": ("classifier.",),
    "deberta-v2": ("classifier.", "pooler."),
}


def prefix(model_type: str) -> str:
    """The name of the backbone in a whole model, with its dot."""
    return {"deberta-v2": "deberta"}.get(model_type, model_type) + "."


def in_head(name: str, model_type: str) -> bool:
    """Whether a file's tensor of this name belongs to a head for classification."""
    return name.startswith(_HEAD[model_type])


def bare(name: str, model_type: str) -> str:
    """A file's name for a tensor without the backbone's prefix, and with today's names of a layer norm's tensors."""
    short = name.removeprefix(prefix(model_type))
    return short.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def of_files(files: list[Path]) -> dict[str, Shape] | None:
    """Names and shapes from the headers of safetensors files; None for other formats, which must be loaded for it."""
    if any(file.suffix != ".safetensors" for file in files):
        return None
    shapes: dict[str, Shape] = {}
    for file in files:
        with safe_open(file, "np") as f:
            shapes |= {name: tuple(f.get_slice(name).get_shape()) for name in f.keys()}  # noqa: SIM118
    return shapes


def not_floating(file: Path) -> dict[str, str]:
    """Name → type of the tensors in a safetensors file that hold no floating-point numbers, by its header alone.

    The numbers of positions, which models of earlier Transformers hold beside their weights, are none of them.
    """
    with safe_open(file, "np") as f:
        kinds = {name: f.get_slice(name).get_dtype() for name in f.keys()}  # noqa: SIM118
    known = ("F64", "F32", "F16", "BF16")
    return {n: k for n, k in kinds.items() if k not in known and not n.endswith("position_ids")}


def names(config: Mapping[str, Any]) -> set[str]:
    """Returns the bare name of every tensor of the backbone that this config.json describes."""
    return {name for name, _ in _expected(config)}


def misfits(config: Mapping[str, Any], shapes: Mapping[str, Shape], where: str) -> list[str]:
    """What keeps the tensors of `where` from being this backbone's: some that are missing, or have another shape.

    A pooler may be missing, since the heads of some tasks have none: it is drawn with the head. Random weights
    anywhere else would be frozen under an adapter.
    """
    own = {bare(name, config["model_type"]): shape for name, shape in shapes.items()}
    expected = dict(_expected(config))
    if not set(POOLER) & own.keys():
        expected = {name: shape for name, shape in expected.items() if name not in POOLER}
    lacking = [name for name in expected if name not in own]
    wrong = [name for name, shape in expected.items() if name in own and own[name] != shape]
    problems = []
    layers = {
        int(found[1]) for name in own if (found := re.match(r"encoder\.layer\.(\d+)\.", name))
    }
    if layers and max(layers) >= config["num_hidden_layers"]:
        problems.append(
            f"{where} hold {max(layers) + 1} layers, config.json says num_hidden_layers={config['num_hidden_layers']}: the "
            "others would be left out; take the config.json that belongs to them"
        )
    if lacking:
        problems.append(
            f"{where} lack {len(lacking)} of the {len(expected)} tensors that config.json asks for: {_some(lacking)}; "
            "only a head and its pooler may be new; download the folder again, or take the config.json that belongs to it"
        )
    if wrong:
        told = [f"{name} is {_size(own[name])}, not {_size(expected[name])}" for name in wrong]
        problems.append(
            f"{where} do not fit config.json: {_some(told)}; take the config.json that belongs to them"
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
    """Every tensor of the backbone with its shape, as Transformers builds it from this configuration."""
    deberta = config["model_type"] == "deberta-v2"
    yield from _embeddings(config, deberta)
    for i in range(config["num_hidden_layers"]):
        yield from _layer(config, f"encoder.layer.{i}", deberta)
    if deberta:
        yield from _relative(config)
    elif config["model_type"] == "bert":
        yield from _dense("pooler.dense", config["hidden_size"], config["hidden_size"])


def _embeddings(config: Mapping[str, Any], deberta: bool) -> Iterator[tuple[str, Shape]]:
    hidden = config["hidden_size"]
    width = config.get("embedding_size", hidden) if deberta else hidden
    rows = {"word": config["vocab_size"]}
    if not deberta or config.get("position_biased_input", True):
        rows["position"] = config.get("max_position_embeddings", 512)
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
    if (
        deberta
        and config.get("relative_attention", False)
        and not config.get("share_att_key", False)
    ):
        for way, matrix in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
            if way in (config.get("pos_att_type") or ()):
                yield from _dense(f"{name}.attention.self.{matrix}", hidden, hidden)


def _relative(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """DeBERTa's relative positions, the norm over them, and the convolution that the largest ones have."""
    hidden = config["hidden_size"]
    if config.get("relative_attention", False):
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
