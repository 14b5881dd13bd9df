"""Signals end a process at once before training and between two steps during it.

Neither way prints a traceback.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dora.__main__ import COMMANDS
from dora.backbones import backbone
from dora.errors import Stopped
from dora.process.signals import EXITS, Outside, StopSignals, outside
from dora.records.record import Record
from dora.training.loop import Loop
from runs import only_run, python, record, run, small, small_words

# Runs `python -m dora.run` and has a signal come when it first imports a module.
AT_IMPORT = """
import os, runpy, signal, sys
number, module, *words = sys.argv[1:]
signal.signal(int(number), signal.SIG_DFL)  # a script's background jobs begin with SIGINT ignored
class Sender:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Sender())
sys.argv = ["dora.run", *words]
runpy.run_module("dora.run", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in EXITS}
    # A shell's background job begins with SIGINT ignored, and a handler of ours would leave it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(outside, "_ending", False)
    monkeypatch.setattr(outside, "stopping", False)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 75, "stopped"),
        (signal.SIGHUP, 75, "stopped"),
        (signal.SIGUSR2, 75, "stopped"),
    ],
)
@pytest.mark.parametrize("module", ["hydra", "dora.preparing.prepare"])
def test_a_signal_in_the_first_seconds_is_one_line(
    number: signal.Signals, code: int, word: str, module: str, tmp_path: Path
) -> None:
    done = python("-c", AT_IMPORT, str(int(number)), module, *small_words(tmp_path, "method=lora"))
    line = f"{word} while nothing was trained; the same command goes on from here\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line)


def test_three_times_ctrl_c_leaves_a_record_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, update = Loop.train_step, Record.update

    def twice(self: Loop, n: int) -> Any:
        if n == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(self, n)

    def third(self: Record, **changes: Any) -> None:
        if changes.get("status") == "stopped":
            signal.raise_signal(signal.SIGINT)
        update(self, **changes)

    monkeypatch.setattr(Loop, "train_step", twice)
    monkeypatch.setattr(Record, "update", third)
    signal.signal(signal.SIGINT, outside.handle)  # as a command sets it
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; the same command resumes"):
        run(small(tmp_path, "method=lora", "max_steps=4"))
    assert record(tmp_path)["status"] == "stopped"


# Runs a command and has Ctrl-C come with the first import behind those that watch for it.
AT_FIRST_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Sender:
    def find_spec(self, name, *_):
        if name.startswith("dora.") and name not in EARLY:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Sender())
EARLY = ("dora.package", "dora.process", "dora.process.signals", "dora.errors", "dora." + sys.argv[1])
runpy.run_module("dora." + sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


# Without tune, which imports the rest only when it is asked for something.
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"tune"}))
def test_ctrl_c_during_the_imports_of_a_command_is_one_line(name: str) -> None:
    done = python("-c", AT_FIRST_IMPORT, name)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_that_is_interrupted_says_one_line_and_is_deaf_to_its_end() -> None:
    code = (
        "import atexit, os; from dora.process.command import command\n"
        "atexit.register(lambda: os.kill(os.getpid(), 2))\n"
        "def main(): raise KeyboardInterrupt('interrupted; go on')\n"
        "command(main)"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (130, "interrupted; go on\n")


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, Stopped),
        (signal.SIGUSR2, Stopped),
    ],
)
def test_a_signal_while_a_model_is_loaded_waits_for_no_step(
    number: signal.Signals,
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backbone, "load_model", lambda *_: signal.raise_signal(number))
    with pytest.raises(error, match="before training began; the same command takes it up"):
        run(small(tmp_path, "method=lora", "max_steps=4"))
    found = record(tmp_path)
    assert (found["status"], found.get("progress")) == ("stopped", None)
    assert "before training began" in (only_run(tmp_path) / "log.txt").read_text()


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
def test_a_library_that_takes_a_signal_for_its_own_failure_neither_hides_nor_renames_the_stop(
    swallowed: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = backbone.load_model

    def load_model(*given: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as e:
            raise ValueError("no such model") from e
        except swallowed:
            return load(*given)

    monkeypatch.setattr(backbone, "load_model", load_model)
    with pytest.raises(Stopped, match="before training began; the same command takes it up"):
        run(small(tmp_path, "method=lora", "max_steps=4"))
    assert record(tmp_path)["status"] == "stopped"
    assert not list(only_run(tmp_path).glob("checkpoint/*"))


def test_a_signal_between_two_runs_of_a_sweep_stops_the_next_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "stopping", True)
    with pytest.raises(Stopped, match="before training began"):
        run(small(tmp_path, "method=lora", "max_steps=4"))


def test_a_sweep_hears_a_first_signal_and_is_interrupted_by_a_second_and_deaf_to_a_third() -> None:
    heard = Outside()
    with heard.launching(workers=False):
        heard.handle(signal.SIGINT)
        assert heard.stopping
        with pytest.raises(KeyboardInterrupt, match="the same sweep goes on"):
            heard.handle(signal.SIGINT)
        heard.handle(signal.SIGINT)


def test_a_signal_handed_over_ends_no_process_that_only_watches() -> None:
    signal.signal(signal.SIGTERM, outside.handle)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
    signals.hand_over()  # a call of `outside.handle` would end these tests here
    assert signals.received == signal.SIGTERM


WORKER = """
import json, signal, sys, time
print(json.dumps(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))), flush=True)
from dora.process.signals import outside
outside.watch(noting=True)
end = time.monotonic() + 20
while not outside.stopping and time.monotonic() < end:
    time.sleep(0.02)
print(outside.stopping)
"""


def test_workers_start_with_signals_blocked_and_are_told_even_if_they_start_after_the_signal() -> (
    None
):
    told = Outside()
    with told.launching(workers=True):
        told.handle(signal.SIGTERM)
        worker: Any = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True
        )
        blocked = json.loads(worker.stdout.readline())
        assert {signal.SIGINT, signal.SIGTERM} <= set(blocked)
        assert worker.communicate(timeout=30)[0] == "True\n"


def test_a_terminal_that_is_closed_stops_a_run_unless_nohup_says_otherwise() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received is None


# The main thread waits in C, where no signal interrupts it, as while a run's processes meet.
WAITER = """
import ctypes, signal, sys, threading
from dora.process.signals import outside
if len(sys.argv) > 2:
    signal.signal(signal.SIGUSR2, lambda *_: print("queued again", flush=True))
outside.watch(" early")
c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
c.pthread_mutex_lock(mutex)
unlock = threading.Timer(float(sys.argv[1]), c.pthread_mutex_unlock, [mutex])
unlock.daemon = True
unlock.start()
with outside.at_once():
    print("waits", flush=True)
    c.pthread_mutex_lock(mutex)
"""


def waiting(*words: str) -> Any:
    process: Any = subprocess.Popen(
        [sys.executable, "-c", WAITER, *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "waits\n"
    return process


@pytest.mark.parametrize("number", [n for n in EXITS if n != signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_others_with_the_code_of_a_stop(number: int) -> None:
    process = waiting("20")
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("", "stopped early\n")
    assert process.returncode == 75


def test_a_clusters_own_handler_of_a_signal_has_its_turn_after_the_wait() -> None:
    process = waiting("0.5", "requeues")
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=10) == ("queued again\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_so_while_a_run_trains(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) == signal.SIG_IGN
        assert signals.received is None
    finally:
        signal.signal(number, before)
