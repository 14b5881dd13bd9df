"""FedIT (Zhang et al., ICASSP 2024, arXiv 2305.05644): federated averaging of LoRA's factors.

    Ā = Σ p_k A_k        B̄ = Σ p_k B_k        p_k: client k's share of the selected clients' rows

The next round starts at (Ā, B̄). The average is biased: B̄ Ā is not Σ p_k B_k A_k. How far it is
off is logged in each round. The base of the other federated methods, which differ in the server
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dora.adapters.client_factors import ClientFactors
from dora.methods.base import Settings, Tensors
from dora.methods.lora import PlainLoRA, PlainSettings


class FedIT(PlainLoRA):
    """Averages what the clients train: A, B and the head."""

    title = "FedIT"
    paper = "Zhang et al., FedIT, ICASSP 2024, arXiv 2305.05644"
    note = (
        "A federated run on one machine: clients train on their own rows, and the result is the "
        "global model."
    )
    settings_type: ClassVar[type[Settings]] = PlainSettings
    federated = True

    def aggregate(
        self, uploads: Sequence[Tensors], shares: Sequence[float], before: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Returns the averages, and `bias`: ‖Σ p_k B_k A_k − B̄ Ā‖ / ‖Σ p_k B_k A_k‖."""
        new = average(uploads, shares)
        bias = self._client_factors(uploads, shares).bias()
        return new, {} if bias is None else {"bias": bias}

    def _client_factors(self, uploads: Sequence[Tensors], shares: Sequence[float]) -> ClientFactors:
        """Returns the clients' factors of every layer that has components."""
        names = [name for name, layer in self.layers.items() if layer.rank]
        frozen = self.frozen()  # which a method derived from this one may have
        held = [{**frozen, **upload} for upload in uploads]
        pairs = [
            ([of[f"{name}.A"] for of in held], [of[f"{name}.B"] for of in held]) for name in names
        ]
        return ClientFactors.of(names, pairs, shares)


def average(uploads: Sequence[Tensors], shares: Sequence[float]) -> dict[str, Tensor]:
    """Returns Σ p_k t_k of every tensor, summed in float64 in the order of the clients."""
    found = {}
    for name, first in uploads[0].items():
        total = torch.zeros_like(first, dtype=torch.float64)
        for upload, share in zip(uploads, shares, strict=True):
            total += share * upload[name].double()
        found[name] = total.to(first.dtype)
    return found
