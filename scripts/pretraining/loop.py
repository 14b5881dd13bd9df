"""The pretraining loop: masking, schedule, held-out loss, checkpoints."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dora.methods.schedule import Schedule
from dora.process.signals import StopSignals
from dora.training import checkpoint
from pretraining.corpus import LENGTH, ROBERTA_SPECIAL
from pretraining.model import SLOW, build

MASKED = 0.2  # small models learn more a token from somewhat more than BERT's 0.15


def masked(blocks: np.ndarray, tokenizer: Any, seed: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (inputs, places of the loss, targets there) as a pure function of the arguments.

    80 % of the masked places show the mask, 10 % another token, 10 % their own (BERT, section 3.1).
    """
    random = np.random.default_rng(seed)
    ids = blocks.astype(np.int64)
    # Below are the special tokens, as many in both vocabularies.
    chosen = (random.random(ids.shape) < MASKED) & (ids >= len(ROBERTA_SPECIAL))
    targets = ids[chosen]
    how = random.random(len(targets))
    other = random.integers(len(ROBERTA_SPECIAL), len(tokenizer), len(targets))
    ids[chosen] = np.where(how < 0.8, tokenizer.mask_token_id, np.where(how < 0.9, other, targets))
    return torch.from_numpy(ids), torch.from_numpy(chosen), torch.from_numpy(targets)


class Pretraining:
    """The loop and its state. `args`: the command line's values."""

    def __init__(
        self, args: argparse.Namespace, work: Path, tokenizer: Any, train: np.ndarray
    ) -> None:
        self.args, self.work, self.tokenizer, self.train_blocks = args, work, tokenizer, train
        # For the start values alone: order and masks have generators of their own.
        torch.manual_seed(args.seed)
        self.model, self.encoder, self.head = build(args.kind, args.layers, args.hidden, tokenizer)
        self.model.to(args.device)
        groups: dict[tuple[bool, bool], dict[str, Any]] = {}
        for name, p in self.model.named_parameters():
            decayed = p.dim() > 1  # biases and norms are not
            slow = args.kind == "roberta" and any(part in name for part in SLOW)
            of_its_kind = {
                "params": [],
                "weight_decay": 0.01 if decayed else 0.0,
                "peak": args.lr * (0.1 if slow else 1.0),
            }
            groups.setdefault((decayed, slow), of_its_kind)["params"].append(p)
        # Betas, epsilon and decay are RoBERTa's (Liu et al., 2019, Table 9).
        self.optimizer = torch.optim.AdamW(
            list(groups.values()), lr=args.lr, betas=(0.9, 0.98), eps=1e-6, fused=True
        )
        self.steps = math.ceil(args.tokens / (args.batch * LENGTH))
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, float]] = []

    def loss(self, blocks: np.ndarray, seed: list[int]) -> Tensor:
        """Returns the mean cross-entropy over the masked places, in nats."""
        ids, where, targets = (t.to(self.args.device) for t in masked(blocks, self.tokenizer, seed))
        with torch.autocast(
            torch.device(self.args.device).type, torch.bfloat16, enabled=self.args.bf16
        ):
            # At the masked places alone: 8,000 scores a token cost more than two narrow layers.
            scores = self.head(self.encoder(ids).last_hidden_state[where])
        return nn.functional.cross_entropy(scores.float(), targets)

    def blocks(self, step: int) -> np.ndarray:
        """Returns the blocks of a step: each epoch's own order, cut into batches."""
        n, size = len(self.train_blocks), self.args.batch
        per_epoch = n // size
        epoch, at = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            random = np.random.default_rng([self.args.seed, epoch])
            self._epoch, self._order = epoch, random.permutation(n)
        # Sorted: the blocks are read from a memory-mapped file.
        return self.train_blocks[np.sort(self._order[at * size : (at + 1) * size])]

    def run(self, heldout: np.ndarray, signals: StopSignals) -> bool:
        """Trains to the end, or until a signal. Returns whether the end was reached."""
        saved, started, losses = time.monotonic(), time.monotonic(), []
        schedule = Schedule("linear", round(self.args.warmup * self.steps))
        while self.step < self.steps and signals.received is None:
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * schedule.share(self.step + 1, self.steps)
            # 1 in the seed: training's masks; 2: those of the held-out blocks.
            loss = self.loss(self.blocks(self.step), [self.args.seed, 1, self.step])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.detach())  # `.item()` would wait for the GPU at every step
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
            # Every five minutes, whatever a step takes: a kill costs no more.
            if end or time.monotonic() - saved > 300:
                self.save(time.monotonic() - started)
                saved = time.monotonic()
        if self.step < self.steps:  # a signal came
            self.save(time.monotonic() - started)
        self.seconds += time.monotonic() - started
        return self.step == self.steps

    @torch.inference_mode()
    def heldout_loss(self, blocks: np.ndarray) -> float:
        """Returns nats a masked token, at the same places every time."""
        total = count = 0.0
        for at in range(0, len(blocks), 64):
            part = blocks[at : at + 64]
            # `loss` is a mean over the masked places, whose number differs from part to part.
            n = int(masked(part, self.tokenizer, [0, 2, at])[1].sum())
            total += self.loss(part, [0, 2, at]).item() * n
            count += n
        return total / count

    def save(self, seconds: float) -> None:
        """Writes a checkpoint: weights, moments, log."""
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
        """Returns every parameter once, tied ones under their first name."""
        return dict(self.model.named_parameters())
