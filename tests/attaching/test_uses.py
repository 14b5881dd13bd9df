"""Each method on models of one's own, in the loops that people have, past its pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel

import dora
from own_models import BATCH, STEPS, Rows, attach, build, rows, train, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
MODELS = ("bert", "llama", "vit", "gpt2", "mlp")


def by_loop(model: Any, adapter: dora.Adapter, held: Rows, folder: Path) -> None:
    """Trains in an ordinary loop."""
    train(model, adapter, held)


def by_trainer(model: Any, adapter: dora.Adapter, held: Rows, folder: Path) -> None:
    """Trains with the Transformers Trainer."""
    trainer(model, adapter, held, folder).train()


def by_accelerate(model: Any, adapter: dora.Adapter, held: Rows, folder: Path) -> None:
    """Trains with accelerate, two micro-batches a step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(held, batch_size=BATCH)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    while adapter.taken < STEPS:
        before = adapter.taken
        for given in loader:
            with accelerator.accumulate(model):
                loss = model(**given)["loss"] + adapter.penalty()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                adapter.step(optimizer)  # need not be given, and may be
                optimizer.zero_grad()
        assert adapter.taken - before == len(held) // BATCH // 2


# They begin at weights or rows, or act before the optimizer does.
LATER = ("lora_pro", "flat_lora", "nora", "cora")


def joined(held: Rows) -> dict[str, torch.Tensor]:
    """Returns rows as one batch."""
    return {name: torch.stack([row[name] for row in held]) for name in held[0]}


# All fifteen; those that are slow differ from the others in model or loop alone.
@pytest.mark.parametrize(
    ("kind", "loop"),
    [
        pytest.param(
            kind,
            loop,
            marks=[] if kind == "mlp" or (loop is by_loop and kind != "vit") else pytest.mark.slow,
        )
        for kind in MODELS
        for loop in (by_loop, by_trainer, by_accelerate)
    ],
)
def test_dora_prunes_to_its_budget_and_peft_computes_what_it_does(
    kind: str, loop: Callable[..., None], tmp_path: Path
) -> None:
    model, held = build(kind), rows(kind)
    frozen = copy.deepcopy(model)
    adapter = attach(model)
    assert sum(adapter.ranks().values()) == 6 * len(adapter.ranks())
    loop(model, adapter, held, tmp_path)
    assert adapter.taken == STEPS > adapter.method.ranks_final_at
    assert sum(layer.rank for layer in adapter.method.layers.values()) == 4 * len(adapter.ranks())
    check_exports(kind, model, adapter, frozen, tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adalora", "sora", "melora", *LATER])
@pytest.mark.parametrize("kind", MODELS)
def test_the_other_methods_end_at_their_budget_too(kind: str, method: str, tmp_path: Path) -> None:
    model, held = build(kind), rows(kind)
    frozen = copy.deepcopy(model)
    adapter = attach(model, method, **({"blocks": 2} if method == "melora" else {}))
    adapter.begin(lambda number: model(**joined(held[:number]))["loss"])
    train(model, adapter, held)
    assert adapter.plan.missed(list(adapter.ranks().values())) is None
    check_exports(kind, model, adapter, frozen, tmp_path)


def check_exports(kind: str, model: Any, adapter: dora.Adapter, frozen: Any, folder: Path) -> None:
    """Asserts that PEFT's model and the merged one compute what the trained one does."""
    given = joined(rows(kind, 3))
    model.eval()
    with torch.no_grad():
        expected = model(**given)["logits"]
        plain = frozen.eval()(**given)["logits"]
        assert (expected - plain).abs().max() > 1e-3  # it has learned something to compare
        adapter.save(folder)
        kinds = [type(module) for module in frozen.modules()]
        peft = PeftModel.from_pretrained(frozen, folder).eval()
        torch.testing.assert_close(peft(**given)["logits"], expected, rtol=0, atol=1e-5)
        assert adapter.merge() is model
        assert [type(module) for module in model.modules()] == kinds
        torch.testing.assert_close(model(**given)["logits"], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders, devices and clusters
def test_lightning_needs_a_penalty_in_the_loss_and_one_call_after_a_batch(tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = build("bert")
            self.adapter = attach(self.model)

        def training_step(self, given: Any, at: int) -> torch.Tensor:
            return self.model(**given).loss + self.adapter.penalty()

        def on_train_batch_end(self, *rest: Any) -> None:
            self.adapter.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.adapter.parameters(), lr=1e-2)

    def fit(module: Any, steps: int, **given: Any) -> Any:
        runner = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            accumulate_grad_batches=2,
            default_root_dir=tmp_path,
            gradient_clip_val=1.0,
        )
        runner.fit(module, torch.utils.data.DataLoader(rows("bert", 32), BATCH), **given)
        return runner

    module = Module()
    runner = fit(module, 12)  # past the pruning, which ends after step 8
    runner.save_checkpoint(tmp_path / "half.ckpt")
    again = Module()
    fit(again, STEPS, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert module.adapter.taken == 12
    assert again.adapter.taken == STEPS
    assert sum(layer.rank for layer in again.adapter.method.layers.values()) == 4 * 13
