"""Writes an adapter in PEFT's file format: plain LoRA with g and the scale folded into B.

A layer that trains the norms of its rows is written as PEFT's `use_dora`.

Every matrix has a rank of its own and alpha = rank, so that PEFT's factor alpha / r is 1. A matrix
of rank 0 is left out, since PEFT refuses it. Names are full module names, escaped in patterns:
`output.dense` alone would also match `attention.output.dense`, and layer 1 also layer 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dora.adapters.lowrank import LowRankLinear
from dora.adapters.peft_config import MAGNITUDE, adapter_config
from dora.adapters.result import as_stored
from dora.files import to_json, write_atomic


def head_modules(head: Sequence[str], prefix: str) -> list[str]:
    """Returns the names of the modules that hold the head's parameters, sorted.

    These are `classifier`, in DeBERTa also `pooler`, and `bert.pooler` where the checkpoint had no
    pooler, so that it was drawn like the head.
    """
    # A pooler inside the backbone is one level deeper than a classifier beside it.
    depth = {name: 2 if name.startswith(prefix + ".") else 1 for name in head}
    return sorted({".".join(name.split(".")[: depth[name]]) for name in head})


def factor_name(matrix: str, factor: str) -> str:
    """Returns PEFT's name of a matrix's factor, "A" or "B"."""
    return f"base_model.model.{matrix}.lora_{factor}.weight"


def magnitude_name(matrix: str) -> str:
    """Returns PEFT's name of the norms of a matrix's rows."""
    return f"base_model.model.{matrix}.{MAGNITUDE}"


def merged(W: Tensor, A: Tensor, B: Tensor, magnitude: Tensor | None) -> Tensor:
    """Returns W + B A, (d_out, d_in), each of its rows made as long as `magnitude`, (d_out,), says.

    In float64, so that a sum is rounded to the weight's type once; Apple's GPUs have none.
    """
    wide = torch.float32 if W.device.type == "mps" else torch.float64
    V = W.to(wide) + B.to(wide) @ A.to(wide)
    if magnitude is None:
        return V
    norms = torch.linalg.vector_norm(V, dim=1).clamp_min(torch.finfo(wide).tiny)
    return V * (magnitude.to(wide) / norms).unsqueeze(1)


def adapter_tensors(
    layers: Mapping[str, LowRankLinear], parameters: Mapping[str, Tensor], head: Sequence[str]
) -> dict[str, Tensor]:
    """Returns stored components and the whole head by PEFT's names, on the CPU."""
    tensors = {}
    for name, layer in layers.items():
        A, B = layer.stored()
        if len(A):
            tensors[factor_name(name, "A")] = A
            tensors[factor_name(name, "B")] = B
            if layer.magnitude is not None:
                tensors[magnitude_name(name)] = layer.magnitude
    tensors |= {f"base_model.model.{name}": parameters[name] for name in head}
    return as_stored(dict(sorted(tensors.items())))  # sorted: equal weights give equal bytes


def ranks_in_file(layers: Mapping[str, LowRankLinear]) -> dict[str, int]:
    """Returns each matrix's rank in PEFT's file.

    It is above `stored_ranks` where blocks are filled up or start values are kept.
    """
    return {name: len(layer.stored()[0]) for name, layer in layers.items()}


def decomposed(layers: Mapping[str, LowRankLinear]) -> bool:
    """Tells whether rows have norms of their own, which is PEFT's `use_dora`."""
    return any(layer.magnitude is not None for layer in layers.values())


def save_adapter(
    folder: Path,
    model: nn.Module,
    layers: Mapping[str, LowRankLinear],
    head: Sequence[str],
    base_model: str,
) -> None:
    """Writes adapter_model.safetensors and adapter_config.json; equal weights give equal bytes."""
    tensors = adapter_tensors(layers, dict(model.named_parameters()), head)
    modules = head_modules(head, str(model.base_model_prefix))
    config = adapter_config(ranks_in_file(layers), base_model, modules, decomposed(layers))
    write_adapter(folder, tensors, config)


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes `adapter_tensors` and an adapter's configuration into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        folder / "adapter_model.safetensors",
        safetensors.torch.save(dict(tensors), {"format": "pt"}),
    )
    write_atomic(folder / "adapter_config.json", to_json(config))
