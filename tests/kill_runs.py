"""Kills runs with SIGKILL, resumes them and compares with runs left alone.

python tests/kill_runs.py [--kills 40] [--random 0] [--joblib 0] [--torchrun 0] [--seed 1]
                          [--methods lora,dora] [--folder DIR]

--kills: kills in chosen places. A place is a function of the loop. The kill comes at a line of
dora/ that runs in it: a line by chance, then by chance one of the times that it runs. The others
are kills at random times (see kill_groups.py): of single runs, of sweeps of all methods with two
workers, and of runs of two processes. Exits with 1 if a run was lost, or ended otherwise than one
left alone.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

from kill_groups import KINDS, kill_groups

import dora
from dora.configuration.method_choice import packaged, packaged_names
from dora.methods.base import overrides
from runs import forkserver, only_run, problems, small_words

PLACES = ("step", "evaluation", "checkpoint", "allocation", "export")
# Methods that decide after a step, and so may be killed while a change is applied.
# The server's sums of a federated round are such a decision, too.
ALLOCATING = tuple(
    name
    for name in packaged_names()
    if overrides(packaged(name).kind, "after_step") or packaged(name).kind.federated
)
SOURCES = str(Path(dora.__file__).parent) + os.sep
Line = tuple[str, int]


def of(method: str) -> tuple[str, str]:
    """Returns the words of a method's run: XGBLoRA's rounds need a small budget in 24 steps."""
    return f"method={method}", "budget=r2"


@dataclass(frozen=True)
class Kill:
    """A SIGKILL when `line` of a file of dora/ runs for the `turn`-th time inside `place`."""

    place: str
    line: Line
    turn: int


class Watch:
    """Watches the lines of dora/ that run inside places: counts them, or kills at one of them.

    To kill, it watches that one's place and file alone, since tracing takes time.
    """

    def __init__(self, kill: Kill | None) -> None:
        self.kill = kill
        self.seen: collections.Counter[tuple[str, Line]] = collections.Counter()
        self._inside: list[str] = []

    def on(self, owner: Any, name: str, place: str) -> None:
        """Makes the function `name` of `owner` a place that is watched."""
        if self.kill is not None and self.kill.place != place:
            return
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args: Any, **more: Any) -> Any:
            # Places lie within each other, so the trace function and the stack are restored.
            before = sys.gettrace()
            self._inside.append(place)
            sys.settrace(self._trace)
            try:
                return original(*args, **more)
            finally:
                sys.settrace(before)
                self._inside.pop()

        setattr(owner, name, watched)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        """Is the trace function: returns itself for functions whose lines are to be seen."""
        file = frame.f_code.co_filename
        if not file.startswith(SOURCES if self.kill is None else SOURCES + self.kill.line[0]):
            return None
        if event == "line":
            line = (file.removeprefix(SOURCES), frame.f_lineno)
            # An allocation is part of a step, and the last evaluations are part of the export.
            for place in self._inside:
                self.seen[place, line] += 1
                if self.kill == Kill(place, line, self.seen[place, line]):
                    os.kill(os.getpid(), signal.SIGKILL)
        return self._trace


def train(words: Sequence[str], kill: Kill | None, counts: Path | None) -> None:
    """Runs `python -m dora.run WORDS` under watch, in this process, and exits as it does."""
    from dora import run
    from dora.training import one_run
    from dora.training.federated_loop import FederatedLoop
    from dora.training.loop import Loop
    from dora.training.step import Stepper

    watch = Watch(kill)
    if kill is not None or counts is not None:
        watch.on(Loop, "train_step", "step")
        watch.on(Stepper, "apply", "allocation")
        watch.on(FederatedLoop, "_serve", "allocation")
        watch.on(Loop, "evaluate_and_select", "evaluation")
        watch.on(Loop, "save", "checkpoint")
        watch.on(one_run, "finish", "export")
    # The run's lines would mix with the study's own.
    output = os.open(os.devnull, os.O_WRONLY)
    os.dup2(output, 1)
    sys.argv = ["dora.run", *words]
    run.main()
    # Through a file: a forked process returns nothing but its exit code.
    if counts is not None:
        counts.write_text(
            json.dumps([[place, *line, n] for (place, line), n in watch.seen.items()])
        )


def start(
    context: ForkServerContext,
    words: Sequence[str],
    kill: Kill | None = None,
    counts: Path | None = None,
) -> int:
    """Runs `train` in another process, and returns its exit code."""
    process = context.Process(target=train, args=(words, kill, counts))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def schedule(kills: int, methods: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (method, place) of every kill: all places in turn, and in each all methods in turn.

    A method that never allocates is not killed in an allocation. Each place begins with another
    method, so that a few kills reach all of them.
    """
    able = {}
    for i, place in enumerate(PLACES):
        first = i * len(methods) // len(PLACES)
        turned = [*methods[first:], *methods[:first]]
        able[place] = [m for m in turned if place != "allocation" or m in ALLOCATING]
    turns = {place: itertools.cycle(able[place]) for place in PLACES if able[place]}
    places = itertools.cycle(turns)
    return [(next(turns[place]), place) for place in itertools.islice(places, kills)]


def study(
    kills: int, seed: int, methods: Sequence[str], folder: Path, say: Callable[[str], None]
) -> list[str]:
    """Carries out the kills in places; returns every problem with the kill that led to it."""
    context = forkserver()
    chance = random.Random(seed)
    alone: dict[str, Path] = {}
    ran: dict[str, list[list[Any]]] = {}
    for method in methods:
        counts = folder / f"{method}.json"
        # Left alone, and every line counted: a kill can then be drawn among all that run.
        code = start(context, small_words(folder / method, *of(method)), counts=counts)
        if code:
            raise SystemExit(f"{method} left alone ended with exit code {code}")
        alone[method], ran[method] = only_run(folder / method), json.loads(counts.read_text())
    found = []
    for i, (method, place) in enumerate(schedule(kills, methods)):
        _, file, number, times = chance.choice([line for line in ran[method] if line[0] == place])
        kill = Kill(place, (file, number), chance.randint(1, times))
        results = folder / f"kill-{i}"
        # Checkpoints that the run left alone did not write, which must not show in any file.
        words = small_words(results, *of(method), "checkpoint_every=2")
        what = f"{i + 1:3}  {method:8} {place:11} {file}:{number}, time {kill.turn} of {times}"
        code = start(context, words, kill)
        # A kill that missed would let the test pass for nothing.
        wrong = [] if code == -signal.SIGKILL else [f"not killed: exit code {code}"]
        code = start(context, words)
        wrong += [f"exit code {code} on resuming"] if code else []
        wrong += problems(alone[method], only_run(results))
        resumed = json.loads((only_run(results) / "run.json").read_text())["resumed_from"]
        say(f"{what}; resumed from {resumed}: {'; '.join(wrong) or 'equal'}")
        found += [f"{what}: {text}" for text in wrong]
    return found


def main() -> None:
    """Prints a line for every kill; exits with 1 if anything was lost or differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    for name in KINDS:
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", default=",".join(packaged_names()))
    parser.add_argument(
        "--folder", type=Path, help="where the runs go (default: a temporary folder)"
    )
    given = parser.parse_args()
    methods = given.methods.split(",")
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = given.folder or Path(temporary)
        found = study(given.kills, given.seed, methods, folder, _say) if given.kills else []
        for kind in KINDS:
            found += kill_groups(kind, getattr(given, kind), given.seed, methods, folder, _say)
    kills = given.kills + sum(getattr(given, kind) for kind in KINDS)
    print(f"{kills} kills: {len(found)} problems")
    sys.exit(1 if found else 0)


def _say(text: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
