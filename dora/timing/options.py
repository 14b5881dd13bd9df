"""The options of `python -m dora.bench`, and what is wrong with them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from dora.data.tasks import TASKS
from dora.package import CONF
from dora.process.command import path
from dora.process.requirements import folder_problems
from dora.timing.candidates import COMPILED, CONTENDERS, OTHERS
from dora.timing.setting import LONGEST, SIZES, Setting
from dora.timing.whole_run import DRAWN, Runs

BENCH = Path("results", "bench")  # where figures go unless --to names a file
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser. Its help fits a screen of 24 lines by 80 columns."""
    made = argparse.ArgumentParser(
        usage="python -m dora.bench [OPTION ...]",
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=25),
    )
    title = "a step of ours beside floor, PEFT and Trainer; with --run, a whole run"
    add = made.add_argument_group(title).add_argument
    add("-h", "--help", action="help", help=argparse.SUPPRESS)
    add(
        "--size",
        nargs="+",
        choices=SIZES,
        default=["tiny", "minilm"],
        metavar="S",
        help=f"{' '.join(SIZES)} (default: tiny minilm)",
    )
    add(
        "--dropout",
        nargs="+",
        type=float,
        default=[0.0, 0.1],
        metavar="P",
        help="of the adapters' input (default: 0 0.1)",
    )
    add("--backbone-dropout", type=float, default=0.1, metavar="P", help="default: %(default)s")
    add("--batch", type=int, default=16, metavar="N", help="rows (default: %(default)s)")
    add("--length", type=int, default=64, metavar="N", help="tokens a row (default: %(default)s)")
    add(
        "--precision",
        nargs="+",
        choices=["fp32", "bf16", "auto"],
        default=["fp32"],
        metavar="P",
        help="fp32, bf16, auto; or two of them (default: fp32)",
    )
    add("--device", default="cpu", metavar="D", help="cpu or cuda (default: %(default)s)")
    add("--threads", nargs="+", type=int, default=[2], metavar="N", help="on a CPU (default: 2)")
    add(
        "--only",
        nargs="+",
        choices=[*CONTENDERS, *OTHERS, *COMPILED],
        metavar="ROW",
        help="default: all but other methods and compiled ones",
    )
    add("--rounds", type=int, default=15, metavar="N", help="of a series (default: %(default)s)")
    add("--steps", type=int, default=1, metavar="N", help="in a round (default: %(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="series; --run's seeds (default: 3)")
    add("--memory", action="store_true", help="peak memory too (default: no)")
    add("--startup", action="store_true", help="start-up times too (default: no)")
    _add_runs(add)
    add(
        "--to", type=path, metavar="FILE", help="default: results/bench/[run-]DEVICE-PRECISION.json"
    )
    # Hidden from the help: it is how `peak_memory` asks a process of its own.
    add("--memory-of", choices=[*CONTENDERS, *OTHERS, *COMPILED], help=argparse.SUPPRESS)
    return made


def _add_runs(add: Callable[..., Any]) -> None:
    """Adds the options of whole runs; `add`: adds one to the parser."""
    add("--run", action="store_true", help="whole runs by stages, beside Trainer's (default: no)")
    add(
        "--data",
        metavar="FOLDER",
        help="--run's GLUE download, or mini (default: mini)",
        default="mini",
    )
    add("--task", choices=TASKS, default="rte", metavar="T", help="--run's (default: rte)")
    add(
        "--model",
        nargs="+",
        choices=[*MODELS, *DRAWN],
        default=["minilm"],
        metavar="M",
        help="--run's; base has drawn weights (default: minilm)",
    )
    add("--epochs", type=int, default=3, metavar="N", help="--run's (default: 3)")


def problems(given: argparse.Namespace) -> list[str]:
    """Lists the problems of the options, of the device and of the place to write to."""
    found = []
    for name in ("batch", "length", "threads", "rounds", "steps", "repeats", "epochs"):
        typed = getattr(given, name)
        values = typed if isinstance(typed, list) else [typed]
        found += [f"--{name} {value} must be 1 or more" for value in values if value < 1]
    if given.length > LONGEST:
        found.append(f"--length {given.length}: the models take {LONGEST} tokens at most")
    shares = {"dropout": given.dropout, "backbone-dropout": [given.backbone_dropout]}
    for name, values in shares.items():
        # `not 0 <=` refuses NaN too.
        found += [f"--{name} {p:g} must lie in [0, 1)" for p in values if not 0 <= p < 1]
    if not (device := re.fullmatch("cpu|cuda(?::([0-9]+))?", given.device)):
        found.append(f"--device {given.device} must be cpu, cuda or cuda:N")
    elif given.device != "cpu" and int(device[1] or 0) >= torch.cuda.device_count():
        found.append(f"--device {given.device}: no such GPU here")
    if given.data != "mini" and not Path(given.data).is_dir():
        found.append(f"--data {given.data}: no such folder; a GLUE download, or mini")
    to = given.to or BENCH
    if given.to and to.is_dir():
        found.append(f"--to {to} is a folder; name a file")
    return found + folder_problems("--to ", to.parent if given.to else to)


def settings(given: argparse.Namespace) -> list[Setting]:
    """Returns every combination of size, dropout and threads.

    Their precision is fp32 if both are asked for: the candidates in bf16 say so in their names.
    """
    return [
        Setting(
            size=size,
            dropout=dropout,
            batch=given.batch,
            length=given.length,
            device=given.device,
            precision="fp32" if "fp32" in given.precision else "bf16",
            threads=threads,
            backbone_dropout=given.backbone_dropout,
        )
        for size, dropout, threads in product(given.size, given.dropout, given.threads)
    ]


def runs(given: argparse.Namespace) -> list[Runs]:
    """Returns every combination of model and threads, as whole runs."""
    return [
        Runs(
            task=given.task,
            model=model,
            data=given.data,
            epochs=given.epochs,
            threads=threads,
            precisions=tuple(dict.fromkeys(given.precision)),
            device=given.device,
            repeats=given.repeats,
        )
        for model, threads in product(given.model, given.threads)
    ]
