"""A method is refused that trains or changes what its result does not hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import METHODS
from dora.adapters import lowrank, result
from dora.backbones.backbone import load_model
from dora.errors import UserError
from dora.methods.base import Method
from dora.methods.lora import LoRA
from dora.preparing.prepare import Prepared, prepare
from dora.training.build import attach
from runs import of_kind, run, small


class Subtracting(LoRA):
    """Takes the start of the update off the weight itself."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        for layer in self.layers.values():
            layer.base.weight.data -= 1e-3 * layer.base.weight


class Replacing(LoRA):
    """Puts another weight into the layers."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        for layer in self.layers.values():
            layer.base.weight = nn.Parameter(layer.base.weight * 0.999, requires_grad=False)


class Embedding(LoRA):
    """Changes a tensor that has no layer of its own."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        model.get_parameter("roberta.embeddings.LayerNorm.weight").data.mul_(0.999)


class Merging(LoRA):
    """Changes the weight while it trains."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        next(iter(self.layers.values())).base.weight.mul_(0.999)


class Scratch(LoRA):
    """Has a buffer of its own, which no result needs."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        self._layer = next(iter(self.layers.values()))
        self._layer.register_buffer("seen", torch.zeros(1))

    def after_step(self, step: int) -> None:
        self._layer.seen += 1

    def state(self) -> dict[str, Tensor]:
        return {"seen": self._layer.seen}  # type: ignore[dict-item]

    def load(self, state: dict[str, Tensor]) -> None:
        self._layer.seen = state["seen"].clone()


def trained(results: Path, name: str, kind: type, *words: str) -> dict[str, Any]:
    """The record of a run of method=`name`, whose class is `kind`."""
    budget = ["budget=r2"] if kind.budget != "none" else []  # type: ignore[attr-defined]
    config = small(results, f"method={name}", "max_steps=4", "eval_every=4", *budget, *words)
    config.method = dataclasses.replace(config.chosen, kind=kind)
    return run(config)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Subtracting,
            r"Subtracting\.__init__ changes roberta.*query\.base\.weight, which its resul",
        ),
        (
            Replacing,
            r"Replacing\.__init__ changes roberta.*query\.base\.weight, .*\(kept_A and kept_B",
        ),
        (
            Embedding,
            r"Embedding\.__init__ changes roberta\.embeddings\.LayerNorm\.weight, which its",
        ),
        (Merging, r"Merging has changed roberta.*query\.base\.weight in training, .* `perturbed`"),
    ],
)
def test_a_backbone_that_the_result_does_not_hold_is_refused(
    kind: type, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        trained(tmp_path, "lora", kind)


@pytest.mark.parametrize(
    "words",
    [
        ("lora", "method.init=pissa"),
        ("full",),
        ("bitfit", "precision=bf16"),
        ("houlsby", "method.layer_norm=true"),
        ("nora",),
        ("chain", "method.links=2"),
        ("weight_decomposed",),
        ("flat_lora",),
    ],
)
def test_what_trains_the_backbone_or_keeps_components_beside_it_passes(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    name, *own = words
    # A class of one's own: those of the suite are not asked.
    kind = type("Own", (METHODS[name][1],), {})
    assert trained(tmp_path, name, kind, *own)["status"] == "done"


def test_a_buffer_of_the_methods_own_is_no_part_of_the_backbone(tmp_path: Path) -> None:
    assert trained(tmp_path, "lora", Scratch)["status"] == "done"


class LoRAWithNorms(Method):
    """Low-rank layers, and LayerNorms that an adapter's file does not hold."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        self.layers = lowrank.adapt(model, plan.matrices, plan.start, 1.0, 0.0, gated=False)
        for name, p in model.named_parameters():
            if name.endswith("LayerNorm.bias"):
                p.requires_grad_(True)


class Nothing(Method):
    """No low-rank layers, and the result that the base class assumes."""


class NewModule(Method):
    """A module that the backbone does not have."""

    budget = "none"
    result = "weights"

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        model.bottleneck = nn.Linear(2, 2)


class OwnModule(NewModule):
    """The same module, as the kind of result that holds it."""

    result = "modules"


class HalfFrozen(LoRA):
    """Keeps A as it is drawn, and does not name it."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        for layer in self.layers.values():
            layer.A.requires_grad_(False)


class HalfNamed(HalfFrozen):
    """Names it."""

    def frozen(self) -> dict[str, Tensor]:
        return {f"{name}.A": layer.A for name, layer in self.layers.items()}


class Tied(LoRA):
    """One trained A for the two first layers."""

    def __init__(self, settings: Any, model: nn.Module, plan: Any, run: Any) -> None:
        super().__init__(settings, model, plan, run)
        first, second, *_ = self.layers.values()
        second.A = first.A


def attached(kind: type[Method], results: Path) -> set[str]:
    """Attaches a method as a run does; returns the names of its result's tensors."""
    config = of_kind(kind, results)
    lora: Prepared = prepare(small(results, "method=lora"))
    model, head = load_model(lora.model, 2, None, 1)
    plan = None if kind.budget == "none" else lora.plan
    guard = attach(dataclasses.replace(lora, config=config, plan=plan), model, head)
    return result.tensors_of(model, guard.method.frozen()).keys() - set(head)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (LoRAWithNorms, r'result = "adapter", which holds factors .* and trains .*LayerNorm\.bias'),
        (Nothing, r'Nothing has no low-rank layers, so its result is no "adapter"'),
        (
            NewModule,
            r'result = "weights", which holds parameters of the backbone alone, .*bottleneck',
        ),
        (
            HalfFrozen,
            r"HalfFrozen freezes .*\.A, which its result would lack: let frozen\(\) name it",
        ),
        (Tied, r"key\.A of Tied is the tensor .*query\.A as well, and an adapter stores each"),
    ],
)
def test_a_result_that_would_not_hold_what_is_trained_is_refused(
    kind: type[Method], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        attached(kind, tmp_path)


def test_a_frozen_factor_that_the_method_names_is_part_of_its_result(tmp_path: Path) -> None:
    names = attached(HalfNamed, tmp_path)
    assert {name[-2:] for name in names} == {".A", ".B"}


def test_modules_of_a_methods_own_are_a_kind_of_result(tmp_path: Path) -> None:
    assert any("bottleneck" in name for name in attached(OwnModule, tmp_path))
