"""The model applied to rows of tokens: packed where it can be, in the run's precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.backbones.architectures import architecture_of
from dora.backbones.attention import attention_mask, packs
from dora.backbones.packing import Layout, with_layout
from dora.configuration.config import Config
from dora.data.tasks import Task
from dora.data.tokens import Tokens


class Forward:
    """Computes logits, in training and in evaluation alike.

    `packs`: rows of a batch follow each other without padding.
    """

    def __init__(self, model: nn.Module, config: Config, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._bf16 = config.precision == "bf16"
        if self._bf16:
            _round_frozen(model)
        # A graph of torch.compile would be made anew for every batch's layout.
        self.packs = packs(model) and not config.compile
        held: Any = model.config
        self._first_position = architecture_of(held.model_type).first_position(vars(held))

    def __call__(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Returns the model's logits for these rows, (len(rows), outputs)."""
        return self.logits(*self.inputs(tokens, rows))

    def inputs(self, tokens: Tokens, rows: np.ndarray) -> tuple[dict[str, Tensor], Layout | None]:
        """Returns the model's inputs for these rows on its device, and their layout if packed."""
        layout = None
        if self.packs:
            batch = tokens.packed(rows)
            layout = Layout(tokens.lengths[rows])
            batch["position_ids"] += self._first_position
        else:
            # Few lengths make few shapes, which a GPU computes as fast as those between.
            batch = tokens.batch(rows, 1 if self.device.type == "cpu" else 16)
            mask = attention_mask(self.model, batch.pop("attention_mask"))
            if mask is not None:  # None: no row of the batch is padded
                batch["attention_mask"] = mask
        return {k: self.to_device(v) for k, v in batch.items()}, layout

    def logits(self, inputs: dict[str, Tensor], layout: Layout | None) -> Tensor:
        """Returns the logits of what `inputs` returned, (rows, outputs)."""
        with (
            with_layout(layout),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16),
        ):
            logits: Tensor = self.model(**inputs).logits
            return logits

    def to_device(self, array: np.ndarray) -> Tensor:
        """Copies an array to the model's device.

        A copy to a GPU starts from pinned memory and is not waited for.
        """
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _round_frozen(model: nn.Module) -> None:
    """Rounds the frozen weights of linears to bf16, once: autocast would do so in every step."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # By parameter: a frozen weight is rounded beside a trained bias, which stays in fp32.
            for p in module.parameters(recurse=False):
                p.data = p.data if p.requires_grad else p.data.to(torch.bfloat16)


def task_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Returns cross-entropy or squared error, summed over examples.

    logits: (n, outputs), labels: (n,).
    """
    # In float32 at least: bfloat16 has 8 bits of precision, too few for a sum.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if task.regression:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum")
