"""Makes a backbone compute no more than training needs, and prepares the mask that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dora.adapters import dropout as cheap
from dora.backbones import biased, disentangled, fused, packing
from dora.backbones.architectures import architecture_of
from dora.backbones.first_token import read_first_tokens
from dora.process import memory

# The name under which our attention is registered with Transformers.
_ATTENTION = "sdpa_cheap_dropout"


def speed_up(model: Any, device: torch.device) -> None:
    """Replaces parts of the backbone by faster ones, before training on `device`.

    Outputs and gradients stay as they are but for rounding, and dropout keeps its distribution. On
    every device the last layer computes each row's first token alone (`first_token`), if the table
    of architectures names the modules where it can. On a CPU, dropout draws only the entries that
    it drops (`dora.adapters.dropout`), attention and residual connections are fused with it
    (`fused`), batches can be packed, and the process keeps the memory that a step frees.
    """
    row = architecture_of(model.config.model_type)
    if device.type == "cpu":
        fused.fuse_sublayers(model)
        cheap.replace(model)
        if row.attention == "plain" and model.config._attn_implementation == "sdpa":
            _attend_by_ours(model)
        if row.attention == "biased":
            biased.replace_attention(model)
        if row.attention == "disentangled":
            disentangled.replace_attention(model)
        memory.keep_freed()
    if row.attention == "biased":
        # Older Transformers make the bias on the CPU, which a recorded step cannot wait for.
        biased.replace_bias(model)
    # Last: it takes the model's attention, and hooks a module that `fuse_sublayers` replaces.
    read_first_tokens(model)


def _attend_by_ours(model: Any) -> None:
    """Registers our attention with Transformers, and has the model use it."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **rest: Any,
    ) -> tuple[torch.Tensor, None]:
        """Returns (batch, length, heads, width) and no weights, as Transformers asks of it."""
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        found = fused.attention(query, key, value, mask, dropout, scale, packing.current())
        return found, None

    AttentionInterface.register(_ATTENTION, attention)
    # The mask goes by the implementation's name: without this entry there would be none.
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    model.set_attn_implementation(_ATTENTION)


def packs(model: Any) -> bool:
    """Tells whether the model takes packed batches.

    Its attention must be ours, and its last layer must leave each row's first token alone, since
    the head would look for it at the beginning of a row.
    """
    own = (biased.SelfAttention, disentangled.SelfAttention)
    ours = model.config._attn_implementation == _ATTENTION
    ours = ours or any(isinstance(module, own) for module in model.modules())
    return bool(ours and architecture_of(model.config.model_type).first_token)


def attention_mask(model: Any, inside: np.ndarray) -> np.ndarray | None:
    """Returns the attention_mask that this model takes without asking its device anything.

    inside: (rows, length), 1 for a token and 0 for padding. Given a mask of two axes, Transformers
    asks the device whether there is padding at all, and the host waits for the answer. The host
    knows: the result is None where there is no padding, else (rows, 1, 1, length) bool, which
    Transformers passes on unchanged. MPNet adds its mask to the scores: (rows, 1, 1, length)
    float32, 0 for a token and the lowest number for padding. A model with another attention gets
    `inside` itself.
    """
    row = architecture_of(model.config.model_type)
    if row.attention == "biased":
        # Even without padding: Transformers would copy a number to the device to make this mask.
        lowest = np.finfo(np.float32).min
        return np.where(inside, np.float32(0), lowest)[:, None, None]
    called_by_name = model.config._attn_implementation in ("sdpa", _ATTENTION)
    if row.attention != "plain" or not called_by_name:
        return inside
    return None if inside.all() else inside.astype(bool)[:, None, None]
