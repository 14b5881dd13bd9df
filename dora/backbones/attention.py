"""What this suite changes in a backbone's attention: cheaper dropout on a CPU, and a mask that no device is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_ATTENTION = "sdpa_cheap_dropout"


def cheapen_dropout(model: Any) -> None:
    """On a CPU: the backbone's own dropout, the attention's too, by `dora.adapters.dropout`, which see."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from dora.adapters import dropout as cheap

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
        if not dropout:
            return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **rest)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = cheap.attention(query, key, value, mask, dropout, scale)
        return out.transpose(1, 2).contiguous(), None

    cheap.replace(model)
    if (
        model.config._attn_implementation == "sdpa"
    ):  # DeBERTa's attention has a dropout module instead
        AttentionInterface.register(_ATTENTION, attention)
        AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
        model.set_attn_implementation(_ATTENTION)


def attention_mask(model: Any, inside: np.ndarray) -> np.ndarray | None:
    """What this model takes as its attention_mask. inside: (rows, length), 1 for a token and 0 for padding.

    Of two axes Transformers asks the device whether there is padding at all, and the host waits for the answer.
    The host knows: None where there is none, else (rows, 1, 1, length) bool, which Transformers takes as it is.
    """
    if model.config._attn_implementation not in ("sdpa", _ATTENTION):
        return inside
    return None if inside.all() else inside.astype(bool)[:, None, None]
