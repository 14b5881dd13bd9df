"""An attached adapter in somebody else's loop computes what the suite's own loop does.

In float64, on the embedded model and generated data: equal batches, rates, decay and clip.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import dora
from dora.adapters import result
from dora.backbones.backbone import load_model
from dora.preparing.prepare import prepare
from dora.training import build as building
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.processes import World
from runs import small

STEPS, LR = 24, 2e-3
# Their rates or decays are not the Trainer's own.
GROUPED = ("sora", "nora")
# Without the rows that NoRA's outer factors are weighed by.
MORE = {"nora": {"svd": "plain"}}
Batches = list[dict[str, Tensor]]
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def own_run(
    method: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Loop, Batches, nn.Module]:
    """Trains in the suite's loop; returns it, the batches that it took, and a model to start from."""

    def double(p: Any, *rest: Any) -> tuple[nn.Module, list[str]]:
        model, head = load_model(p.model, p.config.glue_task.outputs, p.config.head_dropout, 1)
        return model.double(), head

    monkeypatch.setattr(building, "_model", double)
    more = [f"method.{key}={value}" for key, value in MORE.get(method, {}).items()]
    words = [
        f"method={method}",
        *more,
        "budget=r4",
        f"lr={LR}",
        "method.dropout=0",
        "head_dropout=0",
    ]
    p = prepare(small(folder, *words))
    loop = building.build(p, World(0, 1, torch.device("cpu")), None, Lines(None))
    s = loop.setup
    batches = []
    for step in range(1, STEPS + 1):
        at = loop.setup.course.rows(step)
        given = {name: torch.from_numpy(array) for name, array in s.train.batch(at).items()}
        batches.append({**given, "labels": torch.as_tensor(s.train.label[at])})
        loop.train_step(step)
    return loop, batches, double(p)[0]


def share(step: int) -> float:
    """Returns the rate of step `step` (from 0) as a share of its peak: 2 steps of warm-up."""
    return step / 2 if step < 2 else (STEPS - step) / (STEPS - 2)


def by_loop(model: Any, adapter: dora.Adapter, batches: Batches, folder: Path) -> None:
    """Trains in an ordinary loop."""
    optimizer = torch.optim.AdamW(adapter.groups(LR, 0.01))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for batch in batches:
        loss = model.train()(**batch).loss + adapter.penalty()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        adapter.step()
        optimizer.zero_grad()


def by_trainer(model: Any, adapter: dora.Adapter, batches: Batches, folder: Path) -> None:
    """Trains with the Transformers Trainer, whose default groups these are."""
    arguments = TrainingArguments(
        str(folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        learning_rate=LR,
        weight_decay=0.01,
        warmup_steps=2,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    callbacks = [dora.TrainerCallback(adapter)]
    Trainer(
        model, arguments, lambda one: one[0], train_dataset=batches, callbacks=callbacks
    ).train()


def by_accelerate(model: Any, adapter: dora.Adapter, batches: Batches, folder: Path) -> None:
    """Trains with accelerate's wrapped optimizer and schedule."""
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(adapter.groups(LR, 0.01))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    for batch in batches:
        loss = model.train()(**batch).loss + adapter.penalty()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        adapter.step()
        schedule.step()
        optimizer.zero_grad()


LOOPS = (by_loop, by_trainer, by_accelerate)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("method", "loop"),
    [
        pytest.param(
            method, loop, marks=[] if loop is by_loop and method == "dora" else pytest.mark.slow
        )
        for method in ("dora", "adalora", "lora", "sora", "lora_pro", "flat_lora", "nora", "cora")
        for loop in (LOOPS if method not in GROUPED else (by_loop, by_accelerate))
    ],
)
def test_equals_the_suites_own_loop(
    method: str, loop: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, batches, model = own_run(method, tmp_path, monkeypatch)
    given = MORE.get(method, {})
    adapter = dora.attach(model, method, "r4", STEPS, dropout=0.0, seed=1, **given)
    adapter.begin()  # at the weights alone
    assert list(adapter.method.layers) == list(own.setup.method.layers)
    loop(model, adapter, batches, tmp_path)
    assert adapter.ranks() == own.setup.method.ranks()
    if method in ("dora", "adalora", "sora"):
        assert STEPS > adapter.method.ranks_final_at == own.setup.method.ranks_final_at > 0
    found = result.tensors_of(model, adapter.method.frozen())
    for name, expected in own.result().items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
