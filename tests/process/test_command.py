"""The frame around every command."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

# A command that has another process say which line was typed.
CODE = """
import subprocess, sys
from dora.process.command import command
ask = [sys.executable, "-c", "from dora.process.command import typed; print(typed())"]
command(lambda: print(subprocess.check_output(ask, text=True), end=""), prints_only=False)
"""


@pytest.mark.parametrize("words", [("task=rte", "results=a b"), ("x" * 99_000,)])
def test_a_process_of_a_sweep_knows_the_line_that_was_typed_for_the_sweep(
    words: tuple[str, ...],
) -> None:
    done = subprocess.check_output([sys.executable, "-c", CODE, *words], text=True)
    shown = (f"'{word}'" if " " in word else word for word in words)
    assert done.split(maxsplit=1)[1] == f"-c {' '.join(shown)}\n"


@pytest.mark.parametrize(("kind", "code"), [("UserError", 2), ("RunFailed", 1), ("NotNow", 75)])
def test_an_error_for_the_user_ends_a_command_with_its_message_and_its_code(
    kind: str, code: int
) -> None:
    text = f"""
from dora.errors import {kind}
from dora.process.command import command
def main():
    raise {kind}("the disk is full")
command(main)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "the disk is full\n")


def test_a_line_that_is_too_long_to_pass_on_starts_processes_all_the_same() -> None:
    done = subprocess.check_output([sys.executable, "-c", CODE, "x" * 120_000], text=True)
    assert done.endswith(" -c\n")  # the other process's own


@pytest.mark.parametrize(
    "line",
    [
        ["tables", "--results="],
        ["plots", "--to="],
        ["report", "--to", " "],
        ["status", "--results="],
        ["collect", ""],
        ["collect", "x", "--to="],
        ["export", ""],
        ["export", "x", "--to="],
        ["export", "x", "--base="],
        ["submit", "x", "--to="],
        ["bench", "--to="],
    ],
)
def test_a_path_that_names_nothing_is_refused(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"dora.{line[0]}").main()
    assert ended.value.code == 2
    assert "is empty, as a shell's variable that is not set" in capsys.readouterr().err
