"""Signals that end a process in good order: at once where nothing is trained, between two steps of a run.

A command watches from its first import on (`outside.watch`). While a run trains, `StopSignals` has the signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from dora.errors import Stopped

# 75 is the code of whatever the same command takes up again, so that a cluster's script need not tell two stops apart.
EXITS = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (Stopped.exit_code, "stopped"),
    signal.SIGHUP: (
        Stopped.exit_code,
        "stopped",
    ),  # the terminal was closed, or the connection to it
    signal.SIGUSR2: (Stopped.exit_code, "stopped"),  # a cluster's time limit is near
}
AGAIN = "interrupted; the same command resumes from the last checkpoint"
BEGUN = "before training began; the same command takes it up"


class Outside:
    """Handles SIGINT, SIGTERM, SIGHUP and SIGUSR2 of this process while no run of it is trained.

    `stopping`: whether a signal asks the runs of this process to stop, those that have not begun among them.
    `watching`: whether `watch` was called.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.watching = False
        self._noting = False  # a signal is for the runs that a sweep launches, not for the process
        self._ending = (
            False  # the process is about to end, and what it still writes is not to be torn
        )
        self._then = ""

    def watch(self, then: str = "", noting: bool = False) -> None:
        """Takes the signals that nobody handles; only the first call counts. `then`: what is said of the end after
        "interrupted". `noting`: signals only set `stopping`, as the worker of a launcher needs it.
        """
        if self.watching:
            return
        self.watching, self._then, self._noting = True, then, noting
        for number in EXITS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                with contextlib.suppress(
                    ValueError
                ):  # not the main thread: whoever runs us handles signals
                    signal.signal(number, self.heard)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, EXITS
        )  # blocked by `launching`, where this is a worker

    def end(self) -> None:
        """Ignores further signals, since the process is ending."""
        self._ending = True
        for number in EXITS:
            if self._ours(number):  # the interpreter's last act would be to put its own back
                signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def launching(self, workers: bool) -> Iterator[None]:
        """Lets a signal stop the runs that are launched, and the sweep say what became of them. A second SIGINT
        raises KeyboardInterrupt.

        `workers`: the runs are in other processes, which all are told, those that start later among them.
        """
        self._noting = True
        try:
            with self._telling() if workers else contextlib.nullcontext():
                yield
        finally:
            self._noting = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal end the process while the main thread is in code that Python's handlers have to wait for.

        The interpreter writes the number of each signal that it handles into a pipe; a thread reads it there.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            before = None
        thread = threading.Thread(target=self._leave_on, args=(reader,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            if before is not None:
                signal.set_wakeup_fd(before)
            os.close(writer)
            thread.join()
            os.close(reader)

    def _leave_on(self, reader: int) -> None:
        while number := os.read(reader, 1):
            # A cluster's own handler of SIGUSR2 queues the job again, and comes to it afterwards.
            if number[0] in EXITS and (number[0] != signal.SIGUSR2 or self._ours(number[0])):
                leave(number[0], self._then)

    def _ours(self, number: int) -> bool:
        return signal.getsignal(number) == self.heard

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Passes a signal that was noted on to every process that this one starts.

        They start with the signals blocked, until `watch` takes them: Python's own handler would print a traceback.
        A thread with another mask takes the signals for this process, and tells the others.
        """
        from multiprocessing import (
            resource_tracker,  # late: `watch` is to stand within milliseconds
        )

        end = threading.Event()

        def tell() -> None:
            told: set[int] = set()
            while not end.wait(0.2):
                if self.stopping:
                    told |= _terminate(_children() - told)

        threading.Thread(
            target=tell, daemon=True
        ).start()  # a thread begins with the mask of its maker
        resource_tracker.ensure_running()  # now, since it unblocks the signals when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, EXITS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            end.set()

    def heard(self, number: int, frame: FrameType | None = None) -> None:
        """The handler."""
        if self._ending:
            return
        if not self._noting:
            leave(number, self._then)
        if self.stopping and number == signal.SIGINT:
            self._ending = True
            raise KeyboardInterrupt("interrupted; the same sweep goes on with what is not done")
        self.stopping = True


outside = Outside()


class _AtOnce(BaseException):
    """Leaves what is done before training. No Exception: a library would take it for a failure of its own."""


class StopSignals:
    """Notes SIGTERM, SIGHUP, SIGINT and SIGUSR2 while a run trains, so that it stops between two steps.

    A SIGHUP or SIGINT that is ignored stays so, which is what `nohup`, and a shell for its background jobs, ask for.

    A second SIGINT acts at once, and no later one tears what then is written. With `waits` False, as before the first
    step, every one of the signals acts at once. On leaving, the handlers that were there before are put back;
    `hand_over` then passes on what came.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR2)

    def __init__(self, waits: bool = True) -> None:
        self.received: int | None = None
        self.waits = waits
        self._now: BaseException | None = None  # how a signal that did not wait is to end the run
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        try:
            for number in self.SIGNALS:
                ignored = signal.getsignal(number) == signal.SIG_IGN
                if not ignored or number not in (signal.SIGHUP, signal.SIGINT):
                    self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._now is not None or (
            kind is not None and issubclass(kind, KeyboardInterrupt | Stopped)
        ):
            outside.end()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is not None and self._now is not None:
            raise self._now from None  # whatever it became on its way

    def wait(self) -> None:
        """Has signals wait for the end of a step from here on. Raises what something swallowed."""
        if self._now is not None:
            raise self._now
        self.waits = True

    def begin(self) -> None:
        """Takes up a signal that came after the sweep's last look, and before there were these handlers."""
        if outside.stopping:
            self._note(signal.SIGTERM, None)

    def hand_over(self) -> None:
        """Calls the handler that was there before for the signal that came, unless it only ends this process."""
        handler = self._before.get(self.received or 0)
        if callable(handler) and handler not in (signal.default_int_handler, outside.heard):
            handler(self.received, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._now is not None:
            return
        again = number == signal.SIGINT and self.received == number
        self.received = number
        if again or not self.waits:
            if number == signal.SIGINT:
                self._now = KeyboardInterrupt(AGAIN if again else f"interrupted {BEGUN}")
            else:
                self._now = Stopped(f"stopped by a signal {BEGUN}")
            raise _AtOnce


_leaving = threading.Lock()


def leave(number: int, then: str = "") -> None:
    """Ends the process here and now: no thread that waits for a hub is waited for, and no import is torn open."""
    if not _leaving.acquire(blocking=False):
        return  # it is being done, by another thread or by what this signal interrupted
    code, what = EXITS[signal.Signals(number)]
    with contextlib.suppress(Exception):  # the signal may have come in the middle of a write
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{what}{then}\n".encode())
    os._exit(code)


def _children() -> set[int]:
    """The processes that this one has started, where the system lists them (Linux)."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in listed.read_text(encoding="ascii").split()}
    return found


def _terminate(processes: set[int]) -> set[int]:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return processes
