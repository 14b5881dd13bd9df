"""Composing and running small experiments in this process, for the tests of whole runs."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import io
import json
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import dora
from dora.config import Config, from_hydra, register
from dora.data.mini import mini
from dora.data.tasks import AX, TASKS, Rows, Task
from dora.process.signals import StopSignals
from dora.records import artefacts
from dora.training import one_run
from dora.training.loop import Loop
from dora.training.prepare import prepare

# The text columns' names in the official TSVs and the label's, where they are not the hub's and "label".
COLUMNS = {
    "wnli": ("sentence1", "sentence2", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "stsb": ("sentence1", "sentence2", "score"),
    "ax": ("sentence1", "sentence2", ""),
}
# What a finished run leaves that one which was cut and resumed must equal byte for byte.
FILES = (
    "metrics.jsonl",
    "ranks.jsonl",
    "best.safetensors",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "predictions.npz",
)


def write_tsv(path: Path, task: Task, rows: Rows, number: int) -> None:
    """The first `number` rows of one split as the official download has it."""
    first, second, label = COLUMNS[task.name]
    lines = ["\t".join(["index", first, second, *([label] if rows.label is not None else [])])]
    for i in range(number):
        assert rows.second is not None
        row = [str(i), rows.first[i], rows.second[i]]
        if rows.label is not None:
            value = rows.label[i]
            row.append(task.labels[value] if task.name in ("rte", "mnli") else str(value))
        lines.append("\t".join(row))
    path.write_text("\n".join(lines) + "\n")


@functools.cache
def small_glue(scored: int = 40) -> Path:
    """A GLUE download of 97 training rows a task and `scored` of each other split, made once a session.

    A run on it takes about a second.
    """
    root = Path(tempfile.mkdtemp(prefix="glue-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for task in (TASKS[name] for name in ("wnli", "rte", "mnli", "stsb")):
        (root / task.folder).mkdir()
        for split, rows in mini(task).items():
            name = task.splits[split].replace("validation", "dev")
            write_tsv(
                root / task.folder / f"{name}.tsv", task, rows, 97 if split == "train" else scored
            )
    write_tsv(root / "AX.tsv", AX, mini(AX)["ax"], scored)
    return root


def small_words(results: Path, *overrides: str) -> list[str]:
    """The command-line words of a run of 24 steps, an epoch of 96 rows being 12."""
    return [
        "task=wnli",
        "data=dir",
        f"data.dir={small_glue()}",
        "limit_train=96",
        "max_steps=24",
        "batch_size=8",
        "eval_every=6",
        "threads=1",
        "max_length=48",
        "head_dropout=0.1",
        f"results={results}",
        *overrides,
    ]


def configure(*overrides: str) -> Config:
    """The configuration that these command-line words give."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(dora.CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))


def small(results: Path, *overrides: str) -> Config:
    """The small run's configuration."""
    return configure(*small_words(results, *overrides))


def run(config: Config, signals: StopSignals | None = None) -> dict[str, Any]:
    """run.json of this configuration, trained here and now."""
    return one_run.run(prepare(config), signals=signals)


def crash_after(last: int) -> Callable[[Loop, int], Any]:
    """A `Loop.train_step` that breaks off after step `last`, as a crash would."""
    original = Loop.train_step

    def train_step(self: Loop, step: int) -> Any:
        if step > last:
            raise AssertionError("power cut")
        return original(self, step)

    return train_step


def cut(results: Path, step: int, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """Trains up to `step` with a checkpoint there (unless the overrides say otherwise), then breaks off."""
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", crash_after(step))
        with pytest.raises(AssertionError, match="power cut"):
            run(small(results, "checkpoint_every=1", *overrides))


def typed(*words: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python -m dora.run WORDS` in this process, for what trains nothing.

    `env`: environment variables set meanwhile.
    """
    from dora.run import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dora.run", *words])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def refused(*words: str, **env: str) -> list[str]:
    """The problems that `python -m dora.run WORDS` names before anything begins."""
    code, _, said = typed(*words, env=env)
    assert code == 2, said
    first, *rest = said.strip().splitlines()
    assert first.startswith("bad configuration:"), said
    return [line.removeprefix("  - ") for line in rest] or [
        first.removeprefix("bad configuration: ")
    ]


def python(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in a process of its own, to its end."""
    return python("-m", *words, **env)


def forkserver() -> ForkServerContext:
    """Starts processes that have imported already what takes seconds to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dora.run",
            "dora.training.one_run",
            "dora.data.metrics",
            "runs",
            "transformers.models.roberta.modeling_roberta",
            "transformers.models.roberta.tokenization_roberta",
        ]
    )
    return context


def together(
    folder: Path, *words: str, script: Path | None = None, size: int = 2
) -> subprocess.CompletedProcess[str]:
    """`python -m dora.run WORDS`, or of a script, in `size` processes of one run, started as torchrun starts them.

    What they say, one after the other, comes back as their output, by way of `folder`; the exit code is the first that
    is not 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, said = forkserver(), [folder / f"said-by-{rank}" for rank in range(size)]
    started = [
        context.Process(target=_one_of, args=(rank, size, port, out, script, words))
        for rank, out in enumerate(said)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    code = next((process.exitcode for process in started if process.exitcode), 0)
    return subprocess.CompletedProcess(
        words, code or 0, "".join(out.read_text() for out in said), ""
    )


def _one_of(
    rank: int, size: int, port: int, out: Path, script: Path | None, words: tuple[str, ...]
) -> None:
    """What one of the processes does."""
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    sys.argv = ["dora.run", *words]
    if script is not None:
        runpy.run_path(str(script), run_name="__main__")
    else:
        from dora.run import main

        main()


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py as a module, which is no part of the package."""
    file = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def only_run(results: Path) -> Path:
    """The directory of the one run under `results`."""
    (found,) = results.glob("runs/*/*/*/*/*/*/s*")
    return found


def record(results: Path) -> dict[str, Any]:
    """run.json of the one run under `results`."""
    return json.loads((only_run(results) / "run.json").read_text())  # type: ignore[no-any-return]


def change_record(folder: Path, *without: str, **changes: Any) -> None:
    """Writes run.json with other values, or without some keys, as a run that has these would have sealed it."""
    kept = {
        k: v for k, v in json.loads((folder / "run.json").read_text()).items() if k not in without
    }
    (folder / "run.json").write_text(artefacts.sealed({**kept, **changes}))


def lines(path: Path) -> list[dict[str, Any]]:
    """A .jsonl file's events."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def differing(one: Path, two: Path) -> list[str]:
    """Names of the files that two run directories do not both hold (or both lack) byte for byte."""

    def content(folder: Path, name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).exists() else None

    return [name for name in FILES if content(one, name) != content(two, name)]


def same_files(one: Path, two: Path) -> None:
    """Asserts that two run directories hold the same, byte for byte."""
    assert differing(one, two) == []


def problems(alone: Path, again: Path) -> list[str]:
    """How a run that was killed and taken up again differs from the one left alone; empty as it should be."""
    if not (again / "run.json").exists():
        return ["lost: no run.json"]
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (alone, again))
    if two["status"] != "done":
        return [f"lost: {two['status']}, {two['reason']}"]
    found = [f"{key} differ" for key in ("results", "ranks", "params") if one[key] != two[key]]
    found += [f"{name} differs" for name in differing(alone, again)]
    left = [p.name for p in again.rglob("*.tmp")] + [p.name for p in again.glob("checkpoint/*")]
    return found + ([f"left behind: {', '.join(left)}"] if left else [])
