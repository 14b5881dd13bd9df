"""The finished model's folder: weights in 16 bits, training log and model card."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dora.files import to_json, write_atomic
from dora.records.provenance import provenance
from pretraining.corpus import GLUE_TIMES, HELD_OUT, LENGTH
from pretraining.loop import MASKED, Pretraining

# Scores on tasks follow below it, by hand: they come from runs that the model must exist for.
CARD = """\
---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: fill-mask
---
# {name}

A {architecture} of {layers} layers, width {hidden}, {heads} heads and {vocabulary:,} tokens:
{parameters:,} parameters, of which {embeddings:,} are the (tied) token embeddings. It is embedded
in dora-glue so that demo, tests and studies run on a backbone that knows some English, anywhere and
in seconds.

**Not for** results about GLUE or about RoBERTa and DeBERTa as published: it has seen {seen} tokens
of mostly film reviews, not billions of everything. Sequences of {length} tokens are the longest it
was trained on{positions}.

## Pretraining

Masked language modelling from scratch on {corpus}. {seen} tokens, {passes:.2f} passes over
{available}, packed into sequences of {length}; the GLUE sentences are in there {times} times. No
labels, no development or test sentence, {held} documents held out. {masked:.0%} of the tokens
masked (of these 80 % shown as the mask, 10 % as another token), loss and vocabulary scores there
alone. AdamW, {batch} tokens a step, peak rate {lr:g}, linear warm-up {warmup:.0%} and decay, clip
1, seed {seed}.

Held-out perplexity at the masked places: **{perplexity:.2f}**, with the weights as stored in 16
bits. {steps:,} steps in {hours:.1f} hours on {machine}, commit {commit}.

    {command}

| tokens | training loss | held-out loss | held-out perplexity |
|---:|---:|---:|---:|
{curve}

Losses are nats a masked token; the training loss is the mean since the line before. All lines:
training.json.
"""


def export(loop: Pretraining, heldout: np.ndarray, out: Path) -> None:
    """Writes the model in 16 bits with its tokenizer, the training log, and the card.

    The card's scores on tasks are added by hand.
    """
    loop.model.to("cpu", torch.float16).save_pretrained(out)
    loop.tokenizer.save_pretrained(out)
    # Rounded to 16 bits by now: the card's perplexity is that of the weights in the folder.
    loop.model.to(loop.args.device, torch.float32)
    loss = loop.heldout_loss(heldout)
    about = provenance()
    # Without folders: they are of this machine alone.
    arguments = {
        k: v for k, v in vars(loop.args).items() if k not in ("text", "glue", "work", "out")
    }
    facts = {
        "arguments": arguments,
        "tokens_available": loop.train_blocks.size,
        "seconds": round(loop.seconds),
        "heldout_loss": round(loss, 4),
        "heldout_perplexity": round(math.exp(loss), 3),
        "platform": about["platform"],
        "cpus": about["cpus"],
        "versions": about["versions"],
        "git": about["git"],
        "log": loop.log,
    }
    write_atomic(out / "training.json", to_json(facts))
    write_atomic(out / "README.md", card(loop, facts, loss))
    print(f"{out}: held-out perplexity {math.exp(loss):.2f}", flush=True)


def card(loop: Pretraining, facts: dict[str, Any], loss: float) -> str:
    """Returns README.md of the model's folder."""
    return CARD.format(
        **_shape(loop),
        **_text(loop.args, facts),
        length=LENGTH,
        held=HELD_OUT,
        masked=MASKED,
        batch=f"{loop.args.batch * LENGTH:,}",
        lr=loop.args.lr,
        warmup=loop.args.warmup,
        seed=loop.args.seed,
        perplexity=math.exp(loss),
        steps=loop.steps,
        hours=loop.seconds / 3600,
        machine=_machine(loop.args),
        # Unknown in an installed package.
        commit=((facts["git"] or {}).get("commit") or "unknown")[:8],
        # File names alone: folders are of this machine.
        command=f"python scripts/pretrain_tiny.py {loop.args.kind} "
        f"--text {' '.join(f.name for f in loop.args.text)} --glue GLUE "
        f"--tokens {loop.args.tokens:g}",
        curve="\n".join(_curve(loop.log)),
    )


def _shape(loop: Pretraining) -> dict[str, Any]:
    """Returns the card's values that describe the model."""
    kind, config = loop.args.kind, loop.model.config
    positions = ", and all it has positions for"  # RoBERTa's are a table
    if kind == "deberta":
        positions = f"; {config.position_buckets} relative-position buckets, base size has 256"
    return {
        "name": f"tiny_{kind}",
        "architecture": {"roberta": "RoBERTa", "deberta": "DeBERTaV3"}[kind],
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "vocabulary": config.vocab_size,
        "parameters": sum(p.numel() for p in loop.model.parameters()),
        "embeddings": config.vocab_size * config.hidden_size,
        "positions": positions,
    }


def _text(args: argparse.Namespace, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns the card's values that describe the text that was seen."""
    texts = [f"`{file.name}`" for file in args.text]
    if args.glue:
        tasks = "CoLA, SST-2, MRPC, STS-B, RTE, WNLI"
        texts.append(f"the sentences of the GLUE training sets at hand ({tasks})")
    available = facts["tokens_available"]
    return {
        "seen": f"{args.tokens / 1e6:,.0f} million",
        "passes": args.tokens / available,
        "corpus": " and ".join(texts),
        "available": f"{available / 1e6:,.1f} million",
        "times": GLUE_TIMES,
    }


def _machine(args: argparse.Namespace) -> str:
    """Returns the name of the device that trained."""
    if args.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{args.threads} CPU thread(s)"


def _curve(log: list[dict[str, float]]) -> list[str]:
    """Returns about twelve rows of the log, the last among them, as a Markdown table's."""
    # A table that a reader takes in; training.json has every line.
    every = max(1, len(log) // 12)
    shown = log[every - 1 :: every]
    if shown[-1] is not log[-1]:
        shown = [*shown, log[-1]]
    return [
        f"| {line['tokens']:,} | {line['train_loss']:.3f} | {line['heldout_loss']:.3f} "
        f"| {math.exp(line['heldout_loss']):.2f} |"
        for line in shown
    ]
