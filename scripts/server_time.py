"""Times what the server of a federated run does in one round, beside one step of a client.

    python scripts/server_time.py [--size minilm] [--budget r8] [--clients 3] [--rounds 5]

Prints a Markdown table: CPU seconds of the server's work in a round (median), and as a multiple of
a client's step (LoRA, fp32, batch 16 x 64, no dropout) in the same process, on one thread. The
backbone has random weights in the shape that `dora.bench --size` names; the clients' factors are
the start's with noise, so that every average differs from them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from dora.adapters.budget import Budget
from dora.backbones.architectures import USUAL
from dora.backbones.backbone import find_linears
from dora.configuration.method_choice import packaged
from dora.methods.base import RunInfo
from dora.methods.schedule import Schedule
from dora.timing.candidates import loop_of
from dora.timing.setting import SIZES, Setting, backbone

CASES = {
    "fedit": ("fedit", {}),
    "ffa_lora": ("ffa_lora", {}),
    "lora_fair, cosine": ("lora_fair", {}),
    "lora_fair, ridge": ("lora_fair", {"solver": "ridge"}),
}
RUN = RunInfo(1_000, 1, Schedule("linear", 0.06), ())


def server_s(size: str, budget: str, clients: int, rounds: int, case: str) -> float:
    """Returns the median CPU seconds of the server's work in a round."""
    name, changes = CASES[case]
    chosen, model = packaged(name, **changes), backbone(Setting(size, 0.0))
    matrices = find_linears(model.config.to_dict(), USUAL)
    plan = chosen.kind.plan(chosen.settings, Budget.parse(budget), matrices, RUN)
    method = chosen.kind(chosen.settings, model, plan, RUN)
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    took = []
    for _ in range(rounds):
        uploads = [
            {n: t + 0.01 * torch.randn_like(t) for n, t in trained.items()} for _ in range(clients)
        ]
        began = time.process_time()
        method.aggregate(uploads, [1 / clients] * clients, trained)
        took.append(time.process_time() - began)
    return statistics.median(took)


def step_s(size: str, rounds: int) -> float:
    """Returns the median CPU seconds of a step of LoRA."""
    loop, at = loop_of(Setting(size, 0.0, threads=1, backbone_dropout=0.0), "lora")
    took = []
    for step in range(at, at + rounds):
        began = time.process_time()
        loop.train_step(step)
        took.append(time.process_time() - began)
    return statistics.median(took)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--budget", default="r8")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    step = step_s(given.size, given.rounds)
    print(f"a client's step takes {step:.2f} s\n")
    print("| server of | seconds a round | steps |\n| --- | --- | --- |")
    for case in CASES:
        took = server_s(given.size, given.budget, given.clients, given.rounds, case)
        print(f"| {case} | {took:.3f} | {took / step:.2f} |", flush=True)


if __name__ == "__main__":
    main()
