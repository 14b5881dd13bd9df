"""BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): trains the backbone's biases, no weight.

y = W0 x + b, where b starts at the pretrained b0. No component is added, so no budget applies: a
backbone has as many biases as it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dora.adapters.plan import Plan
from dora.errors import UserError
from dora.methods import base
from dora.methods.base import ParameterGroup, RunInfo


class BitFit(base.Method):
    """Trains every bias of the backbone: those of linears, LayerNorms and embeddings."""

    title = "BitFit"
    recordable = True
    paper = "Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199"
    budget = "none"
    result = "weights"

    def __init__(
        self, settings: base.Settings, model: nn.Module, plan: Plan | None, run: RunInfo
    ) -> None:
        inside = f"{model.base_model_prefix}."
        # By the last part of the name. The released code asks whether the name contains "bias".
        # DeBERTa's pooler stands outside its backbone: all of it is trained with the head, where
        # the released code trains its bias alone. BERT's stands inside, and its weight is frozen.
        self._biases = [
            p
            for name, p in model.named_parameters()
            if name.startswith(inside) and name.endswith(".bias")
        ]
        if not self._biases:
            raise UserError(
                "method=bitfit trains the backbone's biases, and this one has none, as ModernBERT: "
                "take another model or another method"
            )
        for p in self._biases:
            p.requires_grad_(True)

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Returns the biases without weight decay, also where `decay_all` decays everything else.

        The released code has none: a decay would pull them to 0, away from the pretrained ones.
        """
        return [ParameterGroup(self._biases, weight_decay=0.0)]
