"""The finished model's folder: weights in 16 bits, training log and model card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dora.files import to_json, write_atomic
from dora.records.provenance import provenance
from pretraining.corpus import GLUE_TIMES, HELD_OUT, LENGTH
from pretraining.loop import MASKED, Pretraining

CARD = """\
---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: fill-mask
---
# {name}

A {architecture} of {layers} layers, width {hidden}, {heads} heads and {vocabulary:,} tokens: {parameters:,} parameters,
of which {embeddings:,} are the (tied) token embeddings. It is embedded in dora-glue so that demo, tests and studies run
on a backbone that knows some English, anywhere and in seconds.

**Not for** results about GLUE or about RoBERTa and DeBERTa as published: it has seen {seen} tokens of mostly film
reviews, not billions of everything. Sequences of {length} tokens are the longest it was trained on{positions}.

## Pretraining

Masked language modelling from scratch on {corpus}.
{seen} tokens, {passes:.2f} passes over {available}, packed into sequences of {length}; the GLUE sentences are in there
{times} times. No labels, no development or test sentence, {held} documents held out.
{masked:.0%} of the tokens masked (of these 80 % shown as the mask, 10 % as another token), loss and vocabulary scores
there alone. AdamW, {batch} tokens a step, peak rate {lr:g}, linear warm-up {warmup:.0%} and decay, clip 1, seed {seed}.

Held-out perplexity at the masked places: **{perplexity:.2f}**, with the weights as stored in 16 bits.
{steps:,} steps in {hours:.1f} hours on {machine}, commit {commit}.

    {command}

| tokens | training loss | held-out loss | held-out perplexity |
|---:|---:|---:|---:|
{curve}

Losses are nats a masked token; the training loss is the mean since the line before. All lines: training.json.
"""


def export(loop: Pretraining, heldout: np.ndarray, out: Path) -> None:
    """The model in 16 bits with its tokenizer, the training log, and the card but for scores on tasks."""
    loop.model.to("cpu", torch.float16).save_pretrained(out)
    loop.tokenizer.save_pretrained(out)
    loop.model.to(loop.args.device, torch.float32)
    loss = loop.heldout_loss(heldout)
    about = provenance()
    facts = {
        "arguments": {
            k: str(v) if isinstance(v, Path) else v
            for k, v in vars(loop.args).items()
            if k not in ("text", "glue", "work", "out")
        },
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
    """README.md of the model's folder."""
    args, config = loop.args, loop.model.config
    every = max(1, len(loop.log) // 12)
    shown = [*loop.log[every - 1 :: every]]
    shown += [loop.log[-1]] if shown[-1] is not loop.log[-1] else []
    positions = {
        "roberta": ", and all it has positions for",
        "deberta": f"; {config.position_buckets if args.kind == 'deberta' else 0} relative-position buckets, base size has 256",
    }
    device = (
        torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"{args.threads} CPU thread(s)"
    )
    texts = [f"`{file.name}`" for file in args.text]
    texts += (
        ["the sentences of the GLUE training sets at hand (CoLA, SST-2, MRPC, STS-B, RTE, WNLI)"]
        if args.glue
        else []
    )
    return CARD.format(
        name=f"tiny_{args.kind}",
        architecture={"roberta": "RoBERTa", "deberta": "DeBERTaV3"}[args.kind],
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        parameters=sum(p.numel() for p in loop.model.parameters()),
        embeddings=config.vocab_size * config.hidden_size,
        seen=f"{args.tokens / 1e6:,.0f} million",
        length=LENGTH,
        passes=args.tokens / facts["tokens_available"],
        positions=positions[args.kind],
        corpus=" and ".join(texts),
        available=f"{facts['tokens_available'] / 1e6:,.1f} million",
        times=GLUE_TIMES,
        held=HELD_OUT,
        masked=MASKED,
        batch=f"{args.batch * LENGTH:,}",
        lr=args.lr,
        warmup=args.warmup,
        seed=args.seed,
        perplexity=math.exp(loss),
        steps=loop.steps,
        hours=loop.seconds / 3600,
        machine=device,
        commit=((facts["git"] or {}).get("commit") or "unknown")[:8],
        command=f"python scripts/pretrain_tiny.py {args.kind} --text {' '.join(f.name for f in args.text)} --glue GLUE --tokens {args.tokens:g}",
        curve="\n".join(
            f"| {line['tokens']:,} | {line['train_loss']:.3f} | {line['heldout_loss']:.3f} | {math.exp(line['heldout_loss']):.2f} |"
            for line in shown
        ),
    )
