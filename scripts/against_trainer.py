"""Times a real run, from command to result, beside an equal one by the Trainer and PEFT.

    python scripts/against_trainer.py GLUE [--task rte] [--model minilm] [--epochs 3] [--repeats 3]

Both train LoRA r8 on all six linears in batches of 32, with equal rates and schedules; they score
the development set after each epoch and predict the test set at the end, for seeds 1 to `repeats`.
The Trainer pads each random batch to its longest row, as its documentation advises. The two take
turns; the times are those of whole processes.
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
    """Trains the suite's run. Returns the score of its last evaluation.

    The Trainer's script reports its last one too.
    """
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
    command = [sys.executable, "-m", "dora.run", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = folder.glob("runs/**/run.json")
    last = json.loads(file.read_text())["results"]["last"]
    # The first value that is no step is the task's first metric.
    return next(value for name, value in last.items() if name != "step")


def theirs(given: argparse.Namespace, seed: int, folder: Path) -> float:
    """Calls `train_with_trainer` in a process of its own, as `ours` has one. Returns its score."""
    words = ["--task", given.task, "--model", given.model, "--epochs", str(given.epochs)]
    out = folder / "score"  # a file: both libraries print to standard output
    command = [sys.executable, str(HERE), str(given.glue), *words, "--trainer", str(seed), str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return float(out.read_text())


def train_with_trainer(given: argparse.Namespace, seed: int, out: Path) -> None:
    """Trains as a user of the two libraries would, and writes the score to `out`.

    The data are read by the suite's reader, and its configuration gives the settings.
    """
    # Late, like every import of a library here: the parent process is not timed by them.
    import numpy as np
    from hydra import compose, initialize_config_dir
    from transformers import AutoTokenizer, set_seed

    from dora.backbones.backbone import locate
    from dora.config import DataConfig, from_hydra, register
    from dora.data.metrics import score
    from dora.data.tasks import TASKS
    from dora.run import CONF
    from dora.training.prepare import read_rows

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"task={given.task}", f"model={given.model}", "method=lora"]
        c = from_hydra(compose("config", overrides=overrides))
    m, task = c.model, TASKS[given.task]
    place = locate(m.path, m.embedded, m.package, m.hub, m.revision, m.random_weights)
    rows, _, _ = read_rows(DataConfig("dir", str(given.glue)), task)
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(place.path)
    model = _with_adapter(place, task.outputs)
    encoded = {
        split: _encoded(rows[split], tokenizer, c.max_length) for split in ("train", "dev", "test")
    }
    trainer = _trainer(c, given.epochs, seed, model, tokenizer, encoded)
    trainer.train()
    found = trainer.predict(encoded["dev"])
    trainer.predict(encoded["test"])  # a run of ours does
    values = score(task, found.predictions, np.asarray(rows["dev"].label))
    out.write_text(str(next(iter(values.values()))))


def _with_adapter(place: Any, outputs: int) -> Any:
    """Returns the model in `place` with PEFT's LoRA of rank 8 on all six linears."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    from dora.backbones.architectures import KINDS
    from dora.backbones.backbone import architecture, find_linears

    model: Any = AutoModelForSequenceClassification.from_pretrained(place.path, num_labels=outputs)
    names = [matrix.name for matrix in find_linears(architecture(place), KINDS)]
    # alpha 16 is the default of the suite's LoRA too, and scales by alpha / r in both.
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=names)
    return get_peft_model(model, config)


def _encoded(rows: Any, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Returns a split as the Trainer takes it: a dictionary for each row, not yet padded."""
    import numpy as np

    tokens = tokenizer(rows.first, rows.second, truncation=True, max_length=max_length)
    encoded = [{k: v[i] for k, v in tokens.items()} for i in range(len(rows))]
    if rows.label is not None:
        for row, label in zip(encoded, np.asarray(rows.label), strict=True):
            row["labels"] = label
    return encoded


def _trainer(
    c: Any, epochs: int, seed: int, model: Any, tokenizer: Any, encoded: dict[str, Any]
) -> Any:
    """Returns a Trainer with the settings of the suite's configuration `c`."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=epochs,
        per_device_train_batch_size=c.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=c.learning_rate(),
        warmup_steps=c.warmup,  # below 1 it is a fraction for both
        weight_decay=c.weight_decay,
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(
        model,
        arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded["dev"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def main() -> None:
    """Prints the medians and the ratios, and writes them with the provenance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("glue", type=Path, help="an official GLUE download")
    parser.add_argument("--task", default="rte", help="a GLUE task (default: %(default)s)")
    parser.add_argument(
        "--model", default="minilm", help="a model of conf/model (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="of each run (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="seeds, from 1 on (default: %(default)s)"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="write the measurements to this JSON file"
    )
    parser.add_argument("--trainer", nargs=2, metavar=("SEED", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trainer:
        train_with_trainer(given, int(given.trainer[0]), Path(given.trainer[1]))
        return
    # Late: the Trainer's process, which is timed, has no use for it.
    from dora.timing.measure import of_processes

    times: dict[str, list[dict[str, float]]] = {"ours": [], "trainer": []}
    # In turn, seed by seed, so that a change of the machine's speed meets both.
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
    # Within a seed first: the two ran one after the other, on an equally busy machine.
    pairs = list(zip(times["ours"], times["trainer"], strict=True))
    ratios = {what: median(t[what] / o[what] for o, t in pairs) for what in ("wall_s", "cpu_s")}
    print(
        f"the Trainer takes {ratios['wall_s']:.2f} times as long, {ratios['cpu_s']:.2f} times the "
        "CPU seconds"
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
