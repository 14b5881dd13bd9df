"""Real shapes and a plain greedy selection, for the tests of budgets, plans and allocation."""

from __future__ import annotations

from collections.abc import Sequence

from dora.adapters.budget import Matrix
from dora.backbones.architectures import KINDS
from dora.backbones.backbone import find_linears


def matrices_of(
    model_type: str, hidden: int, layers: int, kinds: tuple[str, ...] = KINDS
) -> tuple[Matrix, ...]:
    """Returns the linears of a model with these sizes, feed-forward 4 x hidden wide."""
    config = {"model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers}
    return find_linears({**config, "intermediate_size": 4 * hidden}, kinds)


# Models as users have them. "tiny" and "minilm" have other ratios of attention to feed-forward.
SHAPES = {
    "roberta-base": matrices_of("roberta", 768, 12),
    "deberta-v3-base": matrices_of("deberta-v2", 768, 12),
    "roberta-large": matrices_of("roberta", 1024, 24),
    "minilm": matrices_of("bert", 384, 6),
    "tiny": matrices_of("roberta", 64, 2),
    "q and v": matrices_of("roberta", 768, 12, ("q", "v")),
}


def greedy(scores: Sequence[float], costs: Sequence[int], total: int) -> list[bool]:
    """Selects components in order of score, ties by index, skipping those that no longer fit."""
    live = [False] * len(scores)
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if costs[i] <= total:
            live[i], total = True, total - costs[i]
    return live
