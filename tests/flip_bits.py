"""Flips single bits in every file that runs leave, and asks the tools that read it what they say.

python tests/flip_bits.py [--flips 300] [--seed 1] [--folder DIR]

noticed: a tool says so, and none goes on with other values. harmless: every tool goes on with equal
values. silent: a tool goes on with other values and says nothing, which must not be. Exits with 1
if a flip was silent.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.analysis.run_journals import undamaged
from dora.backbones import backbone
from dora.backbones.model_config import read_config
from dora.data import token_cache
from dora.errors import UserError
from dora.preparing.init_from import read_earlier_run
from dora.preparing.prepare import Prepared, prepare
from dora.records.finished import read_runs
from dora.records.journals import JOURNALS
from dora.records.record import Record, read_finished
from dora.records.verify import verify
from dora.sharing import exporting, submission
from dora.sharing.form import Form
from dora.training import build, checkpoint, one_run
from dora.training.added_splits import _kept_weights
from dora.training.lines import Lines
from runs import cut, only_run, small

NOTICED, HARMLESS, SILENT = "noticed", "harmless", "silent"
# Files of a run in which a bit may flip unnoticed, with the reason.
EXCEPTIONS = {
    "log.txt": "lines for people, which no tool reads",
    ".lock": "names the process at work for a message; the kernel's lock is what counts",
}
DORA = ("method=dora", "budget=r2", "max_steps=12", "eval_every=3")
FULL = ("method=full", "keep_model=true", "max_steps=4", "eval_every=2")
# Between checkpoints: there are two before it, and lines in the journals after the newer one.
UNFINISHED_AT = 11


@dataclass(frozen=True)
class Kind:
    """A kind of file, with one example of it and the tools that read it.

    A tool reads the file as it is now, and returns a verdict: NOTICED, HARMLESS or SILENT.
    """

    name: str
    file: Path
    tools: tuple[Callable[[], str], ...]

    def flip(self, number: int, chance: random.Random) -> Counter[str]:
        """Flips a bit `number` times, one at a time, and counts the verdicts.

        The file is restored after each flip.
        """
        whole, found = self.file.read_bytes(), Counter({NOTICED: 0, HARMLESS: 0, SILENT: 0})
        assert NOTICED not in {tool() for tool in self.tools}, (
            f"{self.name} is whole, and a tool says it is not"
        )
        for _ in range(number):
            place = chance.randrange(8 * len(whole))  # a bit, all equally likely
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            self.file.write_bytes(flipped)
            said = {tool() for tool in self.tools}
            # The worst verdict of all tools: one silent tool is enough.
            found[next(verdict for verdict in (SILENT, NOTICED, HARMLESS) if verdict in said)] += 1
            self.file.write_bytes(whole)
        return found


def refused(
    action: Callable[[], Any], same: Callable[[Any], bool] = lambda _: False
) -> Callable[[], str]:
    """Returns a tool that notices by UserError.

    `same`: says whether the value of `action` equals that of the whole file. Without it a tool that
    goes on counts as silent.
    """

    def tool() -> str:
        try:
            value = action()
        except UserError:
            return NOTICED
        return HARMLESS if same(value) else SILENT

    return tool


def listed(problems: Callable[[], Any]) -> Callable[[], str]:
    """Returns a tool that notices by returning problems."""
    return lambda: NOTICED if problems() else SILENT


def finished(prepared: Prepared) -> Iterator[Kind]:
    """Yields the files of a run that is done, each with the tools that read it."""
    folder, run = prepared.folder, read_finished(prepared.folder)
    full = prepared.plan is None
    config = replace(prepared.config, init_from=str(folder))
    weights = backbone.fingerprint(prepared.model)
    model_config = read_config(prepared.model.path)
    verified = listed(lambda: verify(folder).problems)
    exported = listed(lambda: exporting.unfit(run, folder, Form()))
    started = refused(lambda: read_earlier_run(config, weights, model_config))
    predicted = refused(lambda: _kept_weights(prepared, run))
    tools = {
        "run.json": (
            verified,
            refused(lambda: read_finished(folder), lambda found: bool(found == run)),
            tabled(folder, run),
        ),
        "metrics.jsonl": (verified, drawn(folder, run, "metrics.jsonl")),
        "ranks.jsonl": (verified, drawn(folder, run, "ranks.jsonl")),
        # Read by export, leaderboard files and tables, each in its own way.
        "predictions.npz": (
            verified,
            predicted,
            listed(lambda: submission.unsound(submission.Candidate(folder, run))),
            compared(folder, run),
        ),
        "best.safetensors": (verified, predicted, started),
        "adapter/adapter_model.safetensors": (verified, exported),
        "adapter/adapter_config.json": (verified, exported),
        "model/model.safetensors": (verified, exported, predicted, started),
    }
    # All files that the run left, so that a new kind is tested by `verify` at least.
    files = (file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    for file in sorted(files):
        name = file.relative_to(folder).as_posix()
        if name in EXCEPTIONS:
            continue
        default = (verified, exported) if name.startswith("model/") else (verified,)
        yield Kind(f"{'full' if full else 'done'}: {name}", file, tools.get(name, default))


def compared(folder: Path, run: dict[str, Any]) -> Callable[[], str]:
    """Returns the tool of tables: they compare predictions, or say that they are unreadable."""
    (read,) = read_runs(folder.parents[7])
    whole = read["predicted"]["best"]

    def tool() -> str:
        # Each flip would be told on standard error.
        with contextlib.redirect_stderr(io.StringIO()):
            found = read_runs(folder.parents[7])
        if not found or "best" not in found[0]["predicted"]:
            return NOTICED
        same = map(np.array_equal, found[0]["predicted"]["best"], whole)
        return HARMLESS if all(same) else SILENT

    return tool


def tabled(folder: Path, run: dict[str, Any]) -> Callable[[], str]:
    """Returns the tool of tables: they show a record, or leave it out and say so."""

    def tool() -> str:
        with contextlib.redirect_stderr(io.StringIO()):
            found = read_runs(folder.parents[7])
        if not found:
            return NOTICED
        # What the reader adds is not the record's.
        (read,) = (
            {k: v for k, v in each.items() if k not in ("folder", "predicted")} for each in found
        )
        return HARMLESS if read == run else SILENT

    return tool


def drawn(folder: Path, run: dict[str, Any], name: str) -> Callable[[], str]:
    """Returns the tool of figures: they draw a whole journal, or say that they leave it out."""
    lines = (folder / name).read_bytes().splitlines() if (folder / name).exists() else []

    def tool() -> str:
        with contextlib.redirect_stderr(io.StringIO()):
            found = list(undamaged({**run, "folder": folder}, name, lines))
        if not found:
            return NOTICED
        return HARMLESS if (folder / name).read_bytes().splitlines() == lines else SILENT

    return tool


def unfinished(folder: Path) -> Iterator[Kind]:
    """Yields the files of a run that broke off, each with the tools that resuming uses."""
    verified = listed(lambda: verify(folder).problems)
    record, content = folder / "run.json", (folder / "run.json").read_bytes()

    def opened() -> dict[str, Any]:
        """Opens the directory as a resumed run does; returns its record, without today's times."""
        flipped, one = record.read_bytes(), Record(folder)
        try:
            one.open({"seed": 1})
            return {k: v for k, v in one.data.items() if k != "sha256"} | {
                "times": one.data["times"]["started"]
            }
        finally:
            one.close()
            record.write_bytes(flipped)  # opening has written the record anew

    whole = opened()
    record.write_bytes(content)
    reopened = refused(opened, lambda found: bool(found == whole))
    yield Kind("cut: run.json", record, (verified, reopened))

    def resumed() -> tuple[int, list[str]]:
        """Returns the step that resuming would begin after, and its warnings."""
        said: list[str] = []
        found = checkpoint.load(folder / "checkpoint", said.append, Record(folder).journals_differ)
        return (0 if found is None else found[1]["step"]), said

    checkpoints = (folder / "checkpoint").iterdir()
    older, newest = sorted(checkpoints, key=lambda file: file.stat().st_mtime_ns)
    yield Kind("cut: newest checkpoint", newest, (verified, listed(lambda: resumed()[1])))
    # No tool reads the older one while the newer is whole.
    yield Kind("cut: older checkpoint", older, (verified, lambda: HARMLESS))
    for name in JOURNALS:
        yield Kind(f"cut: {name}", folder / name, (journal(folder, name, resumed),))


def journal(
    folder: Path, name: str, resumed: Callable[[], tuple[int, list[str]]]
) -> Callable[[], str]:
    """Returns the tool of resuming: it notices a change in the lines that its checkpoint knows.

    Lines after the checkpoint are cut away, so a flip there is harmless.
    """
    found = checkpoint.load(folder / "checkpoint", print, Record(folder).journals_differ)
    assert found is not None
    known = found[1]["journals"][name]["bytes"]
    whole = (folder / name).read_bytes()[:known]

    def tool() -> str:
        _, said = resumed()
        if said:
            return NOTICED
        return HARMLESS if (folder / name).read_bytes()[:known] == whole else SILENT

    return tool


def cached(prepared: Prepared) -> Iterator[Kind]:
    """Yields the files of the token cache, which is made again if it is damaged."""
    # The arguments with which a run opens its cache, recorded on the way; `begin` is the last one.
    calls: list[Any] = []
    original = token_cache.tokenised
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "tokenised", lambda *given: (calls.append(given), original(*given))[1])
        build._tokens(prepared, Lines(None))
    for i, (_, identity, splits, *more, _) in enumerate(calls):
        cache = Path(prepared.config.results) / f"cache-{i}"
        tool = tokenised(cache, identity, splits, *more)
        for file in sorted(cache.glob("*/*")):
            yield Kind(f"cache: {file.name}{'' if splits else ' of no rows'}", file, (tool,))


def tokenised(*given: Any) -> Callable[[], str]:
    """Returns the tool that opens the cache; it notices by calling `begin` and tokenising again."""
    opened: Callable[..., Any] = token_cache.tokenised

    def read(begin: Callable[[], None]) -> dict[str, tuple[np.ndarray, ...]]:
        found = opened(*given, begin)
        # Copies: the tokens are memory-mapped, and the file changes with the next flip.
        return {split: (np.array(t.ids), np.array(t.lengths)) for split, t in found.items()}

    whole = read(lambda: None)

    def tool() -> str:
        made: list[str] = []
        found = read(lambda: made.append("again"))
        for split, arrays in whole.items():
            if not all(map(np.array_equal, found[split], arrays)):
                return SILENT
        return NOTICED if made else HARMLESS

    return tool


def kinds(results: Path) -> Iterator[Kind]:
    """Yields every kind of file that runs leave, of runs that are trained now under `results`."""
    for name, words in (("done", DORA), ("full", FULL)):
        # Two runs leave every kind of file: an adapter with its journals, and a whole model.
        prepared = prepare(small(results / name, *words))
        one_run.run(prepared)
        yield from finished(prepared)
    yield from cached(prepared)
    with pytest.MonkeyPatch.context() as patch:
        cut(results / "cut", UNFINISHED_AT, patch, *DORA, "checkpoint_every=4")
    yield from unfinished(only_run(results / "cut"))


def study(
    flips: int, seed: int, results: Path, say: Callable[[str], None]
) -> dict[str, Counter[str]]:
    """Returns the counted verdicts by kind of file, and says a line for each."""
    chance = random.Random(seed)
    found = {}
    say(f"{'file':40}{'tried':>8}{NOTICED:>10}{HARMLESS:>10}{SILENT:>8}{'s':>8}")
    for kind in kinds(results):
        began = time.perf_counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
            count = found[kind.name] = kind.flip(flips, chance)
        numbers = f"{flips:8}{count[NOTICED]:10}{count[HARMLESS]:10}{count[SILENT]:8}"
        say(f"{kind.name:40}{numbers}{time.perf_counter() - began:8.1f}")
    for name, why in EXCEPTIONS.items():
        say(f"{name:40}not tried: {why}")
    return found


def main() -> None:
    """Prints a line for every kind of file; exits with 1 if a flip was silent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where the runs go (default: a temporary folder)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flips-") as temporary:
        found = study(
            given.flips,
            given.seed,
            given.folder or Path(temporary),
            lambda text: print(text, flush=True),
        )
    silent = sum(count[SILENT] for count in found.values())
    print(f"{given.flips * len(found):,} flips in {len(found)} kinds of files: {silent} silent")
    sys.exit(1 if silent else 0)


if __name__ == "__main__":
    main()
