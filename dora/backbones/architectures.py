"""Which linears of an encoder layer are adapted, and where in the encoder a full module name stands."""

from __future__ import annotations

import functools
import re

# The linears of one encoder layer by kind, for each `model_type` of the configuration. Paths are exact:
# "output.dense" as a substring would also find "attention.output.dense".
_BERT = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "ffn1": "intermediate.dense",
    "ffn2": "output.dense",
}
_DEBERTA = {
    **_BERT,
    "q": "attention.self.query_proj",
    "k": "attention.self.key_proj",
    "v": "attention.self.value_proj",
}
LINEARS = {"bert": _BERT, "roberta": _BERT, "deberta-v2": _DEBERTA}
KINDS = tuple(_BERT)
_KIND_OF = {path: kind for by_kind in LINEARS.values() for kind, path in by_kind.items()}
_NAME = re.compile(r"\.layer\.(\d+)\.(.+)$")


@functools.cache
def place(name: str) -> tuple[int, str]:
    """(layer from 0, kind) of `roberta.encoder.layer.3.attention.self.query`. Raises ValueError for any other name."""
    found = _NAME.search(name)
    if found is None or found[2] not in _KIND_OF:
        raise ValueError(f"{name} is no linear of an encoder layer")
    return int(found[1]), _KIND_OF[found[2]]
