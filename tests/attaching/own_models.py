"""Small models of one's own, each with rows to train it on, and the loops that train them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import dora

STEPS, BATCH = 16, 4
Rows = list[dict[str, Tensor]]


class Perceptron(nn.Module):
    """Three linears whose owner is one module, and which read three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 24), nn.Linear(24, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns loss and logits, (n, 8), for x of shape (n, 12)."""
        logits = self.last(F.relu(self.second(F.relu(self.first(x)))))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def build(kind: str) -> nn.Module:
    """Returns one of five models with random weights; equal names give equal weights."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    ids = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(vocab_size=40, **small))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**ids, **small, num_key_value_heads=1))
    if kind == "vit":
        images: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_labels": 3}
        return ViTForImageClassification(ViTConfig(**small, **images))
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**ids, n_embd=32, n_layer=2, n_head=2))
    return Perceptron()


def rows(kind: str, number: int = 32) -> Rows:
    """Returns random rows that the model takes, one dictionary each, as a Trainer's dataset."""
    random = torch.Generator().manual_seed(1)

    def one() -> dict[str, Tensor]:
        if kind == "vit":
            image = torch.randn(3, 8, 8, generator=random)
            return {"pixel_values": image, "labels": torch.randint(3, (), generator=random)}
        if kind == "mlp":
            x = torch.randn(12, generator=random)
            return {"x": x, "labels": torch.randint(8, (), generator=random)}
        ids = torch.randint(1, 40, (7,), generator=random)
        labels = torch.randint(2, (), generator=random) if kind == "bert" else ids
        return {"input_ids": ids, "labels": labels}

    return [one() for _ in range(number)]


def batch(held: Rows, step: int) -> dict[str, Tensor]:
    """Returns the rows of step `step` (from 1) as one batch."""
    at = [(BATCH * (step - 1) + i) % len(held) for i in range(BATCH)]
    return {name: torch.stack([held[i][name] for i in at]) for name in held[0]}


def attach(model: nn.Module, method: str = "dora", **given: Any) -> dora.Adapter:
    """Attaches a method with its schedule over STEPS."""
    return dora.attach(model, method, "r4", STEPS, **given)


def train(model: Any, adapter: dora.Adapter, held: Rows, last: int = STEPS) -> torch.optim.AdamW:
    """Trains in an ordinary loop, which keeps its loss in a local, from where the adapter is."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    go_on(model, adapter, optimizer, held, last)
    return optimizer


def go_on(model: Any, adapter: dora.Adapter, optimizer: Any, held: Rows, last: int = STEPS) -> None:
    """Trains as `train` does, with an optimizer that is there already."""
    model.train()
    for step in range(adapter.taken + 1, last + 1):
        loss = model(**batch(held, step))["loss"] + adapter.penalty()
        loss.backward()
        optimizer.step()
        adapter.step()
        optimizer.zero_grad()


def check_restart(
    attached: Callable[[], tuple[Any, dora.Adapter, torch.optim.Optimizer]],
    held: Rows,
    cut: int,
    by: str,
) -> None:
    """Asserts that training goes on behind step `cut` in another process's objects, to the bit.

    `attached`: makes a model, its adapter and the optimizer anew. `by`: whose state_dict is stored,
    "adapter" or "model".
    """
    whole, adapter, optimizer = attached()
    go_on(whole, adapter, optimizer, held)

    first, adapter, optimizer = attached()
    go_on(first, adapter, optimizer, held, cut)
    state = copy.deepcopy((adapter if by == "adapter" else first).state_dict())
    moments = copy.deepcopy(optimizer.state_dict())

    second, adapter, optimizer = attached()
    (adapter if by == "adapter" else second).load_state_dict(state)
    optimizer.load_state_dict(moments)
    assert adapter.taken == cut
    go_on(second, adapter, optimizer, held)
    expected, found = whole.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def trainer(
    model: nn.Module, adapter: dora.Adapter, held: Rows, folder: Path, **given: Any
) -> Trainer:
    """Returns a Trainer of STEPS steps with the adapter's callback."""
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", "per_device_train_batch_size": BATCH, **given},
    )
    callbacks = [dora.TrainerCallback(adapter)]
    return Trainer(model, arguments, train_dataset=held, eval_dataset=held, callbacks=callbacks)
