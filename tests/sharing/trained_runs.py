"""Short finished runs, trained once in a process, for the tests of what is exported from them."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from conftest import ARCHITECTURES
from dora.backbones.backbone import ASSETS
from dora.configuration.config import Config
from dora.data.sources import read_dir
from dora.data.tasks import TASKS, Rows
from runs import arrays, only_run, run, small, small_glue

SCORED = 12  # rows of the development and test sets
TOKENIZERS = {"roberta": "tiny_roberta", "deberta-v2": "tiny_deberta"}
# One component in each matrix takes 2,496 parameters. At these budgets some matrices end with none.
BUDGETS = {"lora": 2_456, "adalora": 2_900, "dora": 2_900}
# DoRA prunes after its first step, while components are still unlike enough for some matrices to
# lose all of theirs.
MORE = {"dora": ("method.prune_start=0", "method.prune_end=0.35")}


@functools.cache
def scratch() -> Path:
    """Makes a folder that lasts as long as this process."""
    root = Path(tempfile.mkdtemp(prefix="trained-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def twelve_layers(kind: str, folder: Path) -> Path:
    """Writes a random model of 12 layers with a tokenizer.

    12 layers, since layer.1 is the beginning of layer.11 too: a pattern could match both.
    """
    config, _, own = ARCHITECTURES[kind]
    tokens = 8_000
    if kind == "bert":  # none is embedded: a vocabulary of the words that occur
        rows = read_dir(TASKS["wnli"], small_glue())["train"]
        words = {
            w
            for s in rows.first + (rows.second or [])
            for w in re.findall(r"\w+|[^\w\s]", s.lower())
        }
        folder.mkdir()
        # Special tokens first, at the ids that BERT's configuration gives them.
        entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
        (folder / "vocab.txt").write_text("\n".join(entries))
        tokens = len(entries)
    else:
        # The embedded model's tokenizer alone.
        shutil.copytree(
            ASSETS / TOKENIZERS[kind],
            folder,
            ignore=shutil.ignore_patterns("*.safetensors", "config.json"),
        )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2}
    shape |= {"intermediate_size": 24, "max_position_embeddings": 64, "vocab_size": tokens}
    # Start values of 0.3, large enough that every layer changes the logits.
    model = AutoModelForSequenceClassification.from_config(
        config(initializer_range=0.3, **shape, **own)
    )
    # Without its head, as a pretrained model comes.
    getattr(model, model.base_model_prefix).save_pretrained(folder)
    return folder


@dataclass
class Trained:
    """A finished run: its directory, run.json, base model and the development rows as text."""

    folder: Path
    record: dict[str, Any]
    base: Path
    rows: Rows = field(default_factory=lambda: read_dir(TASKS["wnli"], small_glue(SCORED))["dev"])

    def recorded(self) -> np.ndarray:
        """Returns the best evaluation's logits on the development set, as the run stored them."""
        return arrays(self.folder)["best/dev/logits"]

    def logits(self, model: torch.nn.Module, tokenizer: Any) -> np.ndarray:
        """Returns the model's logits on the development set, tokenised by `tokenizer` alone."""
        assert self.rows.second is not None
        form: dict[str, Any] = {"truncation": True, "max_length": 48, "padding": True}
        batch = tokenizer(self.rows.first, self.rows.second, return_tensors="pt", **form)
        with torch.no_grad():
            return model.eval()(**batch).logits.numpy()


def short() -> tuple[str, ...]:
    """Returns the words of four steps on 32 rows, with SCORED rows in every other split."""
    # A rate and no warm-up with which four steps change the logits far beyond rounding.
    return f"data.dir={small_glue(SCORED)}", "max_steps=4", "limit_train=32", "lr=1e-2", "warmup=0"


@functools.cache
def composed(method: str) -> Config:
    """Returns the configuration of a short run; composing it takes as long as training."""
    words = (f"method={method}", f"budget={BUDGETS[method]}", *MORE.get(method, ()))
    return small(Path("nowhere"), *words, *short())


@functools.cache
def dora_run() -> Trained:
    """Trains DoRA on a copy of the embedded RoBERTa, which a test may move."""
    place = scratch() / "dora"
    base = shutil.copytree(ASSETS / "tiny_roberta", place / "base")
    record = run(small(place, f"model.path={base}", "method=dora", "budget=1500", *short()))
    return Trained(only_run(place), record, base)


@functools.cache
def full_run() -> Trained:
    """Trains every weight on a regression, and keeps the model."""
    place = scratch() / "full"
    words = ("task=stsb", "method=full", "keep_model=true", "max_steps=4", "limit_train=32")
    record = run(small(place, *words))
    rows = read_dir(TASKS["stsb"], small_glue())["dev"]
    return Trained(only_run(place), record, ASSETS / "tiny_roberta", rows)


@functools.cache
def stranger_run() -> Trained:
    """Trains on a folder with a relative path, whose weights come with a head for three classes."""
    place = scratch() / "stranger"
    base = shutil.copytree(ASSETS / "tiny_roberta", place / "base")
    tuned = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, dtype=torch.float32
    )
    tuned.save_pretrained(base)  # over the backbone's own weights, with a head beside them
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        config = small(place, "model.path=base", "method=lora", "budget=1500", *short())
        record = run(replace(config, results=str(place / "results")))
    return Trained(only_run(place / "results"), record, base)
