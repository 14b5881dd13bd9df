"""Pretrain the embedded models: tokenizer, masked language model, model card.

    python scripts/pretrain_tiny.py roberta --text reviews.txt.xz --glue GLUE --work pretraining
    python scripts/pretrain_tiny.py deberta --text reviews.txt.xz --glue GLUE --work pretraining

`--text`: files with one document a line, plain or .xz. `--glue`: an official GLUE download, of which only
the texts of the training splits are read, without labels, and none that a development or test split has
too. The folder `--work/KIND` holds tokenizer, tokens, log and checkpoints: the same command resumes, and
the same seed, threads and device give the same weights. The finished model goes to
`dora/assets/tiny_KIND` in 16 bits.

One to two hours on one CPU core for the 30 million tokens and 2 layers of width 192 that are the defaults;
meant for a GPU, and not tried on one yet: `--device cuda --bf16 --layers 4 --hidden 256 --tokens 1e9`.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import math
import os
import time
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2Tokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

from dora.data.sources import read_dir
from dora.data.tasks import TASKS, Task
from dora.errors import UserError
from dora.files import to_json, write_atomic
from dora.process.signals import StopSignals
from dora.records.provenance import provenance
from dora.training import checkpoint
from dora.training.recipe import lr_factor

Text = tuple[str, str | None]
VOCABULARY = 8000
LENGTH = 128  # of a packed sequence, and what tiny_roberta has positions for
MASKED = 0.2  # small models learn more a token from somewhat more than BERT's 0.15
HELD_OUT = 500  # documents, at most a tenth
GLUE_TIMES = 3  # its sentences are few beside the reviews, and what the models are for
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
DEBERTA_SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def documents(files: list[Path], glue: Path | None) -> tuple[list[Text], list[Text]]:
    """(training, held-out) documents in a fixed mixed order, pairs of sentences as pairs, GLUE's GLUE_TIMES."""
    texts: list[Text] = []
    for file in files:
        with _open(file) as f:
            texts += [(line.strip(), None) for line in f if line.strip()]
    own = (
        []
        if glue is None
        else [text for task in TASKS.values() for text in _glue_texts(task, glue)]
    )
    texts += own
    order = np.random.default_rng(0).permutation(len(texts))
    n = min(HELD_OUT, len(texts) // 10)
    held = [texts[i] for i in order[:n]]
    unseen = set(held)
    train = [texts[i] for i in order[n:]] + own * (GLUE_TIMES - 1)
    return [text for text in train if text not in unseen], held


def _open(file: Path) -> TextIO:
    return (
        lzma.open(file, "rt", encoding="utf-8")
        if file.suffix == ".xz"
        else file.open(encoding="utf-8")
    )


def _glue_texts(task: Task, folder: Path) -> Iterator[Text]:
    """The training texts of a task, less those with a sentence that is in another split too."""
    try:
        splits = read_dir(task, folder)
    except UserError:
        print(f"{task.name}: not in {folder}, left out", flush=True)
        return
    unseen = {
        t
        for name, rows in splits.items()
        if name != "train"
        for t in chain(rows.first, rows.second or ())
    }
    train = splits["train"]
    for first, second in zip(train.first, train.second or [None] * len(train), strict=True):
        if first not in unseen and second not in unseen:
            yield first, second


def sentences(texts: list[Text]) -> Iterator[str]:
    """The texts as single strings."""
    return (unicodedata.normalize("NFC", s) for pair in texts for s in pair if s)


def roberta_tokenizer(texts: list[Text]) -> RobertaTokenizer:
    """Byte-level BPE with RoBERTa's special tokens at RoBERTa's ids 0 to 3."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=ROBERTA_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(sentences(texts), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LENGTH)


def deberta_tokenizer(texts: list[Text]) -> DebertaV2Tokenizer:
    """Unigram by SentencePiece, as DeBERTaV3's; every fourth document, since its memory grows with the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(texts[::4]),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY - len(DEBERTA_SPECIAL) + 3,  # it counts <unk>, <s> and </s> in
        hard_vocab_limit=False,  # little text has fewer pieces
        normalization_rule_name="identity",  # NFC, as the tokenizer does it
        required_chars="".join(map(chr, range(ord("!"), ord("~") + 1))),
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=1,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = [(t, 0.0) for t in DEBERTA_SPECIAL]
    vocab += [
        (pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, pieces.get_piece_size())
    ]
    return DebertaV2Tokenizer(vocab=vocab, model_max_length=LENGTH)


def pack(texts: list[Text], tokenizer: Any) -> np.ndarray:
    """(blocks, LENGTH) uint16: [CLS] and the next LENGTH - 1 tokens of all documents end to end.

    Documents end in the separator, and attention runs across it; the tail that fills no block is dropped.
    """
    stream: list[np.ndarray] = []
    for at in range(0, len(texts), 4096):
        part = texts[at : at + 4096]
        # Singles and pairs apart: a batch is one or the other. Their order within a part is fixed too.
        for pairs in (False, True):
            chosen = [t for t in part if (t[1] is not None) == pairs]
            if chosen:
                second = [str(b) for _, b in chosen] if pairs else None
                ids = tokenizer([a for a, _ in chosen], second, verbose=False)["input_ids"]
                stream += [np.array(row[1:], np.uint16) for row in ids]
    order = np.random.default_rng(1).permutation(len(stream))
    flat = np.concatenate([stream[i] for i in order])
    rows = len(flat) // (LENGTH - 1)
    blocks = flat[: rows * (LENGTH - 1)].reshape(rows, LENGTH - 1)
    return np.concatenate([np.full((rows, 1), tokenizer.cls_token_id, np.uint16), blocks], axis=1)


def prepared(
    kind: str, work: Path, files: list[Path], glue: Path | None
) -> tuple[Any, np.ndarray, np.ndarray]:
    """(tokenizer, training blocks, held-out blocks), made once in `work`."""
    family = {"roberta": RobertaTokenizer, "deberta": DebertaV2Tokenizer}[kind]
    if not (work / "heldout.npy").exists():
        train, held = documents(files, glue)
        make = roberta_tokenizer if kind == "roberta" else deberta_tokenizer
        tokenizer = make(train)
        tokenizer.save_pretrained(work)
        for name, part in (("train", train), ("heldout", held)):
            buffer = io.BytesIO()
            np.save(buffer, pack(part, tokenizer))
            write_atomic(work / f"{name}.npy", buffer.getvalue())
    tokenizer = family.from_pretrained(work)
    return tokenizer, np.load(work / "train.npy", mmap_mode="r"), np.load(work / "heldout.npy")


def build(
    kind: str, layers: int, hidden: int, tokenizer: Any
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """(whole model, encoder, vocabulary head), with tied embeddings."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "intermediate_size": 4 * hidden,
        "initializer_range": 0.05,  # about 1/sqrt(width); base size's 0.02 makes a narrow model start slowly
        "hidden_dropout_prob": 0.0,  # one pass over the text: nothing to overfit, and dropout costs time
        "attention_probs_dropout_prob": 0.0,
    }
    if kind == "roberta":
        # Two positions more: RoBERTa counts them from pad_token_id + 1.
        model: Any = RobertaForMaskedLM(
            RobertaConfig(
                max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5, **shape
            )
        )
        see_neighbours(model)
        return model, model.roberta, model.lm_head
    # DeBERTaV3's settings but for the buckets: 256 of them would be most of a small model's work.
    v3: dict[str, Any] = dict(
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        max_relative_positions=-1,
        max_position_embeddings=512,
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=hidden,
        pooler_dropout=0,
        pooler_hidden_act="gelu",
    )
    model = DebertaV2ForMaskedLM(DebertaV2Config(**v3, **shape))
    return model, model.deberta, model.cls


NEIGHBOURS = (-1, 1, -2, 2)  # what the first heads of the first layer look at when training starts
# Learnt at a tenth of the rate: Adam moves a weight by the rate however small its gradient is, and at the full
# one the positions' structure is gone before anything has made use of it.
SLOW = ("position_embeddings", "layer.0.attention.self.query", "layer.0.attention.self.key")


@torch.no_grad()
def see_neighbours(model: Any) -> None:
    """Start values with which RoBERTa's first layer attends to neighbouring tokens.

    Positions that are learnt from random vectors cost a small model with few steps most of them: from the
    usual start the loss was still that of unigrams (6.6 nats) after 500 steps of 4,096 tokens, where
    DeBERTa's relative positions had left it (5.0). Positions are sinusoids in the first 2f dimensions, with f
    frequencies between π and π/64; for a head that looks d tokens on, the key picks these dimensions and the
    query turns them by d, so that their product is Σ cos(ω (i + d - j)), largest at j = i + d. Everything is
    trained from there.
    """
    embeddings, attention = model.roberta.embeddings, model.roberta.encoder.layer[0].attention.self
    size = attention.attention_head_size
    frequencies = math.pi * 64.0 ** -torch.linspace(0, 1, size // 2)
    positions = embeddings.position_embeddings.weight
    angles = torch.arange(len(positions))[:, None] * frequencies
    positions.zero_()
    positions[:, 0:size:2], positions[:, 1:size:2] = 0.1 * angles.sin(), 0.1 * angles.cos()
    embeddings.token_type_embeddings.weight.zero_()  # there is one type: a constant beside every word
    for head, distance in enumerate(NEIGHBOURS[: attention.num_attention_heads]):
        rows = slice(head * size, (head + 1) * size)
        turn = distance * frequencies
        blocks = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(-1, 2, 2)
        for weight, value in (
            (attention.key.weight, torch.eye(size)),
            (attention.query.weight, torch.block_diag(*blocks)),
        ):
            weight[rows] = nn.functional.pad(value, (0, weight.shape[1] - size))


def masked(blocks: np.ndarray, tokenizer: Any, seed: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs, where the loss is taken, targets there): of the masked places 80 % show the mask, 10 % another
    token, 10 % what is there (BERT, section 3.1). A pure function of its arguments."""
    random = np.random.default_rng(seed)
    ids = blocks.astype(np.int64)
    chosen = (random.random(ids.shape) < MASKED) & (ids >= len(ROBERTA_SPECIAL))
    targets = ids[chosen]
    how = random.random(len(targets))
    other = random.integers(len(ROBERTA_SPECIAL), len(tokenizer), len(targets))
    ids[chosen] = np.where(how < 0.8, tokenizer.mask_token_id, np.where(how < 0.9, other, targets))
    return torch.from_numpy(ids), torch.from_numpy(chosen), torch.from_numpy(targets)


class Pretraining:
    """The loop and its state. `args`: the command line."""

    def __init__(
        self, args: argparse.Namespace, work: Path, tokenizer: Any, train: np.ndarray
    ) -> None:
        self.args, self.work, self.tokenizer, self.train_blocks = args, work, tokenizer, train
        torch.manual_seed(args.seed)
        self.model, self.encoder, self.head = build(args.kind, args.layers, args.hidden, tokenizer)
        self.model.to(args.device)
        groups: dict[tuple[bool, bool], dict[str, Any]] = {}
        for name, p in self.model.named_parameters():
            decayed = p.dim() > 1  # biases and norms are not
            slow = args.kind == "roberta" and any(part in name for part in SLOW)
            of_its_kind = {
                "params": [],
                "weight_decay": 0.01 * decayed,
                "peak": args.lr * (0.1 if slow else 1.0),
            }
            groups.setdefault((decayed, slow), of_its_kind)["params"].append(p)
        self.optimizer = torch.optim.AdamW(
            list(groups.values()), lr=args.lr, betas=(0.9, 0.98), eps=1e-6, fused=True
        )
        self.steps = math.ceil(args.tokens / (args.batch * LENGTH))
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, float]] = []

    def loss(self, blocks: np.ndarray, seed: list[int]) -> Tensor:
        """Mean cross-entropy over the masked places; the vocabulary is scored nowhere else."""
        ids, where, targets = (t.to(self.args.device) for t in masked(blocks, self.tokenizer, seed))
        with torch.autocast(
            torch.device(self.args.device).type, torch.bfloat16, enabled=self.args.bf16
        ):
            scores = self.head(self.encoder(ids).last_hidden_state[where])
        return nn.functional.cross_entropy(scores.float(), targets)

    def blocks(self, step: int) -> np.ndarray:
        """The blocks of a step: epochs in an order of their own, cut into batches."""
        n, size = len(self.train_blocks), self.args.batch
        per_epoch = n // size
        epoch, at = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng([self.args.seed, epoch]).permutation(n),
            )
        return self.train_blocks[np.sort(self._order[at * size : (at + 1) * size])]

    def run(self, heldout: np.ndarray, signals: StopSignals) -> bool:
        """Trains to the end, or until a signal; whether it came to the end."""
        saved, started, losses = time.monotonic(), time.monotonic(), []
        warmup = round(self.args.warmup * self.steps)
        while self.step < self.steps and signals.received is None:
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * lr_factor("linear", warmup, self.steps, self.step + 1)
            loss = self.loss(self.blocks(self.step), [self.args.seed, 1, self.step])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.detach())
            self.step += 1
            end = self.step == self.steps
            if end or self.step % self.args.log_every == 0:
                line = {
                    "step": self.step,
                    "tokens": self.step * self.args.batch * LENGTH,
                    "train_loss": round(torch.stack(losses).mean().item(), 4),
                    "heldout_loss": round(self.heldout_loss(heldout), 4),
                    "seconds": round(self.seconds + time.monotonic() - started),
                }
                losses = []
                self.log.append(line)
                print(json.dumps(line), flush=True)
            if end or time.monotonic() - saved > 300:
                self.save(time.monotonic() - started)
                saved = time.monotonic()
        if self.step < self.steps:
            self.save(time.monotonic() - started)
        self.seconds += time.monotonic() - started
        return self.step == self.steps

    @torch.inference_mode()
    def heldout_loss(self, blocks: np.ndarray) -> float:
        """Nats a masked token, always at the same places."""
        total = count = 0.0
        for at in range(0, len(blocks), 64):
            part = blocks[at : at + 64]
            n = int(masked(part, self.tokenizer, [0, 2, at])[1].sum())
            total += self.loss(part, [0, 2, at]).item() * n
            count += n
        return total / count

    def save(self, seconds: float) -> None:
        """A checkpoint: weights, moments, log."""
        tensors = {f"model.{k}": v for k, v in self.named().items()}
        for i, p in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in self.optimizer.state[p].items()}
        checkpoint.save(
            self.work / "checkpoint",
            self.step,
            tensors,
            {"log": self.log, "seconds": self.seconds + seconds},
        )

    def load(self) -> None:
        """Takes up the newest checkpoint, if there is one."""
        found = checkpoint.load(self.work / "checkpoint", print)
        if found is None:
            return
        tensors, about = found
        for name, parameter in self.named().items():
            parameter.data.copy_(tensors[f"model.{name}"])
        for i, p in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            self.optimizer.state[p] = {
                k: tensors[f"optimizer.{i}.{k}"].to("cpu" if k == "step" else p.device)
                for k in ("step", "exp_avg", "exp_avg_sq")
            }
        self.step, self.log, self.seconds = about["step"], about["log"], about["seconds"]
        print(f"resumed after step {self.step} of {self.steps}", flush=True)

    def named(self) -> dict[str, Tensor]:
        """Every parameter once: tied ones under their first name."""
        return dict(self.model.named_parameters())


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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["roberta", "deberta"])
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="one document a line; .xz too"
    )
    parser.add_argument("--glue", type=Path, help="official GLUE download")
    parser.add_argument("--work", type=Path, default=Path("pretraining"))
    parser.add_argument("--out", type=Path, help="default: dora/assets/tiny_KIND")
    parser.add_argument("--tokens", type=float, default=30e6)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--batch", type=int, default=32, help=f"blocks of {LENGTH} tokens a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=float, default=0.06)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--log-every", type=int, default=250)
    return parser


def main() -> None:
    """Prepares, trains or resumes, and writes the finished model."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    work = args.work / args.kind
    work.mkdir(parents=True, exist_ok=True)
    tokenizer, train, heldout = prepared(args.kind, work, args.text, args.glue)
    loop = Pretraining(args, work, tokenizer, train)
    loop.load()
    size = sum(p.numel() for p in loop.model.parameters())
    print(
        f"{size:,} parameters, {train.size:,} tokens, {loop.steps} steps of {args.batch * LENGTH}",
        flush=True,
    )
    with StopSignals() as signals:
        finished = loop.run(heldout, signals)
    if finished:
        export(
            loop,
            heldout,
            args.out or Path(__file__).parents[1] / "dora" / "assets" / f"tiny_{args.kind}",
        )


if __name__ == "__main__":
    main()
