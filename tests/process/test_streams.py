"""A command goes on though the reader of its output has gone, or its output is full or closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dora.records import gaps
from record_files import write_run
from runs import small_words

PACKAGE = Path(__file__).parents[2] / "dora"
MAIN = '__name__ == "__main__"'
COMMANDS = sorted(f.stem for f in PACKAGE.glob("*.py") if MAIN in f.read_text(encoding="utf-8"))


def into_closed_pipe(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m WORDS` into a pipe whose reader has gone before the first word."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)


def test_help_goes_into_a_closed_pipe_without_a_word() -> None:
    done = into_closed_pipe("dora.run", "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_status_that_nobody_reads_is_still_its_exit_code(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.9, status="failed")
    done = into_closed_pipe("dora.status", "--results", str(tmp_path))
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_streams_that_last(name: str) -> None:
    assert "    command(" in (PACKAGE / f"{name}.py").read_text(encoding="utf-8")


def test_tables_are_written_though_nobody_reads_them(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.9)
    done = into_closed_pipe("dora.tables", "--results", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "tables" / "dir-minilm-best.md").is_file()


@pytest.mark.slow  # a sweep in a process of its own: 6 s
def test_a_sweep_trains_to_its_end_though_nobody_reads_what_it_says(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=lora", "max_steps=2", "limit_train=16")
    done = into_closed_pipe("dora.run", "-m", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert [s.state for s in gaps.scan(tmp_path)] == ["done"]


def status(results: Path, output: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m dora.status` with the shell's redirections in `output`."""
    command = f"'{sys.executable}' -m dora.status --results '{results}' {output}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


def ended(code: str, output: str, folder: Path) -> int:
    """Runs Python code in `folder` with the shell's redirections in `output`; returns its exit code."""
    command = f'exec "{sys.executable}" -c "{code}" {output}'
    return subprocess.run(["sh", "-c", command], cwd=folder, check=False).returncode


def test_output_that_a_full_disk_took_none_of_is_a_message_and_a_failure(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.9)
    done = status(tmp_path, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr == "standard output could not be written to: No space left on device\n"


def test_closed_streams_are_no_mistake_and_their_numbers_go_to_no_file(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.9)
    assert status(tmp_path, ">&- 2>&-").returncode == 0
    code = (
        "import os; from dora.process import streams; streams.keep_open();"
        "print('lost'); os.write(1, b'lost');"
        "n = os.open('kept', os.O_CREAT | os.O_WRONLY); os._exit(n > 2 and 7)"
    )
    assert ended(code, ">&- 2>&-", tmp_path) == 7
    assert (tmp_path / "kept").read_bytes() == b""


def test_a_file_that_a_library_opened_on_a_closed_stream_is_not_written_to(tmp_path: Path) -> None:
    # libffi keeps its own file open, under the lowest free number.
    code = (
        "import os; assert os.open('held', os.O_CREAT | os.O_RDWR) == 1\n"
        "from dora.process import streams; streams.keep_open(); print('lost')\n"
        "os._exit(streams.write_error() is not None)"
    )
    assert ended(code, ">&-", tmp_path) == 0
    assert (tmp_path / "held").read_bytes() == b""


def test_a_command_that_prints_shows_control_characters_and_never_sends_them(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "lora", 1, 0.9, model="a\x1b[2J\u202e\udcff")
    write_run(tmp_path, "lora", 1, 0.9, task="rte", status="failed", reason="\x1b]0;x\x07")
    (damaged := write_run(tmp_path, "lora", 2, 0.9, model="b\x1b[2J") / "run.json").write_text("{")
    for name in ("dora.status", "dora.tables", "dora.export", "dora.submit"):
        given = (
            [str(damaged.parent)]
            if name in ("dora.export", "dora.submit")
            else ["--results", str(tmp_path)]
        )
        done = subprocess.run(
            [sys.executable, "-m", name, *given], capture_output=True, check=False
        )
        said = (done.stdout + done.stderr).decode()
        assert all(line.isprintable() for line in said.split("\n")), said
        assert r"\x1b[2J" in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", b"3 \\xb1 1 \\u2021\n"),
        ("latin-1", b"3 \xb1 1 \\u2021\n"),
        ("ascii:replace", b"3 ? 1 ?\n"),
    ],
)
def test_a_character_that_the_encoding_lacks_is_an_escape_and_no_error(
    encoding: str, said: bytes
) -> None:
    code = "from dora.process import streams; streams.keep_open(); print('3 \\xb1 1 \\u2021')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, b"")
