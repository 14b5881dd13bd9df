"""The benchmark's candidates of other libraries: PEFT in a plain loop, and in the Trainer."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import nn

from dora.backbones.architectures import KINDS
from dora.backbones.backbone import find_linears
from dora.timing.setting import (
    START,
    TOTAL,
    Contender,
    Setting,
    Times,
    backbone,
    clock,
    rows,
    timed,
)

PEFTS = ("PEFT LoRA", "PEFT AdaLoRA", "Trainer + PEFT LoRA")


def peft_contender(s: Setting, name: str) -> Contender:
    """Returns the training step as a user of PEFT writes it.

    Forward, backward, clip, fused AdamW and, for AdaLoRA, PEFT's allocation.
    """
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    model: Any = backbone(s)
    head = [p for p in model.parameters() if p.requires_grad]
    names = [m.name for m in find_linears(model.config.to_dict(), KINDS)]
    common: dict[str, Any] = {"lora_alpha": 16, "lora_dropout": s.dropout, "target_modules": names}
    adalora = name == "PEFT AdaLoRA"
    config: Any = LoraConfig(r=START, **common)
    if adalora:
        # deltaT = the whole run: no timed step masks, so that its rank is the start's throughout.
        schedule: dict[str, Any] = {
            "tinit": 50,
            "tfinal": TOTAL // 2,
            "deltaT": TOTAL,
            "total_step": TOTAL,
        }
        config = AdaLoraConfig(init_r=START, target_r=8, **schedule, **common)
    model = get_peft_model(model, config)
    for p in head:  # get_peft_model has frozen it
        p.requires_grad_(True)
    model.to(s.device)
    if name.startswith("Trainer"):
        return _trainer_contender(s, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    data, at = rows(s), 100  # the step that ours begin at

    def step() -> None:
        """Takes one optimizer step on the next batch."""
        nonlocal at
        at += 1
        batch = np.arange(s.batch) + at % 4 * s.batch  # `rows` gives four batches
        inputs = {k: torch.from_numpy(v).to(s.device) for k, v in data.batch(batch).items()}
        labels = torch.from_numpy(np.asarray(data.label)[batch]).to(s.device)
        with torch.autocast(
            torch.device(s.device).type, torch.bfloat16, enabled=s.precision == "bf16"
        ):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        # Before the gradients are cleared: its scores need them.
        if adalora:
            model.base_model.update_and_allocate(at)
        optimizer.zero_grad()

    model.train()
    return timed(s, step)


def _trainer_contender(s: Setting, model: nn.Module) -> Contender:
    """Returns steps of the Transformers Trainer with its defaults, its start-up left out."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Began(TrainerCallback):
        """Notes when the second step begins: by then the Trainer has started up."""

        at = (0.0, 0.0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                self.at = clock(s)

    data, began = rows(s), Began()
    examples = [
        {
            "input_ids": data.ids[i : i + s.length].tolist(),
            "attention_mask": [1] * s.length,
            "labels": int(label),
        }
        for i, label in zip(data.start, np.asarray(data.label), strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=s.batch,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=s.precision == "bf16",
        use_cpu=s.device == "cpu",
    )
    trainer = Trainer(model, arguments, train_dataset=examples, callbacks=[began])
    trainer.remove_callback(PrinterCallback)  # a line for every few steps, between the tables

    def run(count: int) -> Times:
        arguments.max_steps = count + 1  # the first is not timed
        trainer.train()
        wall, cpu = clock(s)
        return Times((wall - began.at[0]) / count, (cpu - began.at[1]) / count)

    return run
