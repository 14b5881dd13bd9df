"""The searches of one `python -m dora.tune`: the runs of each round, and what was found.

Every method of every task and budget gets as many candidates, and each candidate as many seeds.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dora.analysis.figures.searches import score_by_rate
from dora.analysis.figures.style import images
from dora.analysis.searches import heldout, heldout_loss, in_order
from dora.analysis.tables.layout import as_csv
from dora.analysis.tables.searches import table
from dora.cli.search_rule import Candidate, OpenSearch, first_rates
from dora.cli.spelling import in_grammar
from dora.configuration import search_file
from dora.configuration.check import check
from dora.configuration.config import Config, holder
from dora.configuration.method_choice import TUNE
from dora.configuration.rates_from import METHOD_FILE, searched_with
from dora.configuration.search_file import Key, Search
from dora.errors import UserError
from dora.files import alone, write_atomic
from dora.plain import counted
from dora.records import study
from dora.records.provenance import provenance
from dora.records.record import writable
from dora.records.run_json import read_done
from dora.records.words import key_of

FEWEST = 3  # with two candidates both would lie at an edge
CHOICES = "choices.json"
_MADE = ("command", "host", "platform", "git")  # what a search says of its origin
# Keys that a search sets itself. `rates_from` would be what it is about to find.
_OWN = ("lr", "seed", "select", "results", "rates_from")
# Keys among these that a search has no use for, with the reason and what to do. An experiment may set
# them for the study to come; on the command line of a search they can only be a mistake.
_REFUSED = {
    "lr": "a search tries rates of its own: to begin elsewhere give model.lr.METHOD, or "
    "rates.TASK.METHOD where the experiment has rates",
    "seed": "--seeds gives the seeds of each candidate, as --seeds 1,2",
    "select": "a search always selects on rows held out of the training set: leave it out",
    "rates_from": "a search finds the rates that such a file holds: leave it out",
}
# Keys that a run's record leaves out, or holds under a name alone.
_UNRECORDED = ("data.dir", "init_from", "model.path", "model.hub", "model.revision")


class Tuning:
    """All searches of one command.

    `grid`: the words of every run of the study to come. `typed`: the words of the command line,
    without those that an experiment adds to the grid.
    """

    def __init__(
        self,
        grid: Sequence[Sequence[str]],
        compose: Callable[[Sequence[str]], Config],
        candidates: int,
        seeds: Sequence[int],
        typed: Sequence[str] = (),
    ) -> None:
        problems = [
            f"{word}: {_REFUSED[key]}" for word in typed if (key := key_of(word)) in _REFUSED
        ]
        if not seeds or len(set(seeds)) < len(seeds):
            problems.append(f"seeds={list(seeds)} must be one or more different seeds")
        # Without the file that is about to be made, which an experiment may name.
        kept = dict.fromkeys((*self._common(job), "rates_from=null") for job in grid)
        composed = {words: compose(words) for words in kept}
        problems += [text for config in composed.values() for text in check(config)]
        problems += _too_few(candidates, composed.values())
        problems += _out_of_range(composed.values())
        folders = {word for job in grid for word in job if key_of(word) == "results"}
        if len(folders) > 1:
            problems.append(f"{', '.join(sorted(folders))}: a search has one folder; give one")
        if problems:
            raise UserError(*dict.fromkeys(problems))
        self.candidates, self.seeds = candidates, tuple(seeds)
        self.folder = Path(compose(grid[0]).results) / "search"
        self.groups: dict[Key, OpenSearch] = {}
        self._configs: dict[Key, Config] = {}  # of the first run of each
        self._round: dict[Key, list[Candidate]] = {}  # the round that `jobs` has begun
        for words, config in composed.items():
            self._add(words, config)
        # Before the first round: a file that cannot be read, and one that would lose scores.
        if lost := list(self._lost()):
            raise UserError(*lost)
        earlier = self._held()
        for each in self.groups.keys() & earlier.keys():
            self.groups[each].held = tuple(sorted(earlier[each].scores))

    @staticmethod
    def _common(job: Sequence[str]) -> list[str]:
        """Returns the words of a run less those that a search sets itself."""
        return [word for word in job if key_of(word) not in _OWN]

    def _add(self, words: tuple[str, ...], config: Config) -> None:
        """Adds the search of a run, unless it is there, as full fine-tuning at a second budget.

        Raises UserError if runs of one search differ in a setting: its file has one rate for all.
        """
        key = config.search_key
        first = self._configs.setdefault(key, config)
        if first is config:
            # A run does not depend on what a search tries, and a record may not hold the key.
            kept = [word for word in words if key_of(word) != f"method.{TUNE}"]
            own = (*kept, "select=heldout", in_grammar(f"results={self.folder}", False))
            name, values = config.chosen.tried or (None, ())
            begun = Search(
                key,
                self.seeds,
                scores={},
                setting=name,
                default=getattr(config.chosen.settings, name) if name else None,
                settings=searched_with(config),
            )
            self.groups[key] = OpenSearch(own, begun, config.learning_rate(), values)
            return
        known = _settings(first)
        if other := [k for k, value in _settings(config).items() if value != known[k]]:
            raise UserError(
                f"{key.task} with {key.method} is to be searched with several values of "
                f"{', '.join(other)}: a search has one rate for a model, task, method, budget, "
                "length and data; give one value, and another results= for another search"
            )

    def jobs(self) -> list[list[str]]:
        """Returns the words of every run of the next round; none once all candidates are tried."""
        self._round = {key: group.next(self.candidates) for key, group in self.groups.items()}
        return [
            list(self.groups[key].words_of(candidate, seed))
            for key, candidates in self._round.items()
            for candidate in candidates
            for seed in self.seeds
        ]

    def round_in_words(self) -> str:
        """Returns a line on the round that `jobs` has begun."""
        more = sum(map(len, self._round.values()))
        left = sum(map(bool, self._round.values()))
        return (
            f"{left} of {len(self._round)} searches have fewer than {self.candidates} candidates: "
            f"{more} more, with {counted(len(self.seeds), 'seed')} each"
        )

    def take(self, folders: Mapping[tuple[str, ...], Path]) -> None:
        """Reads the scores of the round's runs; `folders`: their directories by their words.

        A run that diverged has no score. Raises UserError for one that is neither done nor has
        diverged.
        """
        for key, candidates in self._round.items():
            group = self.groups[key]
            for candidate in candidates:
                each = [group.words_of(candidate, seed) for seed in self.seeds]
                found = [_found(folders[its]) for its in each]
                group.take(candidate, *zip(*found, strict=True))

    def searches(self) -> list[Search]:
        """Returns all searches of this command in the order of tables."""
        made = {key: value for key, value in provenance().items() if key in _MADE}
        return in_order(replace(group.found, made=made) for group in self.groups.values())

    def _held(self) -> dict[Key, Search]:
        """Returns all searches that the file in this folder holds."""
        file = self.folder / CHOICES
        return search_file.read(file) if file.exists() else {}

    def _lost(self) -> Iterator[str]:
        """Yields a message for each search of the file that this one would not go on with.

        It is asked before the first round, and again after the last, with the rates tried by then.
        """
        file, found = self.folder / CHOICES, self._held()
        for key in sorted(self.groups.keys() & found.keys(), key=str):
            search, group = found[key], self.groups[key]
            of = f"{file} holds a search for {key.task} with {key.method}"
            # An edited method is searched anew, and its scores take the place of the former ones.
            asked = {k: v for k, v in group.found.settings.items() if k != METHOD_FILE}
            if unlike := search.unlike(asked):
                yield (
                    f"{of} with {', '.join(f'{k}={v}' for k, v in unlike.items())}: give the same, "
                    "or another results="
                )
            held, tried = search.scores.keys(), group.found.scores.keys()
            kept = set(first_rates(group.start)) <= held
            if not (kept or (tried and held <= tried)):
                # The file does not say where it began, but from each of these all its rates go on.
                starts = [lr for lr in sorted(held) if set(first_rates(lr)) <= held]
                setting = _start_setting(self._configs[key])
                way = f"{setting}={starts[0]:g}, or another" if starts else "another"
                yield (
                    f"{of} that began at another rate than {group.start:g}, and its scores would be "
                    f"lost: give {way} results="
                )
            if search.candidates > self.candidates or not set(search.seeds) <= set(self.seeds):
                seeds = ",".join(map(str, search.seeds))
                yield (
                    f"{file} holds {search.candidates} candidates with seeds {seeds} for "
                    f"{key.task} with {key.method}, of which this search would lose some: give "
                    f"--candidates {max(search.candidates, self.candidates)} --seeds {seeds} or "
                    "more of both, or another results="
                )
            elif kept and tried and not held <= tried:
                yield f"{of} at rates that this one has not tried: give the same once more"

    def write(self) -> list[str]:
        """Writes choices and figure, beside those of earlier commands; returns their lines.

        Raises NotNow where the disk is full, UserError where another command has written scores
        meanwhile that would be lost.
        """
        # From the last look at the file to its writing: no other command may write it in between.
        with alone(self.folder):
            if lost := list(self._lost()):
                stay = "another command wrote it meanwhile, and this one's runs stay: typed so it"
                raise UserError(*(f"{text}; {stay} goes on with them" for text in lost))
            return self._write()

    def _write(self) -> list[str]:
        """Writes the files of `write`; returns their lines."""
        own = self.searches()
        # Other commands have searched for other methods or tasks in this folder.
        others = (search for key, search in self._held().items() if key not in self.groups)
        found = in_order([*others, *own])
        with writable(self.folder, "search folder"):
            search_file.write(self.folder / CHOICES, found)
        # A word to be typed: a shell parts it at spaces, and -m at commas.
        word = shlex.quote(in_grammar(f"rates_from={self.folder / CHOICES}", False))
        lines = ["", *table(found), ""]
        if any(search.at_edge for search in own):
            lines.append(
                "beyond an edge may lie a better rate: the same command with "
                f"--candidates {self.candidates + 2} goes on, for every method"
            )
        lines.append(f"for the study: {word}")
        titles = {key.method: first.chosen.kind.title for key, first in self._configs.items()}
        try:
            drawn = score_by_rate(found, titles)
        except ImportError:  # Matplotlib is an optional dependency
            return [*lines, "no figure: pip install matplotlib"]
        if drawn is not None:
            with writable(self.folder, "search folder"):
                for ending, data in images(drawn[0]).items():
                    write_atomic(self.folder / f"learning-rates.{ending}", data)
                write_atomic(self.folder / "learning-rates.csv", as_csv(drawn[1]))
            lines.append(f"figure: {self.folder / 'learning-rates.png'}")
        return lines


def _settings(config: Config) -> dict[str, Any]:
    """Returns all settings that make a run another one, those of `_UNRECORDED` among them."""
    found = config.resolved() | {key: getattr(*holder(config, key)) for key in _UNRECORDED}
    if runs := config.chosen.kind.sources:
        found[f"method.{runs}"] = getattr(config.chosen.settings, runs)
    return found


def _start_setting(config: Config) -> str:
    """Returns the setting that says at which rate the search of a run begins."""
    # A study's own rates come before the model's.
    of_study = config.method_name in config.rates.get(config.task.name, {})
    return f"{f'rates.{config.task.name}' if of_study else 'model.lr'}.{config.method_name}"


def _too_few(candidates: int, configs: Iterable[Config]) -> Iterator[str]:
    """Yields a message for each method that would have fewer than three rates."""
    if candidates < FEWEST:
        yield f"candidates={candidates} must be {FEWEST} or more"
        return
    for config in configs:
        name, values = config.chosen.tried or ("", ())
        if candidates - len(values) < FEWEST:
            yield (
                f"candidates={candidates} leaves {candidates - len(values)} learning rates for "
                f"{config.method_name}, with {len(values)} more values of {name}: give "
                f"{FEWEST + len(values)} or more, or method._tune_=null for rates alone"
            )


def _out_of_range(configs: Iterable[Config]) -> Iterator[str]:
    """Yields a message for each value of `_tune_` that its method would refuse after the rates."""
    for config in configs:
        name, values = config.chosen.tried or ("", ())
        for value in values:
            settings = replace(config.chosen.settings, **{name: value})
            for problem in settings.problems(None):
                yield f"{config.method_name}.yaml, _tune_: {problem}"


def _found(folder: Path) -> tuple[float | None, float | None]:
    """Returns the score and the loss of a candidate's run; two None if it diverged."""
    run = read_done(folder)
    if run is not None:
        return heldout(run), heldout_loss(run, folder)
    seen = study.look(folder)
    if seen.state == "diverged":
        return None, None
    raise UserError(f"{folder} is {seen.state}: the same command goes on with the search")
