"""Layers on which the loss does not depend: they are named once, at the first step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import dora
from own_models import BATCH, STEPS, Perceptron, batch, go_on, rows, trainer

METHODS = ("lora", "adalora", "dora", "sora", "melora", "weight_decomposed")
USED = ["first", "second", "last", "early"]


class Spare(Perceptron):
    """A perceptron with a linear that is never called, and one that is where `deep` says so."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.spare, self.early, self.deep = nn.Linear(8, 8), nn.Linear(12, 12), True

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns the perceptron's loss and logits."""
        return super().forward(self.early(x) if self.deep else x, labels)


def attach(model: nn.Module, method: str, **given: Any) -> dora.Adapter:
    """Attaches a method with its schedule over STEPS."""
    blocks = {"blocks": 2} if method == "melora" else {}
    return dora.attach(model, method, "r4", STEPS, **blocks, **given)


def told(model: Any, adapter: dora.Adapter, last: int = 3) -> list[str]:
    """Trains up to step `last`; returns the warnings."""
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go_on(model, adapter, optimizer, rows("mlp"), last)
    assert {warning.filename for warning in caught} <= {go_on.__code__.co_filename}
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_never_called_is_named_once(method: str) -> None:
    model = Spare()
    adapter = attach(model, method)
    (message,) = told(model, adapter)
    assert message.startswith("no gradient reached the components of spare in step 1: ")
    assert "leave it out with target=" in message
    # The way out that the message names is one.
    model = Spare()
    assert not told(model, attach(model, method, target=USED))


@pytest.mark.parametrize("weight", ["orthogonality", "dem", "l1_weight"])
def test_it_is_named_without_a_penalty_too(weight: str) -> None:
    method = {"orthogonality": "adalora", "dem": "dora", "l1_weight": "sora"}[weight]
    model = Spare()
    (message,) = told(model, attach(model, method, **{weight: 0.0}))
    assert "components of spare in step 1" in message


# BERT's pooler under a loss on its hidden states: AdaLoRA keeps components of it to the end.
@pytest.mark.parametrize("method", METHODS)
def test_berts_pooler_is_named_where_tokens_are_averaged(method: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=40, num_hidden_layers=2, **sizes))
    adapter = attach(model, method)
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    ids = torch.randint(40, (4, 7))
    (model(ids).last_hidden_state.mean(1).square().mean() + adapter.penalty()).backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"components of pooler\.dense in step 1"):
        adapter.step()


@pytest.mark.parametrize("method", METHODS)
def test_one_micro_batch_that_uses_a_layer_is_enough(method: str) -> None:
    model, held = Spare(), rows("mlp")
    adapter = attach(model, method, target=USED)
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    for deep in (True, False):
        model.deep = deep
        (model(**batch(held, 1))["loss"] / 2 + adapter.penalty() / 2).backward()
        adapter.step()  # nothing has stepped yet
    optimizer.step()
    adapter.step()  # warnings are errors here
    assert adapter.taken == 1
    # Later steps are not looked at: a layer that some of them skip is trained by the others.
    optimizer.zero_grad()
    assert not told(model, adapter)


# LoRA, DoRA and their like read no gradient, and nothing asks for one in their loops.
@pytest.mark.parametrize("method", ["lora", "dora", "melora", "weight_decomposed"])
def test_gradients_that_are_cleared_before_the_step_tell_nothing(method: str) -> None:
    model = Spare()
    adapter = attach(model, method, head=["last"])
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    (model(**batch(rows("mlp"), 1))["loss"] + adapter.penalty()).backward()
    optimizer.step()
    optimizer.zero_grad()
    adapter.step()
    assert adapter.taken == 1


def test_of_many_layers_the_first_ones_are_named_and_the_others_counted() -> None:
    model = nn.ModuleDict({str(i): nn.Linear(4, 4) for i in range(8)})
    adapter = attach(model, "lora", head=["7"])
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    model["7"](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"components of 0, 1, 2, 3, 4 and 2 more in step 1"):
        adapter.step()


@pytest.mark.parametrize("method", ["adalora", "dora", "lora"])
def test_the_trainer_names_it_too(method: str, tmp_path: Path) -> None:
    model = Spare()
    adapter = attach(model, method)
    accumulated = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": BATCH // 2}
    with pytest.warns(UserWarning, match="components of spare in step 1") as caught:
        trainer(model, adapter, rows("mlp"), tmp_path, **accumulated).train()
    assert adapter.taken == STEPS
    assert sum("no gradient reached" in str(warning.message) for warning in caught) == 1
