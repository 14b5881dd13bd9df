"""What a training step costs: ours beside the floor, PEFT and the Trainer, measured in one process in turn.

The *floor* is what every adapter must pay: forward through the frozen backbone and backward through its
activations, with the head trained, all in plain PyTorch and Transformers. All else is given as a multiple of
it. The contenders take turns, a few steps each, round after round, so that a change of the machine's speed
meets all of them; a series' ratio is the median over its rounds of (contender / floor within the round). The
series are repeated, the median of them counts, and how far they lie apart is said beside it.

Models have random weights and rows are all of one length: neither changes what a step costs. The backbone's
own dropout is 0.1, as in training. On a CPU ours is cheaper than PyTorch's (`dora.dropout`), so that there is
a second floor that has it too; with --backbone-dropout 0 no one gains by it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from dora.backbone import cheapen_dropout, find_linears
from dora.budget import Budget, Plan
from dora.config import Config, TaskConfig
from dora.data.tokens import Tokens
from dora.files import to_json, write_atomic
from dora.linears import KINDS
from dora.methods import METHODS
from dora.methods.protocol import Fixed
from dora.parallel import World
from dora.record import provenance
from dora.train import Loop, Setup

T = TypeVar("T")

# name → (architecture, layers, hidden width, feed-forward width, heads, vocabulary)
SIZES = {
    "tiny": ("roberta", 4, 256, 1024, 4, 8_000),
    "minilm": ("roberta", 6, 384, 1536, 12, 30_522),
    "base": ("roberta", 12, 768, 3072, 12, 50_265),
    "deberta_base": ("deberta-v2", 12, 768, 3072, 12, 128_100),
}
TOTAL = 1000  # steps of the run that the timed ones are taken from
START, BUDGET = 12, "r8"
PHASES = ("before", "allocating", "after")
OURS = ("full", "lora", *(f"{m} {phase}" for m in ("adalora", "dora") for phase in PHASES))
PEFTS = ("PEFT LoRA", "PEFT AdaLoRA", "Trainer + PEFT LoRA")
CONTENDERS = ("floor", "floor with our dropout", *OURS, *PEFTS)


@dataclass(frozen=True)
class Setting:
    """What is measured. `dropout`: of the adapters' input. `threads`: on a CPU."""

    size: str
    dropout: float
    batch: int = 16
    length: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 2
    backbone_dropout: float = 0.1


class Floor(Fixed):
    """No adapter at all, but an input that asks for a gradient, as the first adapter's does."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, Any] = {}
        embeddings: Any = getattr(model, str(model.base_model_prefix)).embeddings
        embeddings.register_forward_hook(lambda module, given, out: out.requires_grad_())


def backbone(s: Setting) -> Any:
    """A sequence classifier with random weights, all frozen but the head, on the CPU: adapters are drawn there."""
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    architecture, layers, hidden, inner, heads, vocabulary = SIZES[s.size]
    shape: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads,
        "vocab_size": vocabulary, "hidden_dropout_prob": s.backbone_dropout,
        "attention_probs_dropout_prob": s.backbone_dropout, "max_position_embeddings": 512 + 2,
    }  # fmt: skip
    torch.manual_seed(0)
    model: Any
    if architecture == "roberta":
        model = RobertaForSequenceClassification(RobertaConfig(**shape, type_vocab_size=1, pad_token_id=1))
    else:  # as microsoft/deberta-v3-base; the class's defaults are not it
        shape |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
                  "position_buckets": 256, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
                  "type_vocab_size": 0}  # fmt: skip
        model = DebertaV2ForSequenceClassification(DebertaV2Config(**shape))
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(model.base_model_prefix + "."))
    return model


def rows(s: Setting) -> Tokens:
    """Four batches of rows of one length, two classes."""
    n, random = 4 * s.batch, np.random.default_rng(0)
    ids = random.integers(5, SIZES[s.size][5], n * s.length).astype(np.int32)
    lengths = np.full(n, s.length)
    return Tokens(
        ids, None, np.cumsum(lengths) - lengths, lengths, random.integers(0, 2, n), np.arange(n), pad=1
    )


@dataclass(frozen=True)
class Times:
    """Seconds of one step: wall, and CPU over all threads."""

    wall: float
    cpu: float


Contender = Callable[[int], Times]  # does so many training steps


def clock(s: Setting) -> tuple[float, float]:
    """(wall, CPU) seconds, once the device has done all it was given."""
    if s.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def timed(s: Setting, step: Callable[[], None]) -> Contender:
    """Steps that nothing stands between."""

    def run(count: int) -> Times:
        wall, cpu = clock(s)
        for _ in range(count):
            step()
        end_wall, end_cpu = clock(s)
        return Times((end_wall - wall) / count, (end_cpu - cpu) / count)

    return run


def contender(s: Setting, name: str) -> Contender:
    """One of CONTENDERS, ready to be timed."""
    if name in PEFTS:
        return pefts(s, name)
    loop, at = loop_of(s, name)

    def step() -> None:
        nonlocal at
        at += 1
        loop.train_step(at)

    return timed(s, step)


def loop_of(s: Setting, name: str) -> tuple[Loop, int]:
    """(the real loop, a step of the phase of the run that `name` says)."""
    model = backbone(s)
    method_name, _, phase = name.partition(" ")
    settings: Any = METHODS["lora"][0]()
    method: Any
    plan: Plan | None = None
    if name.startswith("floor"):
        method = Floor(model)
    else:
        kind, cls = METHODS[method_name]
        settings = kind() if method_name == "full" else kind(dropout=s.dropout)
        if phase == "allocating":  # every step does
            settings.mask_interval = settings.prune_interval = 1
        matrices = find_linears(model.config.to_dict(), KINDS)
        # LoRA keeps the rank it has; the others begin at 12 and end at 8 on average.
        plan = cls.plan(settings, Budget.parse(f"r{START}" if method_name == "lora" else BUDGET), matrices)
        method = cls(settings, model, plan, TOTAL, torch.Generator().manual_seed(0))
    model.to(s.device)
    if name != "floor" and s.device == "cpu":
        cheapen_dropout(model)
    method.load(method.state())
    head = [n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")]
    config = Config(task=TaskConfig("sst2"), method=settings, batch_size=s.batch, precision=s.precision)
    world = World(0, 1, torch.device(s.device))
    loop = Loop(Setup(config, config.kind, model, head, method, plan, 1e-4, rows(s), {}, {}, TOTAL, world),
                None, lambda _: None)  # fmt: skip
    loop.train_step(1)  # the optimizer's moments exist from here on
    at = {"allocating": TOTAL // 5, "after": method.settled}.get(phase, 100)  # 100: past the warm-up
    if phase == "after":
        loop.train_step(method.settled)
    return loop, at


def pefts(s: Setting, name: str) -> Contender:
    """The same step as a user of PEFT writes it: forward, backward, clip, fused AdamW, allocation."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    model: Any = backbone(s)
    head = [p for p in model.parameters() if p.requires_grad]
    names = [m.name for m in find_linears(model.config.to_dict(), KINDS)]
    common: dict[str, Any] = {"lora_alpha": 16, "lora_dropout": s.dropout, "target_modules": names}
    adalora = name == "PEFT AdaLoRA"
    model = get_peft_model(
        model,
        AdaLoraConfig(init_r=START, target_r=8, tinit=50, tfinal=TOTAL // 2, deltaT=TOTAL, total_step=TOTAL, **common)
        if adalora
        else LoraConfig(r=START, **common),
    )  # fmt: skip
    for p in head:
        p.requires_grad_(True)
    model.to(s.device)
    if name.startswith("Trainer"):
        return trainers(s, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    data, at = rows(s), 100

    def step() -> None:
        nonlocal at
        at += 1
        batch = np.arange(s.batch) + at % 4 * s.batch
        inputs = {k: torch.from_numpy(v).to(s.device) for k, v in data.batch(batch).items()}
        labels = torch.from_numpy(np.asarray(data.label)[batch]).to(s.device)
        with torch.autocast(torch.device(s.device).type, torch.bfloat16, enabled=s.precision == "bf16"):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if adalora:
            model.base_model.update_and_allocate(at)
        optimizer.zero_grad()

    model.train()
    return timed(s, step)


def trainers(s: Setting, model: nn.Module) -> Contender:
    """Steps of the Transformers Trainer with its defaults, its start-up left out."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Began(TrainerCallback):
        """Notes when the second step begins: by then the Trainer has started up."""

        at = (0.0, 0.0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                self.at = clock(s)

    data, began = rows(s), Began()
    examples = [
        {
            "input_ids": data.ids[i : i + s.length].tolist(),
            "attention_mask": [1] * s.length,
            "labels": int(label),
        }
        for i, label in zip(data.start, np.asarray(data.label), strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(), per_device_train_batch_size=s.batch, save_strategy="no", logging_strategy="no",
        report_to=[], disable_tqdm=True, bf16=s.precision == "bf16", use_cpu=s.device == "cpu",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=examples, callbacks=[began])

    def run(count: int) -> Times:
        arguments.max_steps = count + 1
        trainer.train()
        wall, cpu = clock(s)
        return Times((wall - began.at[0]) / count, (cpu - began.at[1]) / count)

    return run


def series(contenders: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[Times]]:
    """Every contender's times, one a round; who comes first changes from round to round."""
    names = list(contenders)
    times: dict[str, list[Times]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(contenders[name](steps))
    return times


def ratio(times: dict[str, list[Times]], name: str, to: str, what: str) -> float:
    """The median over rounds of name / to within the round; `what`: wall or cpu."""
    pairs = zip(times[name], times[to], strict=True)
    return median(getattr(one, what) / getattr(other, what) for one, other in pairs)


# A run of 1,000 steps prunes over 350 of them, every 12th; scores are kept from the first step on.
SHARES = {"before": 0.47, "allocating": 0.03, "after": 0.5}


def measure(s: Setting, names: Sequence[str], rounds: int, steps: int, repeats: int) -> dict[str, Any]:
    """{contender: its figures}: seconds a step, tokens a second, and ratios, the median of `repeats` series.

    `spread`: how far the series' wall ratios lie apart, (largest − smallest) / median.
    """
    torch.set_num_threads(s.threads)
    contenders = {name: contender(s, name) for name in names}
    series(contenders, 1, steps)  # caches, allocator, autotuning
    runs = [series(contenders, rounds, steps) for _ in range(repeats)]
    figures: dict[str, Any] = {}
    for name in names:
        wall = median(t.wall for times in runs for t in times[name])
        figures[name] = {"wall_s": wall, "cpu_s": median(t.cpu for times in runs for t in times[name]),
                         "tokens_s": s.batch * s.length / wall}  # fmt: skip
        for what in ("wall", "cpu"):
            all_of_it = [ratio(times, name, "floor", what) for times in runs]
            figures[name][f"{what}_ratio"] = median(all_of_it)
            if what == "wall":
                figures[name]["spread"] = (max(all_of_it) - min(all_of_it)) / median(all_of_it)
    for method in ("adalora", "dora"):
        if all(f"{method} {phase}" in figures for phase in PHASES):
            figures[f"{method} run"] = {
                key: sum(SHARES[phase] * figures[f"{method} {phase}"][key] for phase in PHASES)
                for key in ("wall_s", "cpu_s", "wall_ratio", "cpu_ratio")
            }
    return figures


def peak_memory(s: Setting, name: str) -> int:
    """Bytes that a process of its own needs at most for some steps of one contender."""
    words = ["--memory-of", name, "--size", s.size, "--dropout", str(s.dropout), "--device", s.device,
             "--precision", s.precision, "--batch", str(s.batch), "--length", str(s.length),
             "--threads", str(s.threads), "--backbone-dropout", str(s.backbone_dropout)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dora.bench", *words], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def memory_here(s: Setting, name: str) -> int:
    """What `peak_memory` asks of its process."""
    torch.set_num_threads(s.threads)
    contender(s, name)(3)
    if s.device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def of_processes(action: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """(what `action` returns, wall seconds and the CPU seconds of the processes that it started and awaited)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = action()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, {"wall_s": wall, "cpu_s": cpu}


FIRST_STEP = """
import os
from dora import run, train
whole = train.Loop.train_step
def first(self, step):
    whole(self, step)
    os._exit(0)
train.Loop.train_step = first
run.main()
"""


def startup(results: Path) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of commands that only begin: help texts, and a known run's way to its first step."""
    run = ["task=rte", "method=lora", f"results={results}"]
    module = [sys.executable, "-m"]
    commands = {
        "dora.run --help": [*module, "dora.run", "--help"],
        "dora.tables --help": [*module, "dora.tables", "--help"],
        "first start to first step": [sys.executable, "-c", FIRST_STEP, *run],
        "second start to first step": [sys.executable, "-c", FIRST_STEP, *run],
    }
    found = {}
    for name, words in commands.items():
        _, found[name] = of_processes(partial(subprocess.run, words, capture_output=True, check=True))
    return found


def table(s: Setting, figures: dict[str, Any]) -> list[str]:
    """The figures as a Markdown table under a line that says what was measured."""
    where = s.device if s.device != "cpu" else f"cpu, {s.threads} thread{'s' * (s.threads > 1)}"
    lines = [
        f"{s.size}, batch {s.batch} x {s.length}, dropout {s.dropout:g}, {s.precision}, {where}",
        "",
        "| | ms a step | CPU ms | tokens/s | x floor | x floor, CPU | x PEFT LoRA | spread | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    peft = figures.get("PEFT LoRA", {}).get("wall_ratio")
    for name, f in figures.items():
        to_peft = f"{f['wall_ratio'] / peft:.2f}" if peft else ""
        tokens = f"{f['tokens_s']:,.0f}" if "tokens_s" in f else ""
        spread = f"{100 * f['spread']:.0f} %" if "spread" in f else ""
        memory = f"{f['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in f else ""
        lines.append(f"| {name} | {1e3 * f['wall_s']:.1f} | {1e3 * f['cpu_s']:.1f} | {tokens} | {f['wall_ratio']:.3f} "
                     f"| {f['cpu_ratio']:.3f} | {to_peft} | {spread} | {memory} |")  # fmt: skip
    return lines


def main() -> None:
    """Measures, prints the tables and writes them with machine and versions as JSON."""
    parser = argparse.ArgumentParser(prog="python -m dora.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["tiny", "minilm"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1], help="of the adapters' input")
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--backbone-dropout", type=float, default=0.1)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="default: all of them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="a contender's in one round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory too, each in a process of its own")
    parser.add_argument("--startup", action="store_true", help="start-up times too")
    parser.add_argument("--to", type=Path, metavar="FILE", help="JSON (default: results/bench/DEVICE-PRECISION.json)")  # fmt: skip
    parser.add_argument("--memory-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # PEFT's and the Trainer's own, between the tables
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = [
        Setting(size, dropout, given.batch, given.length, given.device, given.precision, threads, given.backbone_dropout)
        for size in given.size for dropout in given.dropout for threads in given.threads
    ]  # fmt: skip
    if given.memory_of:
        print(memory_here(settings[0], given.memory_of))
        return
    names = list(dict.fromkeys(["floor", *(given.only or CONTENDERS)]))
    versions = {p: metadata.version(p) for p in ("peft", "accelerate") if importlib.util.find_spec(p)}
    found: dict[str, Any] = {**provenance(), "compared": versions, "load_before": os.getloadavg(), "tables": []}  # fmt: skip
    for s in settings:
        figures = measure(s, names, given.rounds, given.steps, given.repeats)
        if given.memory:
            for name in names:
                figures[name]["peak_bytes"] = peak_memory(s, name)
        print("\n".join(table(s, figures)), end="\n\n", flush=True)
        found["tables"].append({"setting": asdict(s), "figures": figures})
    if given.startup:
        with tempfile.TemporaryDirectory() as folder:
            found["startup"] = startup(Path(folder))
        for name, f in found["startup"].items():
            print(f"{name}: {f['wall_s']:.2f} s, {f['cpu_s']:.2f} CPU-seconds")
    found["load_after"] = os.getloadavg()
    to = given.to or Path("results", "bench", f"{given.device}-{given.precision}.json")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, to_json(found))
    print(f"written: {to}")


if __name__ == "__main__":
    main()
