"""Tiny models from configuration, random batches, and the step every training loop takes."""

import os

# Before torch is imported: on matrices of 32 x 32 threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from dora.adapters.budget import Budget, Matrix
from dora.adapters.lowrank import LowRankLinear
from dora.backbones.architectures import KINDS
from dora.backbones.backbone import find_linears
from dora.configuration.config import Config
from dora.configuration.groups import TaskConfig
from dora.configuration.method_choice import MethodChoice, packaged, packaged_names
from dora.data.tokens import Tokens
from dora.guarding.guard import Guard
from dora.methods.base import Method, RunInfo
from dora.package import PLUGINS
from dora.training.course import Course
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.processes import World
from dora.training.step import Setup

sys.path.append(str(PLUGINS))  # as dora.run does: a test imports the sweeper itself
VOCABULARY = 60  # ids; random ones begin at 5, behind the special tokens
# DebertaV2Config() as it comes is not DeBERTaV3: these are the settings of microsoft/deberta-v3-*.
DEBERTA_V3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "roberta": (
        RobertaConfig,
        RobertaForSequenceClassification,
        {"type_vocab_size": 1, "pad_token_id": 1},
    ),
    # BERT tells a pair's two texts apart by segment ids; RoBERTa has one, DeBERTa-v3 none.
    "bert": (BertConfig, BertForSequenceClassification, {}),
    "deberta-v2": (DebertaV2Config, DebertaV2ForSequenceClassification, DEBERTA_V3),
}


def settings_of(name: str, **changes: Any) -> Any:
    """Returns a method's settings as its YAML has them, with `changes`."""
    return packaged(name, **changes).settings


# For methods attached without a schedule of their own: 100 steps, seed 3.
RUN = RunInfo(100, 3)

# Every method that there is, by name: (a function that returns its settings, its class). Tests take
# methods from here, so that a new one is tested without an edit.
METHODS: dict[str, tuple[Callable[..., Any], Any]] = {
    name: (partial(settings_of, name), packaged(name).kind) for name in packaged_names()
}


def tiny(
    architecture: str,
    hidden: int = 32,
    layers: int = 2,
    dropout: float = 0.0,
    seed: int = 0,
    outputs: int = 2,
) -> nn.Module:
    """Returns a sequence classifier with random weights in the default dtype.

    Its feed-forward layers are 2 x hidden wide. Equal arguments give equal weights.
    """
    config, model, own = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    return model(
        config(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=40,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=outputs,
            # Said outright: DeBERTa computes its loss in float32 if it has to guess.
            problem_type="single_label_classification",
            **own,
        )
    )


def linears(model: nn.Module, kinds: tuple[str, ...] = KINDS) -> tuple[Matrix, ...]:
    """Returns the model's linears of these kinds in layer order."""
    return find_linears(model.config.to_dict(), kinds)


def attach_method(
    model: nn.Module, name: str, budget: str, run: RunInfo = RUN, **settings: Any
) -> Any:
    """Returns a method of the suite attached to the model, whose head is trained too."""
    train_head_only(model)
    chosen = packaged(name, **settings)
    plan = chosen.kind.plan(chosen.settings, Budget.parse(budget), linears(model), run)
    return chosen.kind(chosen.settings, model, plan, run)


def batches(count: int, size: int = 4, longest: int = 12, seed: int = 0) -> list[dict[str, Tensor]]:
    """Returns batches of random ids with rows of unequal length, and labels of two classes."""
    random = torch.Generator().manual_seed(seed)

    def one() -> dict[str, Tensor]:
        lengths = torch.randint(longest // 2, longest + 1, (size, 1), generator=random)
        inside = torch.arange(int(lengths.max())) < lengths
        ids = torch.randint(5, VOCABULARY, inside.shape, generator=random)
        labels = torch.randint(0, 2, (size,), generator=random)
        # 1 is RoBERTa's padding id; the other architectures heed the mask alone.
        return {
            "input_ids": ids.where(inside, 1),
            "attention_mask": inside.long(),
            "labels": labels,
        }

    return [one() for _ in range(count)]


def tokens(rows: int, longest: int = 12, seed: int = 0) -> Tokens:
    """Returns a split of random ids with rows of unequal length and two classes.

    It has RoBERTa's padding.
    """
    random = np.random.default_rng(seed)
    lengths = random.integers(longest // 2, longest + 1, rows)
    ids = random.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    label, idx = random.integers(0, 2, rows), np.arange(rows)
    return Tokens(ids, None, np.cumsum(lengths) - lengths, lengths, label, idx, pad=1)


def layer_of(
    d_in: int,
    d_out: int,
    rank: int,
    scale: float = 1.0,
    dropout: float = 0.0,
    gated: bool = True,
    seed: int = 0,
) -> LowRankLinear:
    """Returns a layer whose A, B and g are drawn from N(0, 1)."""
    torch.manual_seed(seed)
    layer = LowRankLinear(nn.Linear(d_in, d_out), rank, scale, dropout, gated)
    for p in layer.factors().values():
        nn.init.normal_(p)
    return layer


def loop_of(
    model: nn.Module,
    method: Method,
    train: Tokens,
    total_steps: int,
    lr: float = 1e-3,
    **config: Any,
) -> Loop:
    """Returns a training loop of one process that keeps no record and evaluates nothing."""
    # Everything outside the backbone, as for a run.
    head = [
        n for n, _ in model.named_parameters() if not n.startswith(model.base_model_prefix + ".")
    ]
    c = config_of(type(method), **config)
    course, world = Course(c, train.lengths, total_steps), World(0, 1, torch.device("cpu"))
    setup = Setup(c, model, head, Guard(method, model), lr, train, course, {}, {}, world)
    return Loop(setup, None, Lines(None))


def config_of(kind: type[Method], **config: Any) -> Config:
    """Returns the configuration of a run of this method on a task of two classes."""
    return Config(task=TaskConfig("sst2"), method=MethodChoice("any", kind, None), **config)


def train_head_only(model: nn.Module) -> None:
    """Freezes the backbone and leaves the head trained, as at the start of every adapter run."""
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(model.base_model_prefix + "."))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that an optimizer gets."""
    return [p for p in model.parameters() if p.requires_grad]


def backward_and_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Runs backward, clip at 1 and an optimizer step, and returns the loss; gradients stay."""
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return loss.item()


@pytest.fixture
def float64() -> Iterator[None]:
    """Makes every tensor created in the test float64, models and adapters included."""
    before = torch.get_default_dtype()
    # Rounding is then 1e-16, so that a comparison at 1e-10 shows any error of a formula.
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def pytest_collection_finish() -> None:
    """Has Python's search for garbage leave out the modules and tests, which stay to the end.

    Each search through all of them takes a quarter of a second, a tenth of the tests' time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # a test of a run leaves little behind


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keeps torch to one thread: OMP_NUM_THREADS may be set to another number outside."""
    torch.set_num_threads(1)
