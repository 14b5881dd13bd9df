"""Plans a sweep before its first run, and reports at its end how each run ended."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dora.cli import remaining
from dora.cli.summary import labels, score_table
from dora.configuration.config import MAX_SEED, Config
from dora.data.predictions import unpredicted
from dora.errors import NotNow, RunFailed, Stopped, UserError, reason
from dora.plain import counted, duration, printable
from dora.preparing import precision
from dora.preparing.notes import embedded_note, notes_on
from dora.preparing.prepare import Prepared, prepare
from dora.process.signals import outside
from dora.records import estimate, study
from dora.records.cleaning import tidy
from dora.records.place import place_of
from dora.records.planned import note_planned
from dora.records.run_json import read_done

Words = tuple[str, ...]
# States of a run that is not done and did not go wrong: the same sweep goes on with it.
_HARMLESS = {"stopped", "running", "waiting"}


@dataclass(frozen=True)
class SweepRun:
    """Describes one run of a sweep without its data, which for all runs may not fit into memory.

    `folder`: its directory, or the one that its packed record is unpacked into. `settings`: its
    configuration as it is recorded. `force`: whether it starts afresh. `notes`: lines to show
    before the sweep begins. `precision`: such a line on the precision; None for a run on another
    machine, which says it itself. `auto`: its precision is the one that `precision=auto` stands
    for. `words`: the words that name it. `lacks`: whether it is done but lacks predictions of rows
    that came later, such as AX. `embedded`: whether its model or its data are the package's.
    """

    folder: Path
    settings: dict[str, Any]
    force: bool
    notes: tuple[str, ...]
    precision: str | None
    auto: bool
    words: Words
    lacks: bool = False
    embedded: bool = False

    @property
    def done(self) -> bool:
        """Tells whether nothing is left to do for this run."""
        return not self.force and not self.lacks and read_done(self.folder) is not None


@dataclass
class Sweep:
    """Holds the runs of one sweep, by their words.

    `options`: options that the command of each of them begins with. `folders`: the directory of
    each run by its words as they were typed. `search`: the runs are candidates of a search, for
    which to diverge is an outcome. `began`: by the monotonic clock, in seconds.
    """

    runs: dict[Words, SweepRun]
    options: Words = ()
    folders: Mapping[Words, Path] = field(default_factory=dict)
    search: bool = False
    began: float = field(default_factory=time.monotonic)

    def begin(self) -> list[list[str]]:
        """Prints how far the study is, notes the planned runs, and returns the words of each."""
        for note in dict.fromkeys(note for p in self.runs.values() for note in p.notes):
            print(note)
        pending = {words: p for words, p in self.runs.items() if not self._settled(p)}
        for text in dict.fromkeys(p.precision for p in pending.values() if p.precision):
            print(text)
        for words, p in self.runs.items():
            if words in pending:
                # From here on `dora.status` knows the run, and with which command to train it.
                note_planned(p.folder, (*self.options, *words), p.settings, p.auto)
            else:
                tidy(p.folder)
        lacking = sum(p.lacks for p in pending.values())
        more = f", {lacking:,} done before and to predict rows that came later" if lacking else ""
        done, to_train = len(self.runs) - len(pending), len(pending) - lacking
        print(
            f"{counted(len(self.runs), 'run')}: {done:,} done before, "
            f"{to_train:,} to train{more}{self._estimate(pending)}",
            flush=True,  # launchers start processes, which write to the same stream
        )
        return [list(words) for words in pending]

    def _estimate(self, pending: Mapping[Words, SweepRun]) -> str:
        """Returns `; left: about 12 min of training, 9 runs`, empty where no run tells."""
        if len(pending) == len(self.runs):  # none is done
            return ""
        seen = {words: study.look(p.folder) for words, p in self.runs.items()}
        left = estimate.left_of([seen[words] for words in pending], seen.values(), at_once=1)
        return "" if left is None else f"; left: {estimate.in_words(left)}"

    def said_in_lines(
        self, folder: Path, pending: Sequence[Sequence[str]]
    ) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which each run says at its end what is left of the sweep.

        `folder`: for a file that notes the runs. `pending`: what `begin` returned.
        """
        places = [p.folder for p in self.runs.values()]
        what = "round" if self.search else "sweep"
        return remaining.noted(
            folder, places, [self.runs[tuple(words)].folder for words in pending], what
        )

    def _settled(self, p: SweepRun) -> bool:
        """Tells whether nothing is left to do for a run."""
        return p.done or (self.search and not p.force and study.look(p.folder).state == "diverged")

    def labels(self, pending: Sequence[Sequence[str]]) -> list[str]:
        """Returns the name that each run to be trained has in its lines."""
        places = {words: place_of(p.folder) for words, p in self.runs.items()}
        return labels(places, [tuple(words) for words in pending])

    def end(self, failures: Mapping[Words, BaseException], lost: BaseException | None) -> None:
        """Prints how each run ended, with the command that repeats each that is not done.

        `failures`: the errors that runs raised. `lost`: the error that the launcher raised, which
        says nothing about single runs. Raises Stopped if runs were only stopped or others are at
        work on them, and RunFailed if anything else kept one from its end.
        """
        seen = {words: study.look(p.folder) for words, p in self.runs.items()}
        ended = {"done", "diverged"} if self.search else {"done"}
        left = {words: s for words, s in seen.items() if s.state not in ended}
        if not self.search:  # it shows held-out scores instead
            self._print_scores(seen)
        took = duration(time.monotonic() - self.began)
        counts = study.in_words(study.count(seen.values()))
        print(f"\nafter {took}, {counted(len(self.runs), 'run')}: {counts}")
        if lost is not None:
            print(f"the launcher ended with {printable(reason(lost))}")
        if not left:
            return
        for words, s in left.items():
            self._print_left(words, s, failures.get(words))
        text = (
            f"{len(left)} of {len(self.runs)} runs are not done; the same sweep goes on with them"
        )
        if any(p.force for p in self.runs.values()):
            text += ", and with force=true trains the others once more"
        only_stopped = lost is None and all(
            _only_stopped(s, failures.get(words)) for words, s in left.items()
        )
        raise Stopped(text) if outside.stopping or only_stopped else RunFailed(text)

    def _print_scores(self, seen: Mapping[Words, study.Seen]) -> None:
        """Prints the scores of all runs that have one, and the command that shows more of them."""
        rows = score_table(seen)
        if not rows:
            return
        any_embedded = any(p.embedded for p in self.runs.values())
        embedded = " (embedded model or data)" if any_embedded else ""
        print(f"\nbest scores in points, mean over seeds (runs){embedded}", *rows, sep="\n")
        # Several in a sweep over `results` itself.
        for results in dict.fromkeys(p.settings["results"] for p in self.runs.values()):
            print(f"with deviations and differences: {study.command_over(Path(results), 'tables')}")

    def _print_left(self, words: Words, s: study.Seen, raised: BaseException | None) -> None:
        """Prints why a run is not done, and the command that repeats it."""
        # A run that was refused, or never got as far as its record, has no reason of this sweep
        # in its record, only the error that it raised.
        recorded = s.state in ("failed", "diverged") or raised is None
        first = study.first_line(s.state, s.reason if recorded else str(raised))
        # A record that cannot be read is not overwritten unless the user says so.
        forced = s.state == "broken" and "force=true" not in words
        again = (*words, "force=true") if forced else words
        shown = dataclasses.replace(s, words=(*self.options, *again), folder=None)
        print(f"  {s.state}: {first}\n    {shown.command}")


def _only_stopped(s: study.Seen, raised: BaseException | None) -> bool:
    """Tells whether the same sweep, started again, may get this run done without any change."""
    if isinstance(raised, NotNow):
        return True
    # A run that still waits got no record: it raised Stopped or nothing, else it went wrong.
    if s.state == "waiting" and raised is not None and not isinstance(raised, Stopped):
        return False
    return s.state in _HARMLESS


def plan(
    jobs: Sequence[Sequence[str]],
    compose: Callable[[Sequence[str]], Config],
    options: Words = (),
    here: bool = True,
    search: bool = False,
    said: Sequence[str] = (),
) -> Sweep:
    """Checks every run of a sweep before the first begins.

    Raises UserError with all problems of all runs. Runs that differ in their seed alone share
    everything that takes time to find out. Runs with one directory, such as full fine-tuning at
    two budgets, are one run. `here`: they are trained on this machine. `said`: problems of the sweep
    itself.
    """
    groups = _by_all_but_seed(jobs)
    configs = {
        group: compose(group if len(members) > 1 else members[0][0])
        for group, members in groups.items()
    }
    planned: dict[Words, SweepRun] = {}
    problems: dict[str, list[Words]] = defaultdict(list)
    # Sorted by data: each task's data are read once, since `prepare` keeps the last ones alone.
    for group in sorted(groups, key=lambda group: _data_of(configs[group])):
        # A seed that is alone in its group is in the configuration, which `prepare` checks.
        several = len(groups[group]) > 1
        bad = {words: seed for words, seed in groups[group] if several and not _is_seed(seed)}
        for words, seed in bad.items():
            text = f"seed={seed} must be a whole number from 0 to {MAX_SEED}"
            problems[text].append(words)
        try:
            first = prepare(configs[group], here, group)
        except UserError as e:
            for problem in e.problems:
                problems[problem].append(group)
            continue
        for words, seed in groups[group]:
            if words not in bad:
                own = first.of_seed(int(seed)) if several and seed else first
                # To diverge once is the outcome of a search's candidate.
                folder = own.record_folder(1) if search else own.record_folder()
                planned[words] = _sweep_run(own, folder, words, here)
    if said or problems:
        raise UserError(*said, *_with_places(problems, len(groups)))
    in_order = {words: planned[words] for words in map(tuple, jobs)}
    folders = {words: p.folder for words, p in in_order.items()}
    return Sweep(_one_a_folder(in_order.values()), options, folders, search)


def _one_a_folder(runs: Iterable[SweepRun]) -> dict[Words, SweepRun]:
    """Returns the first run of each directory by its words, with the notes of all that name it."""
    found: dict[Path, SweepRun] = {}
    for p in runs:
        first = found.get(p.folder, p)
        # The words of each may hold another setting without effect.
        notes = tuple(dict.fromkeys((*first.notes, *p.notes)))
        found[p.folder] = dataclasses.replace(first, notes=notes)
    return {p.words: p for p in found.values()}


def _is_seed(text: str | None) -> bool:
    return text is None or (text.isdecimal() and int(text) <= MAX_SEED)


def _by_all_but_seed(
    jobs: Sequence[Sequence[str]],
) -> dict[Words, list[tuple[Words, str | None]]]:
    """Groups runs that differ in their seed alone: their other words → (all words, seed).

    The seed is None if the group has no other: then it is part of the group's words, if anywhere.
    """
    groups: dict[Words, list[tuple[Words, str | None]]] = defaultdict(list)
    for job in jobs:
        seed = next((w.removeprefix("seed=") for w in job if w.startswith("seed=")), None)
        # The value of an interpolation may follow from the seed, and differ with it.
        if seed is None or any("${" in word for word in job):
            groups[tuple(job)].append((tuple(job), None))
        else:
            group = tuple(word for word in job if not word.startswith("seed="))
            groups[group].append((tuple(job), seed))
    return groups


def _data_of(config: Config) -> tuple[str, str, str]:
    return config.data.source, str(config.data.dir), config.task.name


def _sweep_run(p: Prepared, folder: Path, words: Words, here: bool) -> SweepRun:
    """Returns the description of a prepared run; reads its record in `folder`, if it is done."""
    c = p.config
    # In this order: looking for rows without predictions is cheap if the run has no record.
    lacks = not c.force and bool(unpredicted(folder, p.rows)) and read_done(folder) is not None
    text = precision.line(c.precision, c.device, p.auto) if here else None
    if p.auto and not here:
        text = (
            f"precision {c.precision} for precision=auto: the machines that train are not known "
            "here; precision=bf16 or precision=fp32 chooses"
        )
    return SweepRun(
        folder=folder,
        settings=p.settings,
        force=c.force,
        notes=notes_on(p, here),
        precision=text,
        auto=p.auto,
        words=p.words(words),
        lacks=lacks,
        embedded=embedded_note(c) is not None,
    )


def _with_places(problems: Mapping[str, list[Words]], total: int) -> Iterator[str]:
    """Yields each problem, with an example of a combination if not all of them have it."""
    for text, where in problems.items():
        if len(where) == total:
            yield text
        else:
            example = " ".join(where[0])
            yield f"{text} (in {len(where)} of {total} combinations, such as {example})"
