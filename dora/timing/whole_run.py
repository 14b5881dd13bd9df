"""Whole runs as processes, from command to result: ours by stages, beside the Trainer with PEFT.

Contenders take turns, seed by seed, and the first of a turn changes, so that a change of the
machine's speed meets all of them. Each run has a results folder of its own: it reads and tokenises
its data itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from dora.analysis.tables.layout import pipe_table
from dora.errors import RunFailed
from dora.package import ASSETS
from dora.timing.setting import Setting, backbone
from dora.timing.stages import OURS, REST, STAGES
from dora.timing.startup import of_processes

TRAINER = "Trainer + PEFT, fp32"
# A size of the bench that has drawn weights, and the model whose configuration its runs have. Its
# tokenizer is the embedded model's, which makes more tokens of a text than the published one.
DRAWN = {"base": "roberta_base"}


@dataclass(frozen=True)
class Runs:
    """The runs to compare: LoRA r8 on a task and a model, with the suite's rates.

    `model`: a name of conf/model, or of DRAWN. `data`: an official GLUE download, or mini.
    `precisions`: those of our runs. `repeats`: seeds, from 1 on.
    """

    task: str
    model: str
    data: str
    epochs: int
    threads: int
    precisions: tuple[str, ...]
    device: str = "cpu"
    repeats: int = 3

    @property
    def contenders(self) -> list[str]:
        """The names of the contenders."""
        return [*(f"ours, {precision}" for precision in self.precisions), TRAINER]


def whole_runs(runs: Runs, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns {contender: {wall_s, cpu_s, score, stages} of each seed}.

    `say`: receives a line after each run. Raises RunFailed if one fails, with its last words.
    """
    found: dict[str, Any] = {name: [] for name in runs.contenders}
    with tempfile.TemporaryDirectory() as folder, _model(runs.model) as model:
        record = Path(folder, "run.json")
        for seed in range(1, runs.repeats + 1):
            names = runs.contenders
            if seed % 2 == 0:  # never the first seed: the Trainer takes its settings from our run
                names.reverse()
            for name in names:
                if name == TRAINER:
                    took = _theirs(seed, record, runs.data)
                else:
                    took = _ours(runs, seed, name.removeprefix("ours, "), model, record)
                found[name].append(took)
                say(
                    f"{name}, seed {seed}: {took['wall_s']:.1f} s, {took['cpu_s']:.1f} "
                    f"CPU-seconds, score {took['score']:.4f}"
                )
    return found


@contextmanager
def _model(name: str) -> Iterator[list[str]]:
    """Gives the words that choose a model for a run of ours."""
    if name not in DRAWN:
        yield [f"model={name}"]
        return
    with tempfile.TemporaryDirectory() as folder:
        save_drawn(name, Path(folder))
        yield [f"model={DRAWN[name]}", f"model.path={folder}"]


def save_drawn(size: str, folder: Path) -> None:
    """Writes a model of one of the bench's sizes, with drawn weights, and a tokenizer to `folder`.

    Into files, since loading weights is a stage of a run, and both libraries shall load the same.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    backbone(Setting(size, 0.0)).save_pretrained(folder)
    for file in (ASSETS / "tiny_roberta").glob("tokenizer*"):
        shutil.copy(file, folder)


def _ours(
    runs: Runs, seed: int, precision: str, model: Sequence[str], record: Path
) -> dict[str, Any]:
    """Trains a run of the suite, and copies its run.json to `record`. Returns its figures."""
    data = ["data=mini"] if runs.data == "mini" else ["data=dir", f"data.dir={runs.data}"]
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"task={runs.task}",
            *model,
            *data,
            "method=lora",
            f"epochs={runs.epochs}",
            f"threads={runs.threads}",
            f"device={runs.device}",
            f"precision={precision}",
            f"seed={seed}",
            f"results={folder}",
        ]
        figures = _timed(lambda began, file: ["-c", OURS, began, file, *words])
        (file,) = Path(folder).glob("runs/**/run.json")
        shutil.copy(file, record)
    last = json.loads(record.read_text())["results"]["last"]
    # The first value that is no step is the task's first metric.
    return {**figures, "score": next(v for k, v in last.items() if k != "step")}


def _theirs(seed: int, record: Path, data: str) -> dict[str, Any]:
    """Trains with the Trainer, with the settings in `record` and this seed. Returns its figures."""
    run = json.loads(record.read_text())
    record.write_text(json.dumps({**run, "seed": seed}))
    module = "dora.timing.trainer_run"
    return _timed(lambda began, file: ["-m", module, began, file, str(record), data])


def _timed(words: Callable[[str, str], list[str]]) -> dict[str, Any]:
    """Runs Python with `words` and returns its wall and CPU seconds with what it has written.

    `words`: a function of the clock at the start and of the file that the process writes to. The
    part of the process that is outside its stages, such as its end, is added to REST.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "stages.json")
        command = [sys.executable, *words(str(time.perf_counter()), str(file))]
        done, took = of_processes(partial(subprocess.run, command, capture_output=True, text=True))
        if done.returncode:
            raise RunFailed("\n".join(done.stderr.splitlines()[-20:]))
        found: dict[str, Any] = json.loads(file.read_text())
    for i, whole in enumerate(took.values()):
        found["stages"][REST][i] += whole - sum(spent[i] for spent in found["stages"].values())
    return {**took, **found}


def speedup(found: dict[str, Any], name: str, what: str) -> float:
    """Returns the median over seeds of the Trainer's seconds over the contender's.

    `what`: wall_s or cpu_s. Within a seed the two ran one after the other.
    """
    pairs = zip(found[TRAINER], found[name], strict=True)
    return median(theirs[what] / one[what] for theirs, one in pairs)


def runs_table(about: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Returns a Markdown table of the stages under a line that says what was measured.

    `about`: the fields of `Runs`. `found`: from `whole_runs`. Cells are medians over seeds, so that
    they need not add up to the whole.
    """
    head = [""]
    for name in found:
        head += [name, "CPU", "%"]
    lines = [head]
    wholes = [median(run["wall_s"] for run in of) for of in found.values()]
    for stage in STAGES:
        cells = [stage]
        for of, whole in zip(found.values(), wholes, strict=True):
            wall, cpu = (median(run["stages"][stage][i] for run in of) for i in (0, 1))
            cells += [f"{wall:.1f}", f"{cpu:.1f}", f"{100 * wall / whole:.0f}"]
        lines.append(cells)
    whole_cells, faster, scores = ["whole run"], ["Trainer / this"], ["score, by seed"]
    for (name, of), whole in zip(found.items(), wholes, strict=True):
        whole_cells += [f"{whole:.1f}", f"{median(run['cpu_s'] for run in of):.1f}", "100"]
        faster += [*(f"{speedup(found, name, what):.2f}" for what in ("wall_s", "cpu_s")), ""]
        scores += [" ".join(f"{run['score']:.4f}" for run in of), "", ""]
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    embedded = " of data=mini" if about["data"] == "mini" else ""
    measured = (
        f"{about['task']}{embedded}, {about['model']}, LoRA r8, {about['epochs']} epochs, "
        f"{about['device']}, {threads}: seconds, CPU seconds and % of the whole"
    )
    return [measured, "", *pipe_table([*lines, whole_cells, faster, scores]).splitlines()]
