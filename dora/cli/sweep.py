"""A sweep before and after its runs: which there are, what is wrong with them, what became of each."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dora.cli.summary import labels, score_table
from dora.config import MAX_SEED, Config
from dora.data.predictions import unpredicted
from dora.errors import NotNow, RunFailed, Stopped, UserError
from dora.plain import printable
from dora.process.signals import outside
from dora.records import study
from dora.records.cleaning import tidy
from dora.records.planned import note_planned
from dora.records.run_json import read_done
from dora.training.lines import embedded_note
from dora.training.prepare import prepare

Words = tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: its directory, its configuration as it is recorded, whether it starts afresh, what must be
    said of it, and whether a done one lacks predictions of rows that came later, such as AX.

    Not its data: those of all runs of a sweep may be more than fit into memory.
    """

    folder: Path
    settings: dict[str, Any]
    force: bool
    notes: tuple[str, ...]
    lacks: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for it."""
        return not self.force and not self.lacks and read_done(self.folder) is not None


@dataclass
class Sweep:
    """The runs of one sweep by what was typed for each. `options`: what each of their commands begins with."""

    runs: dict[Words, Planned]
    options: Words = ()
    began: float = field(default_factory=time.monotonic)

    def begin(self) -> list[list[str]]:
        """Says how far the study is and notes what is planned; returns the words of every run not done."""
        for note in dict.fromkeys(note for p in self.runs.values() for note in p.notes):
            print(note)
        pending = {w: p for w, p in self.runs.items() if not p.done}
        for p in (p for w, p in self.runs.items() if w not in pending):
            tidy(p.folder)
        for words, p in pending.items():
            note_planned(p.folder, (*self.options, *words), p.settings)
        lacking = sum(p.lacks for p in pending.values())
        more = f", {lacking:,} done before and to predict rows that came later" if lacking else ""
        print(
            f"{study.runs_in_words(len(self.runs))}: {len(self.runs) - len(pending):,} done before, "
            f"{len(pending) - lacking:,} to train{more}",
            flush=True,
        )
        return [list(words) for words in pending]

    def labels(self, pending: Sequence[Sequence[str]]) -> list[str]:
        """What each run to be trained is called in its lines."""
        return labels(
            {w: study.place(p.folder) for w, p in self.runs.items()}, [tuple(w) for w in pending]
        )

    def end(self, failures: Mapping[Words, BaseException], lost: BaseException | None) -> None:
        """Prints what became of the runs, with the command that repeats each that is not done.

        `failures`: what a run raised. `lost`: what the launcher raised, which says nothing of single runs.
        Raises RunFailed or, where runs were only stopped or others are at work on them, Stopped.
        """
        seen = {words: study.look(p.folder) for words, p in self.runs.items()}
        open_ones = {words: s for words, s in seen.items() if s.state != "done"}
        self._print_scores(seen)
        took = study.duration(time.monotonic() - self.began)
        print(
            f"\nafter {took}, {study.runs_in_words(len(self.runs))}: {study.in_words(study.count(seen.values()))}"
        )
        if lost is not None:
            print(f"the launcher ended with {type(lost).__name__}: {str(lost).splitlines()[0]}")
        if not open_ones:
            return
        for words, s in open_ones.items():
            raised = failures.get(words)
            # A run that was refused, or never got as far as its record, says so only by what it raised.
            reason = (
                s.reason if s.state in ("failed", "diverged") or raised is None else str(raised)
            )
            again = ("force=true",) if s.state == "broken" and "force=true" not in words else ()
            typed = (*self.options, *words, *again)
            shown = dataclasses.replace(s, words=typed, folder=None)  # typed by the user
            first = printable(
                (reason or "no reason given").splitlines()[0].removeprefix(f"{s.state}: ")
            )
            print(f"  {s.state}: {first}\n    {shown.command}")
        text = f"{len(open_ones)} of {len(self.runs)} runs are not done; the same sweep goes on with them"
        if any(p.force for p in self.runs.values()):
            text += ", and with force=true trains the others once more"
        harmless = {"stopped", "running", "waiting"}
        if outside.stopping or (
            lost is None
            and all(
                s.state in harmless or isinstance(failures.get(w), NotNow)
                for w, s in open_ones.items()
            )
            and not _wrong(failures, open_ones)
        ):
            raise Stopped(text)
        raise RunFailed(text)

    def _print_scores(self, seen: Mapping[Words, study.Seen]) -> None:
        """Prints the scores that there are and the command for all that can be said of them."""
        rows = score_table(seen)
        if not rows:
            return
        embedded = " (embedded model or data)" if any(p.notes for p in self.runs.values()) else ""
        print(f"\nbest scores in points, mean over seeds (runs){embedded}", *rows, sep="\n")
        results = next(iter(self.runs.values())).settings["results"]
        print(f"with deviations and differences: {study.tables_command(Path(results))}")


def _notes(config: Config) -> tuple[str, ...]:
    return tuple(filter(None, (embedded_note(config), config.model.note)))


def _wrong(failures: Mapping[Words, BaseException], open_ones: Mapping[Words, study.Seen]) -> bool:
    """Whether a run that did not get to its record raised something else than a stop or a refusal."""
    return any(
        open_ones[w].state == "waiting" and not isinstance(e, Stopped)
        for w, e in failures.items()
        if w in open_ones
    )


def plan(
    jobs: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], Config], options: Words = ()
) -> Sweep:
    """Checks every run of a sweep before the first begins. Raises UserError with all problems of all of them.

    Runs that differ in their seed alone share everything that takes time to find out. Runs that come to the
    same directory, such as full fine-tuning at two budgets, are one.
    """
    groups: dict[Words, list[tuple[Words, str | None]]] = defaultdict(list)
    for job in jobs:
        seed = next((w.removeprefix("seed=") for w in job if w.startswith("seed=")), None)
        if any(
            "${" in word for word in job
        ):  # what follows from the seed differs with it: a group by itself
            groups[tuple(job)].append((tuple(job), None))
            continue
        groups[tuple(w for w in job if not w.startswith("seed="))].append((tuple(job), seed))
    configs = {
        g: compose(g if len(members) > 1 else members[0][0]) for g, members in groups.items()
    }

    def data(group: Words) -> tuple[str, str, str]:
        c = configs[group]
        return c.data.name, str(c.data.dir), c.task.name

    planned: dict[Words, Planned] = {}
    problems: dict[str, list[Words]] = defaultdict(list)
    for group in sorted(groups, key=data):  # each task's data are read once
        try:
            first = prepare(configs[group], here=False)
        except UserError as e:
            for problem in e.problems:
                problems[problem].append(group)
            continue
        for words, seed in groups[group]:
            p = first
            if seed is not None and len(groups[group]) > 1:
                if not seed.isdigit() or int(seed) > MAX_SEED:
                    problems[f"seed={seed} must be a whole number from 0 to {MAX_SEED}"].append(
                        words
                    )
                    continue
                p = dataclasses.replace(
                    first, config=dataclasses.replace(first.config, seed=int(seed))
                )
            lacks = (
                not p.config.force
                and bool(unpredicted(p.folder, p.rows))
                and read_done(p.folder) is not None
            )
            planned[words] = Planned(p.folder, p.settings, p.config.force, _notes(p.config), lacks)
    if problems:
        raise UserError(
            *(
                text
                if len(where) == len(groups)
                else f"{text} (in {len(where)} of {len(groups)} combinations, such as {' '.join(where[0])})"
                for text, where in problems.items()
            )
        )
    runs: dict[Path, tuple[Words, Planned]] = {}
    for words in map(tuple, jobs):
        runs.setdefault(planned[words].folder, (words, planned[words]))
    return Sweep(dict(runs.values()), options)
