"""Pretrains the embedded models: tokenizer, masked language model, model card.

    python scripts/pretrain_tiny.py roberta --text reviews.txt.xz --glue GLUE --work pretraining
    python scripts/pretrain_tiny.py deberta --text reviews.txt.xz --glue GLUE --work pretraining

`--text` names files with one document a line, plain or .xz. `--glue` names an official GLUE
download: only texts of its training splits are read, without labels, and no text that a development
or test split has too. The folder `--work/KIND` holds tokenizer, tokens, log and checkpoints. The
same command resumes; equal seed, threads and device give equal weights. The finished model is
written to `dora/assets/tiny_KIND` in 16 bits.

The defaults, 30 million tokens and 2 layers of width 192, take one to two hours on one CPU core. A
larger model, meant for a GPU and not tried on one yet:
`--device cuda --bf16 --layers 4 --hidden 256 --tokens 1e9`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

# Before PyTorch is imported, which reads both.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from pretraining.card import export
from pretraining.corpus import LENGTH, prepared
from pretraining.loop import Pretraining

from dora.process.signals import StopSignals


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["roberta", "deberta"], help="the architecture")
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="one document a line; .xz too"
    )
    parser.add_argument("--glue", type=Path, help="an official GLUE download")
    parser.add_argument(
        "--work", type=Path, default=Path("pretraining"), help="a folder (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="default: dora/assets/tiny_KIND")
    parser.add_argument(
        "--tokens", type=float, default=30e6, help="length of training (default: %(default)s)"
    )
    parser.add_argument("--layers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--hidden", type=int, default=192, help="width (default: %(default)s)")
    parser.add_argument(
        "--batch",
        type=int,
        default=32,
        help=f"blocks of {LENGTH} tokens a step (default: %(default)s)",
    )
    parser.add_argument(
        "--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=float, default=0.06, help="fraction of the steps (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--log-every", type=int, default=250, help="steps (default: %(default)s)")
    return parser


def main() -> None:
    """Prepares, trains or resumes, and writes the finished model."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    # Warnings only: some of CUDA's kernels have no deterministic form.
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
    # A signal ends the loop after its step, with a checkpoint: the same command goes on from there.
    with StopSignals() as signals:
        finished = loop.run(heldout, signals)
    if finished:
        assets = Path(__file__).parents[1] / "dora" / "assets"
        export(loop, heldout, args.out or assets / f"tiny_{args.kind}")


if __name__ == "__main__":
    main()
