"""Times steps of several LoRA runs over one backbone: in one pass, and one after the other.

    python scripts/grouped.py --device cuda --precision bf16 --size base
    python scripts/grouped.py --size tiny --batch 4 --length 16 --rounds 2

*grouped*: the rows of all runs in one forward and backward pass; each linear's frozen product is
shared, and its adapters are one batched product. *in turn*: a pass for each run, by the same code
with a group of one. *the suite's loop*: as many real steps, with clip and optimizer, which the
other two leave out. Ratios are medians over rounds in which the three take turns. It tells whether
grouped runs would be worth their code; the suite has none.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.analysis.tables.layout import pipe_table
from dora.backbones.architectures import KINDS
from dora.backbones.backbone import find_linears
from dora.files import to_json, write_atomic
from dora.records.provenance import provenance
from dora.timing.candidates import Floor, contender
from dora.timing.measure import ratio, series
from dora.timing.setting import SIZES, START, Contender, Setting, Times, backbone, rows, timed


class Grouped(nn.Module):
    """A frozen linear with the adapters of several runs, whose rows follow one another.

    A: (runs, r, d_in), B: (runs, d_out, r). x: (runs · rows, length, d_in).
    """

    def __init__(self, base: nn.Linear, runs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = base.to(dtype)  # once: autocast would cast the frozen weight in every pass
        self.A = nn.Parameter(0.02 * torch.randn(runs, START, base.in_features))
        self.B = nn.Parameter(torch.zeros(runs, base.out_features, START))

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b + B A x, the adapters being those of each row's run."""
        y = self.base(x)
        own = x.reshape(len(self.A), -1, x.shape[-1])
        return y + (own @ self.A.mT @ self.B.mT).view(y.shape)


def passes(s: Setting, runs: int, group: int) -> Contender:
    """Returns a candidate that passes `runs` batches forward and back, `group` of them at once."""
    model = backbone(s)
    dtype = torch.bfloat16 if s.precision == "bf16" else torch.float32
    for matrix in find_linears(model.config.to_dict(), KINDS):
        parent, _, name = matrix.name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, name, Grouped(getattr(owner, name), group, dtype))
    Floor(model)  # its hook: the gradient passes the whole backbone, as in a step
    model.to(s.device).train()
    one: dict[str, Any] = rows(s).batch(torch.arange(s.batch).numpy())
    inputs = {k: torch.from_numpy(v).repeat(group, 1).to(s.device) for k, v in one.items()}
    del inputs["attention_mask"]  # all rows are of one length

    def step() -> None:
        for _ in range(runs // group):
            with torch.autocast(torch.device(s.device).type, dtype, enabled=s.precision == "bf16"):
                logits = model(**inputs).logits
            F.cross_entropy(
                logits.float(), torch.zeros_like(logits[:, 0], dtype=torch.long)
            ).backward()
            model.zero_grad()

    return timed(s, step)


def loops(s: Setting, runs: int) -> Contender:
    """Returns a candidate that takes `runs` real steps of LoRA."""
    one = contender(s, "lora")

    def run(count: int) -> Times:
        times = one(runs * count)
        return Times(times.wall * runs, times.cpu * runs)

    return run


def main() -> None:
    """Prints the times of each batch size, and writes them with the place of measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, metavar="N", type=int)
    add("--runs", default=8, help="at once (default: %(default)s)")
    add("--batch", nargs="+", default=[16, 32], help="rows of a run (default: 16 32)")
    add("--length", default=64, help="tokens of a row (default: %(default)s)")
    add("--rounds", default=5, help="turns of each candidate (default: %(default)s)")
    parser.add_argument("--size", choices=SIZES, default="base", help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="(default: fp32)"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the times to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)  # on a CPU, runs at once would have one each
    found: dict[str, Any] = {**provenance(), "tables": []}
    for batch in given.batch:
        s = Setting(given.size, 0.0, batch, given.length, given.device, given.precision, threads=1)
        contenders = {
            "in turn": passes(s, given.runs, 1),
            "grouped": passes(s, given.runs, given.runs),
            "the suite's loop": loops(s, given.runs),
        }
        series(contenders, 1, 1)  # not counted: caches, allocator, autotuning
        times = series(contenders, given.rounds, 1)
        figures = {
            name: {
                "wall_s": median(t.wall for t in times[name]),
                "over_in_turn": ratio(times, name, "in turn", "wall"),
            }
            for name in contenders
        }
        found["tables"].append({"batch": batch, "figures": figures})
        lines = [["", "ms", "x in turn"]]
        for name, f in figures.items():
            lines.append([name, f"{1e3 * f['wall_s']:.1f}", f"{f['over_in_turn']:.3f}"])
        shape = f"{s.size}, batch {batch} x {s.length}, {s.precision}, {s.device}"
        print(f"{given.runs} runs of LoRA, {shape}")
        print("", pipe_table(lines), "", sep="\n", flush=True)
    if given.to is not None:
        given.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            given.to, to_json({**found, "setting": {k: str(v) for k, v in vars(given).items()}})
        )


if __name__ == "__main__":
    main()
