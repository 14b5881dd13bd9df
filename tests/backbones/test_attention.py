"""A model gets a mask only where its attention needs one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from dora.backbones.attention import attention_mask


def test_a_model_of_scaled_dot_products_gets_a_mask_only_where_there_is_padding() -> None:
    def model(attention: str, kind: str = "roberta") -> Any:
        config = SimpleNamespace(_attn_implementation=attention, model_type=kind)
        return SimpleNamespace(config=config)

    inside = np.array([[1, 1, 1], [1, 1, 0]])
    assert attention_mask(model("sdpa"), inside[:1]) is None
    mask = attention_mask(model("sdpa"), inside)
    assert mask is not None
    assert mask.dtype == bool
    assert mask.tolist() == [[[[True, True, True]]], [[[True, True, False]]]]
    assert attention_mask(model("eager"), inside[:1]) is not None
    # Its layers of a sliding window make masks of their own from this one.
    assert attention_mask(model("sdpa", "modernbert"), inside) is inside
