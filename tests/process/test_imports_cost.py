from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dora.process.imports import uncollected

# Prints the top-level modules that a command has imported by its end, and the exit code.
PROBE = """
import sys
from runpy import run_module
code, module = 0, sys.argv.pop(1)
try:
    run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
print(code, *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "wandb",
}


def imported_by(*words: str) -> tuple[int, set[str]]:
    """(exit code, modules) of `python -m` with `words`."""
    words = (sys.executable, "-c", PROBE, *words)
    done = subprocess.run(
        words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    return int(code), set(modules)


def test_help_waits_for_no_large_library() -> None:
    ended, modules = imported_by("dora.run", "--help")
    assert ended == 0
    assert "hydra" in modules  # the probe sees what there is
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "words",
    [
        ["taks=sst2"],
        ["model=roberta_base", "model.path=nowhere", "data=dir", "data.dir=nowhere"],
    ],
)
def test_mistakes_wait_for_no_large_library_but_the_methods_own(words: list[str]) -> None:
    ended, modules = imported_by("dora.run", *words)
    assert ended == 2
    assert not modules & (HEAVY - {"torch"})


@pytest.mark.parametrize(
    "command", ["tables", "plots", "report", "status", "export", "submit", "collect", "tune"]
)
def test_the_help_of_every_other_command_waits_for_no_large_library(command: str) -> None:
    ended, modules = imported_by(f"dora.{command}", "--help")
    assert ended == 0
    assert "dora" in modules
    assert not modules & (HEAVY | {"hydra"})


def test_training_is_imported_without_what_only_evaluation_and_tracking_need() -> None:
    code = "import sys, dora.training.one_run; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "torch" in modules
    assert not modules & (HEAVY - {"torch"})


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_halted_and_then_as_it_was(before: bool) -> None:
    (gc.enable if before else gc.disable)()
    try:
        with suppress(ValueError), uncollected():
            assert not gc.isenabled()
            raise ValueError
        assert gc.isenabled() is before
    finally:
        gc.enable()


def test_the_package_itself_imports_nothing_and_has_its_names_all_the_same() -> None:
    code = "import dora, sys; print(*dir(dora), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {"Adapter", "TrainerCallback", "attach"} <= found
    assert not found & {*HEAVY, "hydra", "numpy"}
