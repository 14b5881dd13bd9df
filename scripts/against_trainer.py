"""One real run beside the same by the Transformers Trainer and PEFT, from command to result.

    python scripts/against_trainer.py GLUE [--task rte] [--model minilm] [--epochs 3] [--repeats 3]

LoRA r8 on all six linears, batch 32, the same rate and schedule, the development set scored after each epoch,
the test set predicted at the end, for seeds 1 to `repeats`. The Trainer pads each random batch to its longest
row, as its documentation says to. The two take turns; times are those of whole processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__)


def ours(given: argparse.Namespace, seed: int, folder: Path) -> float:
    """The suite's run; the score of its last evaluation, which is the one that the Trainer reports."""
    words = [
        f"task={given.task}",
        f"model={given.model}",
        "method=lora",
        "data=dir",
        f"data.dir={given.glue}",
        f"epochs={given.epochs}",
        f"seed={seed}",
        f"results={folder}",
        "device=cpu",
    ]
    subprocess.run(
        [sys.executable, "-m", "dora.run", *words], check=True, stdout=subprocess.DEVNULL
    )
    (file,) = folder.glob("runs/**/run.json")
    last = json.loads(file.read_text())["results"]["last"]
    return next(value for name, value in last.items() if name != "step")


def theirs(given: argparse.Namespace, seed: int, folder: Path) -> float:
    """The same in a process of its own, which calls `train_with_trainer`."""
    words = [
        str(given.glue),
        "--task",
        given.task,
        "--model",
        given.model,
        "--epochs",
        str(given.epochs),
    ]
    out = folder / "score"
    subprocess.run(
        [sys.executable, str(HERE), *words, "--trainer", str(seed), str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return float(out.read_text())


def train_with_trainer(given: argparse.Namespace, seed: int, out: Path) -> None:
    """What a user of the two libraries writes, data read by the suite's reader."""
    import numpy as np
    from hydra import compose, initialize_config_dir
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from dora.backbones.architectures import KINDS
    from dora.backbones.backbone import architecture, find_linears, locate
    from dora.config import DataConfig, from_hydra, register
    from dora.data.metrics import score
    from dora.data.tasks import TASKS
    from dora.run import CONF
    from dora.training.prepare import read_rows

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        c = from_hydra(
            compose(
                "config", overrides=[f"task={given.task}", f"model={given.model}", "method=lora"]
            )
        )
    m, task = c.model, TASKS[given.task]
    place = locate(m.path, m.embedded, m.package, m.hub, m.revision, m.random_weights)
    rows, _, _ = read_rows(DataConfig("dir", str(given.glue)), task)
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(place.path)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        place.path, num_labels=task.outputs
    )
    names = [matrix.name for matrix in find_linears(architecture(place), KINDS)]
    model = get_peft_model(
        model, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=names)
    )

    def encoded(split: str) -> list[dict[str, Any]]:
        its = rows[split]
        tokens = tokenizer(its.first, its.second, truncation=True, max_length=c.max_length)
        labels = (
            [{}] * len(its)
            if its.label is None
            else [{"labels": label} for label in np.asarray(its.label)]
        )
        return [{k: v[i] for k, v in tokens.items()} | labels[i] for i in range(len(its))]

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=given.epochs,
        per_device_train_batch_size=c.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=c.learning_rate(),
        warmup_steps=c.warmup,
        weight_decay=c.weight_decay,
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=encoded("train"),
        eval_dataset=encoded("dev"),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    found = trainer.predict(encoded("dev"))
    trainer.predict(encoded("test"))
    values = score(task, found.predictions, np.asarray(rows["dev"].label))
    out.write_text(str(next(iter(values.values()))))


def main() -> None:
    """Prints the medians and the ratios, and writes them with the provenance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("glue", type=Path, help="an official GLUE download")
    parser.add_argument("--task", default="rte")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--to", type=Path, metavar="FILE", help="JSON")
    parser.add_argument("--trainer", nargs=2, metavar=("SEED", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trainer:
        train_with_trainer(given, int(given.trainer[0]), Path(given.trainer[1]))
        return
    from dora.timing.measure import (
        of_processes,  # late: the Trainer's process, which is timed, has no use for it
    )

    times: dict[str, list[dict[str, float]]] = {"ours": [], "trainer": []}
    for seed in range(1, given.repeats + 1):
        for name, action in (("ours", ours), ("trainer", theirs)):
            with tempfile.TemporaryDirectory() as folder:
                scored, took = of_processes(partial(action, given, seed, Path(folder)))
            times[name].append({**took, "score": scored})
            print(
                f"{name}, seed {seed}: {took['wall_s']:.1f} s, {took['cpu_s']:.1f} CPU-seconds, "
                f"score {scored:.4f}",
                flush=True,
            )
    ratios = {
        what: median(
            t[what] / o[what] for o, t in zip(times["ours"], times["trainer"], strict=True)
        )
        for what in ("wall_s", "cpu_s")
    }
    print(
        f"the Trainer takes {ratios['wall_s']:.2f} times as long, {ratios['cpu_s']:.2f} times the CPU seconds"
    )
    if given.to is not None:
        from dora.files import to_json, write_atomic
        from dora.records.provenance import provenance

        given.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            given.to, to_json({**provenance(), "times": times, "trainer_over_ours": ratios})
        )


if __name__ == "__main__":
    main()
