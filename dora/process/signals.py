"""Signals that end a process in good order: at once before training, between two steps during it.

Who handles SIGINT, SIGTERM, SIGHUP and SIGUSR2, and what one of them does then:

- `Outside.watch`, from a command's first import on: it ends the process, with the exit code of EXITS.
- `Outside.launching`, and `watch(noting=True)` in a worker, between the runs of a sweep: it sets
  `stopping`, and no further run begins. A sweep passes it on to its workers; a second SIGINT ends
  the sweep.
- `StopSignals` before a run's first step: it ends the run, with nothing to lose.
- `StopSignals` from the first step on, and in one of several processes from the start: the run
  writes its checkpoint between two steps. A second SIGINT ends it at once.
- `Outside.end`, while the process ends: nothing, so that the last writes are whole.

Whoever stops a run means its sweep as well, so a run that was stopped sets `stopping` behind it
(dora/cli/job.py). A worker whose launcher has died sends itself SIGTERM (dora/process/orphan.py).
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

# Signal -> (exit code, word for it). 75 stands for every stop that the same command takes up again,
# so that a cluster's script need not tell two kinds of stop apart.
EXITS = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (Stopped.exit_code, "stopped"),
    # The terminal, or the connection to it, was closed.
    signal.SIGHUP: (Stopped.exit_code, "stopped"),
    # A cluster's time limit is near.
    signal.SIGUSR2: (Stopped.exit_code, "stopped"),
}
_SECOND_SIGINT = "interrupted; the same command resumes from the last checkpoint"
_BEFORE_TRAINING = "before training began; the same command takes it up"


class Outside:
    """Handler of SIGINT, SIGTERM, SIGHUP and SIGUSR2 while this process trains no run.

    `stopping`: True once a signal has asked all runs of this process to stop, including those that
    have not begun. `watching`: True once `watch` was called.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.watching = False
        # True: a signal only sets `stopping`, for the runs that a sweep launches.
        self._noting = False
        # True: the process is about to end, and no signal may tear its last writes.
        self._ending = False
        self._then = ""

    def watch(self, then: str = "", noting: bool = False) -> None:
        """Takes over the signals that nobody handles yet. Only the first call has an effect.

        `then`: text printed after "interrupted" or "stopped" when a signal ends the process.
        `noting`: signals only set `stopping`, as the worker of a launcher needs.
        """
        if self.watching:
            return
        self.watching, self._then, self._noting = True, then, noting
        for number in EXITS:
            # A handler of somebody else stays, and so does an ignored signal (`nohup`).
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                # ValueError: not the main thread, so whoever runs us there handles signals.
                with contextlib.suppress(ValueError):
                    signal.signal(number, self.handle)
        # A worker starts with them blocked by `launching`. Only now may one come through: with
        # Python's own handlers it would have printed a traceback.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXITS)

    def end(self) -> None:
        """Ignores further signals, since the process is ending."""
        self._ending = True
        for number in EXITS:
            # SIG_IGN, not `_ending` alone: at its very end the interpreter puts the default
            # handlers back in the place of Python functions.
            if self._ours(number):
                signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def launching(self, workers: bool) -> Iterator[None]:
        """Has a signal stop the launched runs instead of this process, while a sweep launches runs.

        The sweep can then report the state of each run. A second SIGINT raises KeyboardInterrupt.
        `workers`: the runs train in other processes. A signal is then passed on to all of them,
        also to those that start after it.
        """
        self._noting = True
        try:
            with self._telling() if workers else contextlib.nullcontext():
                yield
        finally:
            self._noting = False

    @contextlib.contextmanager
    def saying(self, then: str) -> Iterator[None]:
        """Has a signal that ends the process print `then` after "interrupted" or "stopped"."""
        before, self._then = self._then, then
        try:
            yield
        finally:
            self._then = before

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal end the process even while its main thread waits inside C code.

        Python runs its signal handlers in the main thread, between two bytecodes, so a handler has
        to wait until the C code returns. The interpreter writes the number of each signal into a
        pipe at once, though; a thread reads it there and ends the process.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)  # set_wakeup_fd demands it
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
            # Closing the writing end makes the thread's read return nothing, which ends its loop.
            os.close(writer)
            thread.join()
            os.close(reader)

    def _leave_on(self, reader: int) -> None:
        """Ends the process when the number of one of our signals comes through `reader`."""
        while number := os.read(reader, 1):
            # A cluster's own handler of SIGUSR2 queues the job again. It must get its turn, which
            # comes when the main thread returns from C.
            if number[0] in EXITS and (number[0] != signal.SIGUSR2 or self._ours(number[0])):
                leave(number[0], self._then)

    def _ours(self, number: int) -> bool:
        # ==, not `is`: each access to a method makes a new bound method.
        return signal.getsignal(number) == self.handle

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Passes a noted signal on to every process that this one starts.

        They start with the signals blocked, until `watch` takes them over: Python's own handlers
        would print a traceback. A thread that has them unblocked receives the signals for this
        process and tells the others.
        """
        # Imported late: `watch` has to be in place within milliseconds of the start.
        from multiprocessing import resource_tracker

        end = threading.Event()

        def tell() -> None:
            told: set[int] = set()
            # Polls, because processes that start after the signal must hear of it as well.
            while not end.wait(0.2):
                if self.stopping:
                    told |= _terminate(_children() - told)

        # Started before the signals are blocked: a thread inherits the mask of its maker.
        threading.Thread(target=tell, daemon=True).start()
        # Before the signals are blocked as well: starting the tracker unblocks SIGINT and SIGTERM.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, EXITS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            end.set()

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Ends the process, or notes the signal; raises KeyboardInterrupt at a second SIGINT."""
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
    """Breaks off the work before training.

    Not an Exception, since a library might catch that and take it for a failure of its own.
    """


class StopSignals:
    """Context in which SIGTERM, SIGHUP, SIGINT and SIGUSR2 stop a run between two steps.

    `received`: the number of the last signal, None before any came.
    `waits`: True while a signal waits for the end of a step. False before the first step; every
    signal then acts at once.

    A second SIGINT acts at once, and no later one interrupts the writes that follow. A SIGHUP or
    SIGINT that is ignored stays ignored: `nohup` asks for the first, a shell for its background
    jobs asks for the second. On leaving, the previous handlers are put back; `hand_over` then
    passes the signal on to them.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.waits = True
        # The exception with which a signal that did not wait is to end the run.
        self._now: BaseException | None = None
        self._before: dict[int, Any] = {}  # signal number -> previous handler

    def __enter__(self) -> StopSignals:
        try:
            for number in EXITS:
                ignored = signal.getsignal(number) == signal.SIG_IGN
                if not ignored or number not in (signal.SIGHUP, signal.SIGINT):
                    self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Before the handlers of `outside` are put back: with them a signal would end the process.
        if self._now is not None or (
            kind is not None and issubclass(kind, KeyboardInterrupt | Stopped)
        ):
            outside.end()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # A library may have caught _AtOnce and raised an error of its own in its place.
        if kind is not None and self._now is not None:
            raise self._now from None

    def wait(self) -> None:
        """Has signals wait for the end of a step from here on.

        Raises the exception of an earlier signal that some library has swallowed.
        """
        if self._now is not None:
            raise self._now
        self.waits = True

    def begin(self) -> None:
        """Acts on a signal that `outside` noted before this context took over the handlers.

        Such a signal came after the sweep had last looked for one.
        """
        if outside.stopping:
            self._note(signal.SIGTERM, None)

    def hand_over(self) -> None:
        """Calls the previous handler of the received signal, unless that only ends this process.

        A cluster's handler of SIGUSR2 queues the job again.
        """
        handler = self._before.get(self.received or 0)
        if callable(handler) and handler not in (signal.default_int_handler, outside.handle):
            handler(self.received, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal, and raises _AtOnce where it must not wait for the end of a step."""
        if self._now is not None:  # the run is ending already
            return
        again = number == signal.SIGINT and self.received == number
        self.received = number
        if again or not self.waits:
            if number == signal.SIGINT:
                text = _SECOND_SIGINT if again else f"interrupted {_BEFORE_TRAINING}"
                self._now = KeyboardInterrupt(text)
            else:
                self._now = Stopped(f"stopped by a signal {_BEFORE_TRAINING}")
            raise _AtOnce


_leaving = threading.Lock()


def leave(number: int, then: str = "") -> None:
    """Ends the process at once with one line on standard error and the exit code of the signal.

    `number`: the signal. `then`: text printed after "interrupted" or "stopped".
    """
    if not _leaving.acquire(blocking=False):
        return  # another thread, or the code that this signal interrupted, is ending the process
    code, word = EXITS[signal.Signals(number)]
    with contextlib.suppress(Exception):  # the signal may have come in the middle of a write
        sys.stdout.flush()
    # os.write, since `sys.stderr` may be in the middle of a write as well.
    with contextlib.suppress(OSError):
        os.write(2, f"{word}{then}\n".encode())
    # Not sys.exit: that waits for threads, such as one that waits for the hub, and its exception
    # would show as a traceback out of whatever import the signal interrupted.
    os._exit(code)


def _children() -> set[int]:
    """Returns the ids of the processes started by this one; empty where the system has no list.

    Only Linux has one.
    """
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in listed.read_text(encoding="ascii").split()}
    return found


def _terminate(processes: set[int]) -> set[int]:
    """Sends SIGTERM to each process that is still there, and returns them all."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return processes
