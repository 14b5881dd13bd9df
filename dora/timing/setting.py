"""The circumstances of a measurement: model, rows, clock, and the ranks that candidates share.

Models have random weights and rows are all of one length: neither changes the cost of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dora.data.tokens import Tokens

# name → (architecture, layers, hidden width, feed-forward width, heads, vocabulary). minilm, base
# and deberta_base have the shapes of MiniLM-L6, RoBERTa-base and DeBERTaV3-base.
SIZES = {
    "tiny": ("roberta", 4, 256, 1024, 4, 8_000),
    "minilm": ("roberta", 6, 384, 1536, 12, 30_522),
    "base": ("roberta", 12, 768, 3072, 12, 50_265),
    "deberta_base": ("deberta-v2", 12, 768, 3072, 12, 128_100),
}
LONGEST = 512  # tokens of a row at most, in every size
TOTAL = 1000  # steps of the run that the timed ones are taken from
# Components a matrix: those that prune begin with 12 and end with 8 on average. A method that keeps
# its ranks is given 12, as PEFT is, so that all of them are timed with equal ones.
START, BUDGET = 12, "r8"


@dataclass(frozen=True)
class Setting:
    """The circumstances of a measurement.

    `dropout`: of the adapters' input. `length`: tokens of every row. `threads`: on a CPU.
    """

    size: str
    dropout: float
    batch: int = 16
    length: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 2
    backbone_dropout: float = 0.1


def in_precision(s: Setting, name: str) -> tuple[Setting, str]:
    """Returns the setting and the candidate that `name` means: "lora, bf16" is "lora" in bf16.

    Candidates of two precisions take turns in one measurement; those named without a precision have
    the setting's.
    """
    name, _, precision = name.partition(", ")
    return (replace(s, precision=precision) if precision else s), name


def backbone(s: Setting) -> Any:
    """Returns a sequence classifier with random weights, all frozen but the head.

    It is on the CPU, where adapters are drawn whatever the device.
    """
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
        "max_position_embeddings": LONGEST + 2,  # RoBERTa counts them from the padding's id + 1
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
    """Returns four batches of random rows of one length, two classes."""
    n, random = 4 * s.batch, np.random.default_rng(0)
    # From 5: below are the special tokens, of which padding would be masked.
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
    """Seconds of one step: by the clock, and of the CPU over all its threads."""

    wall: float
    cpu: float


# Takes a number of training steps, and returns the mean times of one.
Contender = Callable[[int], Times]


def clock(s: Setting) -> tuple[float, float]:
    """Returns (wall, CPU) seconds, after the device has finished all its work."""
    # Kernels are launched asynchronously: without the wait only their launches would be timed.
    if s.device != "cpu":
        torch.cuda.synchronize(s.device)  # without it, the first GPU's, whichever one measures
    return time.perf_counter(), time.process_time()


def timed(s: Setting, step: Callable[[], Any]) -> Contender:
    """Returns a contender that times `count` consecutive steps as one.

    The clock is read before the first and after the last alone, so that on a GPU steps overlap as
    they do in training.
    """

    def run(count: int) -> Times:
        wall, cpu = clock(s)
        for _ in range(count):
            step()
        end_wall, end_cpu = clock(s)
        return Times((end_wall - wall) / count, (end_cpu - cpu) / count)

    return run
