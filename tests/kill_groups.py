"""Kills processes at random times, then runs the same command again.

The time is counted from the start or from the begin of training. Killed are single runs, a sweep's
workers on this machine, torchrun's processes, and their launchers.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from dora.records.directories import directories
from runs import forkserver, problems, small_words

# The processes that a kill of each kind may hit. A single run is its own launcher.
KINDS = {
    "random": ("launcher",),
    "joblib": ("worker", "launcher", "all"),
    "torchrun": ("worker", "launcher", "all"),
}
PHASES = ("training", "start")
GONE_S = 10.0  # seconds after which a killed launcher's other processes must have ended
# An environment variable by which a group's processes are found: they inherit it, and keep it when
# their parent has gone.
MARK = "KILLED_GROUP"


@dataclass(frozen=True)
class Group:
    """The processes that one command starts.

    `method`: the run's method, or those of a sweep's runs with commas between. `jobs`: the number
    of processes that train at once.
    """

    kind: str
    method: str
    jobs: int = 2

    def words(self, results: Path) -> list[str]:
        """Returns the command line of its launcher, program first."""
        words = small_words(results, f"method={self.method}", "budget=r2", "checkpoint_every=2")
        if self.kind == "joblib":
            return [
                "dora.run",
                "-m",
                "hydra/launcher=local",
                f"hydra.launcher.n_jobs={self.jobs}",
                *words,
            ]
        if self.kind == "random":
            return ["dora.run", *words]
        return [
            "dora.torchrun",
            "--standalone",
            f"--nproc_per_node={self.jobs}",
            "-m",
            "dora.run",
            *words,
        ]


def launch(words: Sequence[str], mark: str) -> None:
    """Runs `python -m WORDS` in this process as its launcher, without output."""
    from dora import run, torchrun
    from dora.process.command import command
    from dora.process.signals import outside

    # A shell's background job begins with SIGINT ignored, and so would every process it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outside.watch()
    os.environ[MARK] = mark
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.argv = list(words)
    try:
        command({"dora.run": run.main, "dora.torchrun": torchrun.main}[words[0]], prints_only=False)
    finally:
        # A forked process never reaches the interpreter's own end, at which a sweep's workers are
        # told to end.
        threading._shutdown()  # type: ignore[attr-defined]


def marked(mark: str) -> dict[int, str]:
    """Returns the command lines of the group's processes, alive or orphaned, by process id."""
    found = {}
    # By their environment: an orphan has another parent by now, and joblib's workers other groups.
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode()
        except OSError:  # it has just ended
            continue
    return {pid: words for pid, words in found.items() if words}  # a zombie has none


def workers(mark: str) -> list[int]:
    """Returns the process ids of the group's processes that train: joblib's or torchrun's."""
    return sorted(
        pid for pid, words in marked(mark).items() if "popen_loky" in words or " dora.run " in words
    )


def journals(results: Path) -> Iterator[Path]:
    """Returns the journals under `results`, one for each run that has begun to train."""
    return results.glob("runs/*/*/*/*/*/*/*/metrics.jsonl")


@dataclass
class Started:
    """A launcher at work. `results`: the folder of its runs. `began`: by the monotonic clock."""

    process: BaseProcess
    mark: str
    results: Path
    began: float

    def wait_for(self, phase: str) -> None:
        """Returns when the phase has begun, or the launcher has ended."""
        while (
            phase == "training"
            and self.process.exitcode is None
            and not any(journals(self.results))
        ):
            time.sleep(0.005)  # small beside a phase, which takes about a second

    def kill(self, victim: str, chance: random.Random) -> bool:
        """Kills the victim's processes; returns whether there were any."""
        assert self.process.pid is not None
        others = [] if victim == "launcher" else workers(self.mark)
        if victim == "worker":
            chosen = chance.sample(others, min(len(others), 1))
        else:
            chosen = [self.process.pid, *others]
        # Looked at last: a group that has ended by itself was not killed.
        if self.process.exitcode is not None:
            return False
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
        return bool(chosen)

    def left(self) -> list[str]:
        """Waits for all processes to end; kills those still there, and returns their commands."""
        self.process.join(60)  # a launcher that has lost a worker takes a while to notice
        self.process.kill()
        end = time.monotonic() + GONE_S
        while (there := marked(self.mark)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in there:
            os.kill(pid, signal.SIGKILL)
        return list(there.values())


def begin(context: ForkServerContext, group: Group, results: Path) -> Started:
    """Starts the group's launcher with a mark of its own."""
    mark = secrets.token_hex(8)
    # Random, so that processes of an earlier group are never taken for this one's.
    process = context.Process(target=launch, args=(group.words(results), mark))
    process.start()
    return Started(process, mark, results, time.monotonic())


def leave_alone(context: ForkServerContext, group: Group, results: Path) -> dict[str, float]:
    """Runs the group to its end, and returns the seconds that each phase took."""
    started = begin(context, group, results)
    started.wait_for("training")
    trains = time.monotonic()
    started.process.join()
    if started.process.exitcode:
        raise SystemExit(f"{group} left alone ended with exit code {started.process.exitcode}")
    return {"start": trains - started.began, "training": time.monotonic() - trains}


def differences(begun: Callable[[Path], Started], alone: Path, results: Path) -> list[str]:
    """Runs the same command again; returns the differences of its runs from those left alone."""
    again = begun(results)
    again.process.join()
    wrong = [f"exit code {again.process.exitcode} on resuming"] if again.process.exitcode else []
    # By the runs left alone: a run that is missing from the others is a difference too.
    for run in directories(alone):
        place = run.relative_to(alone)
        wrong += [f"{place}: {problem}" for problem in problems(run, results / place)]
    return wrong


def strike(
    begun: Callable[[Path], Started],
    victim: str,
    phase: str,
    seconds: float,
    folder: Path,
    chance: random.Random,
) -> tuple[Path, float, list[str]]:
    """Kills the victim in the phase; returns (results, seconds after its begin, problems)."""
    # If all was over before the kill, another turn in a folder of its own, with half the time.
    for turn in itertools.count():
        after = chance.uniform(0, seconds) / 2**turn
        started = begun(folder / f"turn-{turn}")
        started.wait_for(phase)
        time.sleep(after)
        struck = started.kill(victim, chance)
        if (left := started.left()) or struck:
            return (
                started.results,
                after,
                [f"not ended after {GONE_S:g} s: {words}" for words in left],
            )
    raise AssertionError("counting has no end")


def kill_groups(
    kind: str,
    kills: int,
    seed: int,
    methods: Sequence[str],
    folder: Path,
    say: Callable[[str], None],
) -> list[str]:
    """Kills groups of a kind; returns every problem with the kill that led to it."""
    context = forkserver()
    # One stream for each kind, so that more kills of one do not change those of another.
    chance = random.Random(f"{kind} {seed}")
    turns = itertools.cycle(
        Group(kind, m) for m in ([",".join(methods)] if kind == "joblib" else methods)
    )
    # Methods and blows turn at their own lengths, so that all pairs come up in time.
    blows = itertools.cycle(itertools.product(PHASES, KINDS[kind]))
    took: dict[Group, dict[str, float]] = {}
    found = []
    for i, group, (phase, victim) in zip(range(kills), turns, blows, strict=False):
        alone = folder / f"{kind}-{group.method.replace(',', '-')}"
        if group not in took:  # once a group: how long its phases take, and its runs left alone
            took[group] = leave_alone(context, group, alone)
        begun = functools.partial(begin, context, group)
        results, after, wrong = strike(
            begun, victim, phase, took[group][phase], folder / f"{kind}-{i}", chance
        )
        wrong += differences(begun, alone, results)
        what = f"{i + 1:3}  {kind:8} {group.method:8} {victim:8} "
        what += f"{1000 * after:5.0f} ms into its {phase}"
        say(f"{what}: {'; '.join(wrong) or 'equal'}")
        found += [f"{what}: {text}" for text in wrong]
    return found
