"""A whole run by the Transformers Trainer and PEFT, in a process of its own, with its stages.

    python -m dora.timing.trainer_run BEGAN FILE RECORD DATA

Trains LoRA as a user of the two libraries would, on the suite's rows, with model, rates, batch size
and schedule of the run whose run.json is RECORD. Each random batch is padded to its longest row, as
the Trainer's documentation advises. The development sets are scored after each epoch, and the
unlabelled splits are predicted at the end. DATA: a GLUE folder, or mini.
BEGAN and FILE: see `dora.timing.stages`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from dora.timing.stages import EVALUATIONS, FINAL, LOAD, READ, STEPS, Stages


def main(began: float, file: Path, record: Path, data: str) -> None:
    """Trains, predicts, and writes score and stages to `file`."""
    stages, run = Stages(began), json.loads(record.read_text())
    # Late, like every import of a library here: start-up is timed.
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from dora.backbones.backbone import locate
    from dora.configuration.groups import DataConfig
    from dora.data.tasks import TASKS
    from dora.preparing.rows import read_rows

    c, m, task = run["config"], run["model"], TASKS[run["config"]["task"]]
    # The package's own models come from nowhere else, and have their folder's name.
    embedded = None if m["package"] or m["hub"] else c["model"]
    folder = locate(
        m["path"],
        embedded=embedded,
        package=m["package"],
        hub=m["hub"],
        revision=m["revision"] or "main",
    ).path
    torch.set_num_threads(c["threads"])
    set_seed(run["seed"])
    with stages.stage(READ):
        source = DataConfig("mini") if data == "mini" else DataConfig("dir", dir=data)
        rows, _, _ = read_rows(source, task)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        encoded = {k: _encoded(v, tokenizer, c["max_length"]) for k, v in rows.items()}
    with stages.stage(LOAD):
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=task.outputs
        )
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=8,
            lora_alpha=int(c["method"]["alpha"]),
            target_modules=list(run["ranks"]["start"]),
        )
        model = get_peft_model(model, config)
    trainer = _trainer(c, run["seed"], task, model, tokenizer, encoded)
    stages.wrap(trainer, "evaluate", EVALUATIONS)
    with stages.stage(STEPS):
        trainer.train()
    with stages.stage(FINAL):
        for split, there in rows.items():
            if there.label is None:
                trainer.predict(encoded[split])
    name = f"eval_dev_{task.metrics[0]}"
    score = next(e[name] for e in reversed(trainer.state.log_history) if name in e)
    stages.write(file, score=score)


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
    c: dict[str, Any], seed: int, task: Any, model: Any, tokenizer: Any, encoded: dict[str, Any]
) -> Any:
    """Returns a Trainer with the settings of the record's configuration `c`."""
    import numpy as np
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from dora.data.metrics import score

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=c["epochs"],
        per_device_train_batch_size=c["batch_size"],
        per_device_eval_batch_size=64,
        learning_rate=c["lr"],
        warmup_steps=c["warmup"],  # below 1 it is a fraction for both
        weight_decay=c["weight_decay"],
        max_grad_norm=c["clip"],
        lr_scheduler_type=c["schedule"],
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=seed,
        use_cpu=c["device"] == "cpu",
        disable_tqdm=True,
    )
    return Trainer(
        model,
        arguments,
        train_dataset=encoded["train"],
        eval_dataset={split: encoded[split] for split in task.dev_splits},
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: score(
            task, np.asarray(found.predictions), np.asarray(found.label_ids)
        ),
    )


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
