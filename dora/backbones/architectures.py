"""Architectures: the linears of an encoder layer that are adapted, and where they stand."""

from __future__ import annotations

import functools
import re

# The linears of one encoder layer by kind, for each `model_type` of config.json. Paths are exact:
# "output.dense" as a substring would also find "attention.output.dense".
_BERT = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "ffn1": "intermediate.dense",
    "ffn2": "output.dense",
}
# DeBERTa names its projections otherwise; the output and the feed-forward network are BERT's.
_DEBERTA = {
    **_BERT,
    "q": "attention.self.query_proj",
    "k": "attention.self.key_proj",
    "v": "attention.self.value_proj",
}
# Transformers calls DeBERTa v2 and v3 alike: v3 has v2's architecture and another pretraining.
LINEARS = {"bert": _BERT, "roberta": _BERT, "deberta-v2": _DEBERTA}
KINDS = tuple(_BERT)
_KIND_OF = {path: kind for by_kind in LINEARS.values() for kind, path in by_kind.items()}
_NAME = re.compile(r"\.layer\.(\d+)\.(.+)$")


# Cached: a study's journals name the same few hundred matrices hundreds of thousands of times.
@functools.cache
def place(name: str) -> tuple[int, str]:
    """Returns (layer from 0, kind) of a full module name.

    `roberta.encoder.layer.3.attention.self.query` gives (3, "q"). Raises ValueError for a name that
    is not a linear of an encoder layer.
    """
    found = _NAME.search(name)
    if found is None or found[2] not in _KIND_OF:
        raise ValueError(f"{name} is no linear of an encoder layer")
    return int(found[1]), _KIND_OF[found[2]]
