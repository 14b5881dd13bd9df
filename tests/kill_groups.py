"""Kills at random times, counted from the start or from when training began: of runs by themselves, of a sweep's workers
on this machine, of torchrun's processes, and of who launched them. Then the same command again.
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

from dora.records import study
from runs import forkserver, problems, small_words

# Whom a kill of each kind may hit. A run by itself is its own launcher.
KINDS = {
    "random": ("launcher",),
    "joblib": ("worker", "launcher", "all"),
    "torchrun": ("worker", "launcher", "all"),
}
PHASES = ("training", "start")
GONE_S = 10.0  # what a launcher that was killed leaves behind has ended by then
MARK = "KILLED_GROUP"  # a variable that the launcher's processes inherit, whatever becomes of their parent


@dataclass(frozen=True)
class Group:
    """Processes that one command starts. `method`: of its run, or of each run of a sweep, with commas between.

    `jobs`: how many processes train at once.
    """

    kind: str
    method: str
    jobs: int = 2

    def words(self, results: Path) -> list[str]:
        """The command line of its launcher, program first."""
        words = small_words(results, f"method={self.method}", "checkpoint_every=2")
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
    """What a launcher's process does: `python -m WORDS`, its output thrown away."""
    from dora import run, torchrun
    from dora.process.command import command
    from dora.process.signals import outside

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job begins with it ignored
    outside.watch()
    os.environ[MARK] = mark
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.argv = list(words)
    try:
        command({"dora.run": run.main, "dora.torchrun": torchrun.main}[words[0]], prints_only=False)
    finally:
        # An interpreter's end, which a forked process does not come to: it has a sweep's workers end.
        threading._shutdown()  # type: ignore[attr-defined]


def marked(mark: str) -> dict[int, str]:
    """The launcher's processes, alive or orphaned, each with its command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
        except OSError:  # it has just ended
            continue
    return {pid: words for pid, words in found.items() if words}  # a zombie has none


def workers(mark: str) -> list[int]:
    """Those that train."""
    return sorted(
        pid for pid, words in marked(mark).items() if "popen_loky" in words or " dora.run " in words
    )


def journals(results: Path) -> Iterator[Path]:
    """One for each run that has begun to train."""
    return results.glob("runs/*/*/*/*/*/*/*/metrics.jsonl")


@dataclass
class Started:
    """A launcher at work. `results`: where its runs go."""

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
            time.sleep(0.005)

    def kill(self, victim: str, chance: random.Random) -> bool:
        """Whether anybody was there to be killed."""
        assert self.process.pid is not None
        others = [] if victim == "launcher" else workers(self.mark)
        if victim == "worker":
            chosen = chance.sample(others, min(len(others), 1))
        else:
            chosen = [self.process.pid, *others]
        if self.process.exitcode is not None:
            return False
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
        return bool(chosen)

    def left(self) -> list[str]:
        """Waits for the end of all; the command lines of those that are still there too late, which it kills."""
        self.process.join(60)  # of a launcher that has lost a worker
        self.process.kill()
        end = time.monotonic() + GONE_S
        while (there := marked(self.mark)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in there:
            os.kill(pid, signal.SIGKILL)
        return list(there.values())


def begin(context: ForkServerContext, group: Group, results: Path) -> Started:
    """Starts the group's launcher."""
    mark = secrets.token_hex(8)
    process = context.Process(target=launch, args=(group.words(results), mark))
    process.start()
    return Started(process, mark, results, time.monotonic())


def leave_alone(context: ForkServerContext, group: Group, results: Path) -> dict[str, float]:
    """Runs the group to its end; how many seconds each phase took."""
    started = begin(context, group, results)
    started.wait_for("training")
    trains = time.monotonic()
    started.process.join()
    if started.process.exitcode:
        raise SystemExit(f"{group} left alone ended with exit code {started.process.exitcode}")
    return {"start": trains - started.began, "training": time.monotonic() - trains}


def differences(begun: Callable[[Path], Started], alone: Path, results: Path) -> list[str]:
    """How runs that were ended, taken up by the same command again, differ from those left alone."""
    again = begun(results)
    again.process.join()
    wrong = [f"exit code {again.process.exitcode} on resuming"] if again.process.exitcode else []
    for run in study.directories(alone):
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
    """Kills the victim in the phase, sooner where all was over: (results, seconds after its begin, what is wrong)."""
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
    """Kills that many groups of a kind; every problem found, with the kill that led to it."""
    context = forkserver()
    chance = random.Random(f"{kind} {seed}")
    turns = itertools.cycle(
        Group(kind, m) for m in ([",".join(methods)] if kind == "joblib" else methods)
    )
    blows = itertools.cycle(itertools.product(PHASES, KINDS[kind]))
    took: dict[Group, dict[str, float]] = {}
    found = []
    for i, group, (phase, victim) in zip(range(kills), turns, blows, strict=False):
        alone = folder / f"{kind}-{group.method.replace(',', '-')}"
        if group not in took:
            took[group] = leave_alone(context, group, alone)
        begun = functools.partial(begin, context, group)
        results, after, wrong = strike(
            begun, victim, phase, took[group][phase], folder / f"{kind}-{i}", chance
        )
        wrong += differences(begun, alone, results)
        what = f"{i + 1:3}  {kind:8} {group.method:8} {victim:8} {1000 * after:5.0f} ms into its {phase}"
        say(f"{what}: {'; '.join(wrong) or 'equal'}")
        found += [f"{what}: {text}" for text in wrong]
    return found
