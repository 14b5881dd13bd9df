"""What the benchmark times: the bare backbone, our methods in the real training loop, PEFT and the Trainer.

Models have random weights and rows are all of one length: neither changes what a step costs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dora.adapters.budget import Budget, Plan
from dora.backbones.architectures import KINDS
from dora.backbones.attention import cheapen_dropout
from dora.backbones.backbone import find_linears
from dora.config import Config, TaskConfig
from dora.data.tokens import Tokens
from dora.method_choice import MethodChoice, packaged
from dora.methods.base import Method, RunInfo
from dora.training.loop import Loop
from dora.training.processes import World
from dora.training.step import Setup

# name → (architecture, layers, hidden width, feed-forward width, heads, vocabulary)
SIZES = {
    "tiny": ("roberta", 4, 256, 1024, 4, 8_000),
    "minilm": ("roberta", 6, 384, 1536, 12, 30_522),
    "base": ("roberta", 12, 768, 3072, 12, 50_265),
    "deberta_base": ("deberta-v2", 12, 768, 3072, 12, 128_100),
}
TOTAL = 1000  # steps of the run that the timed ones are taken from
START, BUDGET = 12, "r8"
PHASES = ("before", "allocating", "after")
OURS = ("full", "lora", *(f"{m} {phase}" for m in ("adalora", "dora") for phase in PHASES))
PEFTS = ("PEFT LoRA", "PEFT AdaLoRA", "Trainer + PEFT LoRA")
CONTENDERS = ("floor", "floor with our dropout", *OURS, *PEFTS)
COMPILED = (
    "full compiled",
    "lora compiled",
    "dora compiled",
)  # by torch.compile, before any allocation


@dataclass(frozen=True)
class Setting:
    """What is measured. `dropout`: of the adapters' input. `threads`: on a CPU."""

    size: str
    dropout: float
    batch: int = 16
    length: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 2
    backbone_dropout: float = 0.1


class Floor(Method):
    """No adapter at all, but an input that asks for a gradient, as the first adapter's does."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, Any] = {}
        embeddings: Any = getattr(model, str(model.base_model_prefix)).embeddings
        embeddings.register_forward_hook(lambda module, given, out: out.requires_grad_())


def backbone(s: Setting) -> Any:
    """A sequence classifier with random weights, all frozen but the head, on the CPU: adapters are drawn there."""
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    architecture, layers, hidden, inner, heads, vocabulary = SIZES[s.size]
    shape: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "hidden_dropout_prob": s.backbone_dropout,
        "attention_probs_dropout_prob": s.backbone_dropout,
        "max_position_embeddings": 512 + 2,
    }
    torch.manual_seed(0)
    model: Any
    if architecture == "roberta":
        model = RobertaForSequenceClassification(
            RobertaConfig(**shape, type_vocab_size=1, pad_token_id=1)
        )
    else:  # as microsoft/deberta-v3-base; the class's defaults are not it
        shape |= {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
        }
        model = DebertaV2ForSequenceClassification(DebertaV2Config(**shape))
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(model.base_model_prefix + "."))
    return model


def rows(s: Setting) -> Tokens:
    """Four batches of rows of one length, two classes."""
    n, random = 4 * s.batch, np.random.default_rng(0)
    ids = random.integers(5, SIZES[s.size][5], n * s.length).astype(np.int32)
    lengths = np.full(n, s.length)
    return Tokens(
        ids,
        None,
        np.cumsum(lengths) - lengths,
        lengths,
        random.integers(0, 2, n),
        np.arange(n),
        pad=1,
    )


@dataclass(frozen=True)
class Times:
    """Seconds of one step: wall, and CPU over all threads."""

    wall: float
    cpu: float


Contender = Callable[[int], Times]  # does so many training steps


def clock(s: Setting) -> tuple[float, float]:
    """(wall, CPU) seconds, once the device has done all it was given."""
    if s.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def timed(s: Setting, step: Callable[[], None]) -> Contender:
    """Steps that nothing stands between."""

    def run(count: int) -> Times:
        wall, cpu = clock(s)
        for _ in range(count):
            step()
        end_wall, end_cpu = clock(s)
        return Times((end_wall - wall) / count, (end_cpu - cpu) / count)

    return run


def contender(s: Setting, name: str) -> Contender:
    """One of CONTENDERS or COMPILED, ready to be timed."""
    if name in PEFTS:
        return pefts(s, name)
    loop, at = loop_of(s, name)

    def step() -> None:
        nonlocal at
        at += 1
        loop.train_step(at)

    return timed(s, step)


def loop_of(s: Setting, name: str) -> tuple[Loop, int]:
    """(the real loop, a step of the phase of the run that `name` says)."""
    model = backbone(s)
    method_name, _, phase = name.partition(" ")
    chosen: MethodChoice = packaged("lora")
    method: Method
    plan: Plan | None = None
    if name.startswith("floor"):
        method = Floor(model)
    else:
        chosen = packaged(method_name)
        if hasattr(chosen.settings, "dropout"):
            chosen.settings.dropout = s.dropout
        if phase == "allocating":  # every step does
            chosen.settings.mask_interval = chosen.settings.prune_interval = 1
        if chosen.has_budget:
            matrices = find_linears(model.config.to_dict(), KINDS)
            # LoRA keeps the rank it has; the others begin at 12 and end at 8 on average.
            budget = Budget.parse(f"r{START}" if method_name == "lora" else BUDGET)
            plan = chosen.kind.plan(chosen.settings, budget, matrices)
        method = chosen.kind(chosen.settings, model, plan, RunInfo(TOTAL, seed=0))
    model.to(s.device)
    if name != "floor" and s.device == "cpu":
        cheapen_dropout(model)
    if phase == "compiled":
        model.compile(dynamic=True)  # as `dora.training.one_run` does
    method.load(method.state())
    head = [
        n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")
    ]
    config = Config(
        task=TaskConfig("sst2"), method=chosen, batch_size=s.batch, precision=s.precision
    )
    world = World(0, 1, torch.device(s.device))
    loop = Loop(
        Setup(config, config.kind, model, head, method, plan, 1e-4, rows(s), {}, {}, TOTAL, world),
        None,
        lambda _: None,
    )
    loop.train_step(1)  # the optimizer's moments exist from here on
    at = {"allocating": TOTAL // 5, "after": method.ranks_final_at}.get(
        phase, 100
    )  # 100: past the warm-up
    if phase == "after":
        loop.train_step(method.ranks_final_at)
    return loop, at


def pefts(s: Setting, name: str) -> Contender:
    """The same step as a user of PEFT writes it: forward, backward, clip, fused AdamW, allocation."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    model: Any = backbone(s)
    head = [p for p in model.parameters() if p.requires_grad]
    names = [m.name for m in find_linears(model.config.to_dict(), KINDS)]
    common: dict[str, Any] = {"lora_alpha": 16, "lora_dropout": s.dropout, "target_modules": names}
    adalora = name == "PEFT AdaLoRA"
    model = get_peft_model(
        model,
        AdaLoraConfig(
            init_r=START,
            target_r=8,
            tinit=50,
            tfinal=TOTAL // 2,
            deltaT=TOTAL,
            total_step=TOTAL,
            **common,
        )
        if adalora
        else LoraConfig(r=START, **common),
    )
    for p in head:
        p.requires_grad_(True)
    model.to(s.device)
    if name.startswith("Trainer"):
        return trainers(s, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    data, at = rows(s), 100

    def step() -> None:
        nonlocal at
        at += 1
        batch = np.arange(s.batch) + at % 4 * s.batch
        inputs = {k: torch.from_numpy(v).to(s.device) for k, v in data.batch(batch).items()}
        labels = torch.from_numpy(np.asarray(data.label)[batch]).to(s.device)
        with torch.autocast(
            torch.device(s.device).type, torch.bfloat16, enabled=s.precision == "bf16"
        ):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if adalora:
            model.base_model.update_and_allocate(at)
        optimizer.zero_grad()

    model.train()
    return timed(s, step)


def trainers(s: Setting, model: nn.Module) -> Contender:
    """Steps of the Transformers Trainer with its defaults, its start-up left out."""
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
        arguments.max_steps = count + 1
        trainer.train()
        wall, cpu = clock(s)
        return Times((wall - began.at[0]) / count, (cpu - began.at[1]) / count)

    return run
