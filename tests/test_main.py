"""`dora-glue COMMAND` is `python -m dora.COMMAND`, and every command knows its version."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from dora import __main__ as main
from dora.package import __version__
from record_files import write_run
from runs import command, only_run, python, small_words

ROOT = Path(__file__).parents[1]
MODULES = {
    f.stem
    for f in (ROOT / "dora").glob("*.py")
    if '__name__ == "__main__"' in f.read_text(encoding="utf-8")
}


def test_the_help_lists_every_command_with_a_line() -> None:
    assert main.COMMANDS.keys() == MODULES - {"__main__"}
    lines = main.usage().splitlines()
    for name, text in main.COMMANDS.items():
        assert f"  {name:<10}{text}" in lines
    assert max(map(len, lines)) <= 100


def test_the_script_is_this_module() -> None:
    (script,) = re.findall(r'^dora-glue = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    module, _, function = script.partition(":")
    assert getattr(import_module(module), function) is main.main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tabels"], "there is no command tabels: did you mean tables? The commands are run, tune"),
        (["xyz"], "there is no command xyz: The commands are run, tune"),
        (["task=rte"], "task=rte is a setting and no command: dora-glue run task=rte …"),
        ([], "usage: dora-glue COMMAND …"),
    ],
)
def test_another_word_is_refused_with_the_nearest_command(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["dora-glue", *words])
    monkeypatch.setattr(main, "command", lambda function: function())
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert captured.out == ""


def test_a_command_gets_its_words_and_gives_its_output_and_exit_code(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.9, status="failed")
    done = command("dora", "status", "--results", str(tmp_path))
    alone = command("dora.status", "--results", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (3, alone.stdout, alone.stderr)
    assert "1 failed" in done.stdout


@pytest.mark.slow
def test_a_run_records_the_command_that_python_takes(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=lora", "max_steps=2", "limit_train=16")
    done = command("dora", "run", *words)
    assert done.returncode == 0, done.stderr
    record = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert record["command"].startswith("python -m dora.run task=")


@pytest.mark.parametrize(
    "name",
    ["status", *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(MODULES - {"status"}))],
)
def test_every_command_says_its_version_and_its_help_into_a_closed_pipe(name: str) -> None:
    module = "dora" if name == "__main__" else f"dora.{name}"
    done = python("-m", module, "--version")
    assert (done.returncode, done.stdout) == (0, f"dora-glue {__version__}\n"), done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    try:
        line = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_commands_needs_no_library() -> None:
    late = "{'torch', 'transformers', 'hydra', 'numpy'}"
    done = python("-c", f"import sys, dora.__main__; assert not {late} & sys.modules.keys()")
    assert done.returncode == 0, done.stderr
