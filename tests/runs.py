"""Composes and runs small experiments in this process, for the tests of whole runs."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import gc
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

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from dora.cli.choices import composing
from dora.cli.composer import Composer
from dora.configuration.config import Config, register
from dora.data.mini import mini
from dora.data.tasks import AX, TASKS, Rows, Task
from dora.errors import RunFailed, UserError
from dora.methods.base import Method
from dora.package import CONF
from dora.preparing.prepare import prepare
from dora.process.signals import StopSignals
from dora.records import artefacts
from dora.training import one_run
from dora.training.loop import Loop
from dora.training.step import Stepper

# The folder of configurations whose methods test_every_method.py checks: conf/, or one's own.
METHODS_FROM = Path(os.environ.get("METHODS_FROM") or CONF).resolve()
# The columns of the official TSVs: two texts and the label. The hub has other names for some.
COLUMNS = {
    "wnli": ("sentence1", "sentence2", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "stsb": ("sentence1", "sentence2", "score"),
    "ax": ("sentence1", "sentence2", ""),
}
# The files in which a run that was cut and resumed must equal one left alone, byte for byte.
FILES = (
    "metrics.jsonl",
    "ranks.jsonl",
    "best.safetensors",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "predictions.npz",
)


def write_tsv(path: Path, task: Task, rows: Rows, number: int) -> None:
    """Writes the first `number` rows of one split as the official download has it."""
    first, second, label = COLUMNS[task.name]
    lines = ["\t".join(["index", first, second, *([label] if rows.label is not None else [])])]
    for i in range(number):
        assert rows.second is not None
        row = [str(i), rows.first[i], rows.second[i]]
        if rows.label is not None:
            # Class names for RTE and MNLI, numbers for the others.
            value = rows.label[i]
            row.append(task.labels[value] if task.name in ("rte", "mnli") else str(value))
        lines.append("\t".join(row))
    path.write_text("\n".join(lines) + "\n")


@functools.cache
def small_glue(scored: int = 40) -> Path:
    """Makes a GLUE download of 97 training rows a task and `scored` of each other split.

    A run on it takes about a second. It is made once in each process that tests.
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
    """Returns the command-line words of a run of 24 steps in 2 epochs of 12 steps.

    A federated run has 4 rounds of 3 clients, unless `overrides` say otherwise.
    """
    rounds = (
        [] if any(w.startswith("fed.local_steps") for w in overrides) else ["fed.local_steps=2"]
    )
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
        *rounds,
        *overrides,
    ]


@functools.cache
def _composer() -> Composer:
    """Returns the suite's composer, which takes a tenth of Hydra's time."""
    register()
    # Hydra's state is global, and a test before may have left one.
    GlobalHydra.instance().clear()
    with composing(None if METHODS_FROM == CONF.resolve() else str(METHODS_FROM)):
        return Composer(GlobalHydra.instance().config_loader())


def configure(*overrides: str) -> Config:
    """Composes the configuration that these command-line words give."""
    return _composer()(overrides)


def small(results: Path, *overrides: str) -> Config:
    """Composes the configuration of the small run."""
    return configure(*small_words(results, *overrides))


def of_kind(kind: type[Method], results: Path) -> Config:
    """Composes LoRA's small run in two steps, trained by another class."""
    config = small(results, "method=lora", "max_steps=2")
    config.method = dataclasses.replace(config.chosen, kind=kind)
    return config


def run(config: Config, signals: StopSignals | None = None) -> dict[str, Any]:
    """Trains this configuration in this process and returns its run.json."""
    return one_run.run(prepare(config), signals=signals)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Returns what predictions.npz in a run's directory holds, and leaves no file open."""
    with np.load(folder / "predictions.npz") as stored:
        return dict(stored)


def crash_after(last: int) -> Callable[[Loop, int], Any]:
    """Returns a `Loop.train_step` that breaks off after step `last`, as a crash would."""
    original = Loop.train_step

    def train_step(self: Loop, step: int) -> Any:
        if step > last:
            raise AssertionError("power cut")
        return original(self, step)

    return train_step


def second_fails_in(last: int) -> Callable[[Stepper, int], Any]:
    """Returns a `Stepper.take` that fails in step `last` in the second of several processes."""
    original = Stepper.take

    def take(self: Stepper, step: int) -> Any:
        if step == last and os.environ["RANK"] == "1":
            raise ValueError("a fault of one process")
        return original(self, step)

    return take


@functools.cache
def left_alone(*overrides: str) -> Path:
    """Returns the results of a small run that nothing stopped, for tests to compare theirs with.

    It is trained once in each process that tests, so that a test must neither change it nor ask for
    it after it has patched what trains.
    """
    root = Path(tempfile.mkdtemp(prefix="alone-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    run(small(root, *overrides))
    return root


def cut(results: Path, step: int, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """Trains to `step`, with a checkpoint there unless overridden, and breaks off."""
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", crash_after(step))
        with pytest.raises(AssertionError, match="power cut"):
            run(small(results, "checkpoint_every=1", *overrides))


def typed(*words: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Runs `python -m dora.run WORDS` in this process, as `in_process` does.

    For commands that train nothing: starting an interpreter would take them seconds each.
    """
    from dora.run import main

    # Without HYDRA_FULL_ERROR Hydra would turn exceptions into its own exit.
    return in_process(main, "dora.run", *words, env={"HYDRA_FULL_ERROR": "1", **(env or {})})


def in_process(
    main: Callable[[], None], *words: str, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Runs a command's `main` as if `words` had been typed; returns (exit code, stdout, stderr).

    `env`: environment variables set meanwhile.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(words))
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        # Hydra and argparse end by SystemExit; so do the suite's own commands.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
            except (UserError, RunFailed) as error:  # of which `command` makes the same
                code = error.exit_code
                print(error, file=err)
    return code, out.getvalue(), err.getvalue()


def refused(*words: str, **env: str) -> list[str]:
    """Returns the problems that `python -m dora.run WORDS` names before anything begins."""
    code, _, said = typed(*words, env=env)
    assert code == 2, said
    first, *rest = said.strip().splitlines()
    assert first.startswith("bad configuration:"), said
    return [line.removeprefix("  - ") for line in rest] or [
        first.removeprefix("bad configuration: ")
    ]


def python(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `python WORDS` in another process to its end."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m WORDS` in another process to its end.

    The process begins with the slow imports done. `python` starts a fresh interpreter, which takes
    seconds: for tests of its start and end, and of variables that libraries read when imported.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        given = (words, {**os.environ, **env}, out, err)
        process = forkserver().Process(target=_command, args=given)
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            words, process.exitcode or 0, out.read_text(), err.read_text()
        )


def _command(words: tuple[str, ...], environ: dict[str, str], out: Path, err: Path) -> None:
    """Is the process of `command`."""
    gc.freeze()  # a search through all that is imported would copy its memory
    _say_into(out, err)
    os.environ.clear()
    os.environ |= environ
    sys.path[1:1] = environ.get("PYTHONPATH", "").split(os.pathsep)  # behind the folder here
    module, *sys.argv[1:] = words
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _say_into(out: Path, err: Path) -> None:
    """Sends the process's two outputs to files."""
    # On the level of file descriptors: C++ code such as gloo's writes there too.
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)


def forkserver() -> ForkServerContext:
    """Returns a context whose processes start with the slow imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dora.training.one_run",
            "dora.data.metrics",
            "dora.cli.tuning",
            "dora.analysis.figures.files",
            "dora.sharing.exporting",
            "dora.sharing.submission",
            "transformers.models.roberta.modeling_roberta",
            "transformers.models.roberta.tokenization_roberta",
        ]
    )
    return context


def together(
    folder: Path, *words: str, script: Path | None = None, size: int = 2
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m dora.run WORDS`, or a script, in `size` processes of one run.

    They start as torchrun starts them. Returns the first exit code that is not 0, and their
    outputs, one after the other, which go through files in `folder`.
    """
    # A free port, given up again before the processes meet there: torchrun's own way, too.
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
    # A process that fails takes the others with it, so one code stands for all.
    code = next((process.exitcode for process in started if process.exitcode), 0)
    return subprocess.CompletedProcess(
        words, code or 0, "".join(out.read_text() for out in said), ""
    )


def _one_of(
    rank: int, size: int, port: int, out: Path, script: Path | None, words: tuple[str, ...]
) -> None:
    """Runs one of the processes of `together`."""
    _say_into(out, out)
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
    """Imports scripts/NAME.py, which is no part of the package, as a module."""
    folder = Path(__file__).parents[1] / "scripts"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # as Python does for a script: its packages are found there
    file = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there while it is executed
    spec.loader.exec_module(module)
    return module


def only_run(results: Path) -> Path:
    """Returns the directory of the only run under `results`."""
    # data, task, model, method, budget, key, seed
    (found,) = results.glob("runs/*/*/*/*/*/*/s*")
    return found


def record(results: Path) -> dict[str, Any]:
    """Returns the run.json of the only run under `results`."""
    return json.loads((only_run(results) / "run.json").read_text())  # type: ignore[no-any-return]


def change_record(folder: Path, *without: str, **changes: Any) -> None:
    """Changes values of run.json or removes keys, and seals it anew as a run does."""
    kept = {
        k: v for k, v in json.loads((folder / "run.json").read_text()).items() if k not in without
    }
    (folder / "run.json").write_text(artefacts.sealed({**kept, **changes}))


def lines(path: Path) -> list[dict[str, Any]]:
    """Returns the events of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def differing(one: Path, two: Path) -> list[str]:
    """Returns the names of files that differ between two run directories, or that one lacks."""

    def content(folder: Path, name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).exists() else None

    return [name for name in FILES if content(one, name) != content(two, name)]


def same_files(one: Path, two: Path) -> None:
    """Asserts that the files of two run directories are equal byte for byte."""
    assert differing(one, two) == []


def problems(alone: Path, again: Path) -> list[str]:
    """Returns the differences of a killed and resumed run from one left alone; empty if none."""
    if not (again / "run.json").exists():
        return ["lost: no run.json"]
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (alone, again))
    # Without an end there is nothing to compare.
    if two["status"] != "done":
        return [f"lost: {two['status']}, {two['reason']}"]
    found = [f"{key} differ" for key in ("results", "ranks", "params") if one[key] != two[key]]
    found += [f"{name} differs" for name in differing(alone, again)]
    # Temporary files of a write that was killed, and checkpoints, which a done run removes.
    left = [p.name for p in again.rglob("*.tmp")] + [p.name for p in again.glob("checkpoint/*")]
    return found + ([f"left behind: {', '.join(left)}"] if left else [])
