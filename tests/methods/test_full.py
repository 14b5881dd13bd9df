"""Full fine-tuning beside the Transformers Trainer."""

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from conftest import loop_of, settings_of, tiny, tokens
from dora.methods.base import RunInfo
from dora.methods.full import FullFineTuning

STEPS, BATCH, ROWS = 20, 8, 40  # four epochs of five batches


def full(model, **config):
    """Returns a loop that trains every weight of the model."""
    method = FullFineTuning(settings_of("full"), model, None, RunInfo(STEPS, 0))
    return loop_of(model, method, tokens(ROWS), STEPS, **{"batch_size": BATCH, **config})


class InOrder(Trainer):
    """The Trainer without its shuffling, so that it takes rows in the order of ours."""

    def _get_train_sampler(self, *_, **__):
        return SequentialSampler(self.train_dataset)


def collate(rows):
    """Returns a batch padded to its longest row, as our own batches are."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[1] * (longest - len(ids))] for ids, _ in rows])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 1).long(),
        "labels": torch.tensor([y for _, y in rows]),
    }


@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
def test_twenty_steps_give_the_trainers_losses(architecture, tmp_path):
    ours, theirs = tiny(architecture), tiny(architecture)
    loop = full(ours)
    data = loop.setup.train
    # The rows that our steps take, one after the other: four epochs as one dataset.
    order = np.concatenate([loop.setup.course.rows(step) for step in range(1, STEPS + 1)])
    dataset = [
        (data.ids[data.start[i] :][: data.lengths[i]].tolist(), int(data.label[i])) for i in order
    ]
    trainer = InOrder(
        model=theirs,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            lr_scheduler_type="linear",
            warmup_steps=0.06,  # below 1 a fraction of the run, rounded up
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=dataset,
        data_collator=collate,
    )
    trainer.train()
    want = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    # The Trainer logs the rate that the step was taken with.
    rates = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]

    got, ours_rates = [], []
    for step in range(1, STEPS + 1):
        got.append(loop.train_step(step)[0].item())
        ours_rates.append(loop.stepper.optimizer.param_groups[0]["lr"])
    assert len(want) == STEPS
    assert got == pytest.approx(want, abs=1e-5)
    assert ours_rates == pytest.approx(rates, abs=1e-12)
    assert max(want) - min(want) > 0.01  # it did train
    # Weights too: a wrong weight decay moves them long before it moves a loss.
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


# 8 rows in 3 parts are 3, 3 and 2.
@pytest.mark.parametrize("accumulate", [3, 4, 8])
def test_gradient_accumulation_gives_the_losses_of_whole_batches(accumulate):
    """Checks that the loss is a mean over the batch, not a sum of its parts' means."""
    losses = []
    for parts in (1, accumulate):
        loop = full(tiny("roberta"), grad_accum=parts)
        losses.append([loop.train_step(step)[0].item() for step in range(1, 11)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert max(losses[0]) - min(losses[0]) > 0.01


def test_a_short_last_batch_is_a_mean_over_its_own_rows():
    """Checks the batch of 3 that 43 rows leave, whole and cut into 4 parts, one of them empty."""
    losses = []
    for parts in (1, 4):
        method_model = tiny("roberta")
        method = FullFineTuning(settings_of("full"), method_model, None, RunInfo(STEPS, 0))
        loop = loop_of(method_model, method, tokens(43), STEPS, batch_size=8, grad_accum=parts)
        sizes = [len(loop.setup.course.rows(step)) for step in range(1, 7)]
        losses.append([loop.train_step(step)[0].item() for step in range(1, 7)])
    assert sorted(sizes) == [3, 8, 8, 8, 8, 8]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    # Near log 2 = 0.69: a batch of 3 divided by 8 would be near 0.26.
    assert all(0.3 < loss < 1.5 for loss in losses[0])


def test_every_weight_is_trained_and_nothing_is_allocated():
    model = tiny("roberta")
    model.requires_grad_(False)
    plan = FullFineTuning.plan(settings_of("full"), None, (), RunInfo(100, 3))
    method = FullFineTuning(settings_of("full"), model, plan, RunInfo(STEPS, 0))
    assert all(p.requires_grad for p in model.parameters())
    assert method.penalty(1) is None
    assert method.after_step(1) is None
    assert method.state() == {}
