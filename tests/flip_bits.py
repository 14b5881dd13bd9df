"""Flips single bits in every file that runs leave, and asks the tools that read it what they say.

python tests/flip_bits.py [--flips 300] [--seed 1] [--folder DIR]

noticed: a tool says so, and none goes on with other values. harmless: every tool goes on with the same values.
silent: a tool goes on with other values and says nothing, which must not be. Exit 1 where a flip was silent.
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

from dora.analysis import figures, grouping
from dora.backbones import backbone
from dora.data import tokens
from dora.errors import UserError
from dora.records.journals import JOURNALS
from dora.records.record import Record, read_finished
from dora.records.verify import verify
from dora.sharing import exporting, submission
from dora.training import build, checkpoint, one_run
from dora.training.added import _kept_weights
from dora.training.lines import Lines
from dora.training.prepare import Prepared, prepare
from dora.training.start import read_start
from runs import cut, only_run, small

NOTICED, HARMLESS, SILENT = "noticed", "harmless", "silent"
# Files of a run in which a bit may flip without anybody's notice, and why.
EXCEPTIONS = {
    "log.txt": "lines for people, which no tool reads",
    ".lock": "names the process at work for a message; the kernel's lock is what counts",
}
DORA = ("method=dora", "budget=r2", "max_steps=12", "eval_every=3")
FULL = ("method=full", "keep_model=true", "max_steps=4", "eval_every=2")
UNFINISHED_AT = 11  # there are checkpoints after some steps before it, and lines after the newest


@dataclass(frozen=True)
class Kind:
    """A kind of file: one of them, and what each tool that reads it does with it as it is now."""

    name: str
    file: Path
    tools: tuple[Callable[[], str], ...]

    def flip(self, number: int, chance: random.Random) -> Counter[str]:
        """How many of `number` flips were noticed, harmless and silent. The file is then as it was."""
        whole, found = self.file.read_bytes(), Counter({NOTICED: 0, HARMLESS: 0, SILENT: 0})
        assert NOTICED not in {tool() for tool in self.tools}, (
            f"{self.name} is whole, and a tool says it is not"
        )
        for _ in range(number):
            place = chance.randrange(8 * len(whole))
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            self.file.write_bytes(flipped)
            said = {tool() for tool in self.tools}
            found[next(verdict for verdict in (SILENT, NOTICED, HARMLESS) if verdict in said)] += 1
            self.file.write_bytes(whole)
        return found


def refused(
    action: Callable[[], Any], same: Callable[[Any], bool] = lambda _: False
) -> Callable[[], str]:
    """A tool that says so by UserError; one that goes on must come to the same, where it can."""

    def tool() -> str:
        try:
            value = action()
        except UserError:
            return NOTICED
        return HARMLESS if same(value) else SILENT

    return tool


def listed(problems: Callable[[], Any]) -> Callable[[], str]:
    """A tool that returns what is wrong."""
    return lambda: NOTICED if problems() else SILENT


def finished(prepared: Prepared) -> Iterator[Kind]:
    """The files of a run that is done, each with the tools that use it."""
    folder, run = prepared.folder, read_finished(prepared.folder)
    full = prepared.plan is None
    config = replace(prepared.config, init_from=str(folder))
    weights, architecture = (
        backbone.fingerprint(prepared.model),
        backbone.architecture(prepared.model),
    )
    verified = listed(lambda: verify(folder).problems)
    exported = listed(lambda: exporting.unfit(run, folder, merge=False, base=None))
    started = refused(lambda: read_start(config, weights, architecture))
    predicted = refused(lambda: _kept_weights(prepared, run))
    tools = {
        "run.json": (
            verified,
            refused(lambda: read_finished(folder), lambda found: bool(found == run)),
            tabled(folder, run),
        ),
        "metrics.jsonl": (verified, drawn(folder, run, "metrics.jsonl")),
        "ranks.jsonl": (verified, drawn(folder, run, "ranks.jsonl")),
        "predictions.npz": (
            verified,
            predicted,
            listed(lambda: submission.unsound(submission.Run(folder, run))),
            compared(folder, run),
        ),
        "best.safetensors": (verified, predicted, started),
        "adapter/adapter_model.safetensors": (verified, exported),
        "adapter/adapter_config.json": (verified, exported),
        "model/model.safetensors": (verified, exported, predicted, started),
    }
    for file in sorted(
        file for file in folder.rglob("*") if file.is_file() and file.stat().st_size
    ):
        name = file.relative_to(folder).as_posix()
        if name in EXCEPTIONS:
            continue
        default = (verified, exported) if name.startswith("model/") else (verified,)
        yield Kind(f"{'full' if full else 'done'}: {name}", file, tools.get(name, default))


def compared(folder: Path, run: dict[str, Any]) -> Callable[[], str]:
    """What tables do with predictions: they compare them, or say that they cannot be read."""
    about = {**run, "folder": folder}
    task = run["config"]["task"]
    whole = grouping.predictions(about, task, "best")
    assert whole is not None

    def tool() -> str:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # it is said once a file and reason, not once a flip
            found = grouping.predictions(about, task, "best")
        if found is None:
            return NOTICED
        return HARMLESS if all(map(np.array_equal, found, whole)) else SILENT

    return tool


def tabled(folder: Path, run: dict[str, Any]) -> Callable[[], str]:
    """What tables do with a record: they show it, or leave it out and say so."""

    def tool() -> str:
        with contextlib.redirect_stderr(io.StringIO()):
            found = grouping.read_runs(folder.parents[7])
        return (HARMLESS if found == [{**run, "folder": folder}] else SILENT) if found else NOTICED

    return tool


def drawn(folder: Path, run: dict[str, Any], name: str) -> Callable[[], str]:
    """What figures do with a journal: they draw it whole, or say what they leave out."""
    lines = (folder / name).read_bytes().splitlines() if (folder / name).exists() else []

    def tool() -> str:
        with contextlib.redirect_stderr(io.StringIO()):
            found = list(figures._known({**run, "folder": folder}, name, lines))
        return (
            HARMLESS
            if found and (folder / name).read_bytes().splitlines() == lines
            else (SILENT if found else NOTICED)
        )

    return tool


def unfinished(folder: Path) -> Iterator[Kind]:
    """The files of a run that broke off, each with what resuming it does with it."""
    verified = listed(lambda: verify(folder).problems)
    record, content = folder / "run.json", (folder / "run.json").read_bytes()

    def opened() -> dict[str, Any]:
        flipped, one = record.read_bytes(), Record(folder)
        try:
            one.open({"seed": 1})
            return {k: v for k, v in one.data.items() if k != "sha256"} | {
                "times": one.data["times"]["started"]
            }
        finally:
            one.close()
            record.write_bytes(flipped)

    whole = opened()
    record.write_bytes(content)
    yield Kind(
        "cut: run.json",
        record,
        (
            verified,
            refused(opened, lambda found: bool(found == whole)),
        ),
    )

    def resumed() -> tuple[int, list[str]]:
        said: list[str] = []
        found = checkpoint.load(folder / "checkpoint", said.append, Record(folder).journals_differ)
        return (0 if found is None else found[1]["step"]), said

    older, newest = sorted(
        (folder / "checkpoint").iterdir(), key=lambda file: file.stat().st_mtime_ns
    )
    yield Kind("cut: newest checkpoint", newest, (verified, listed(lambda: resumed()[1])))
    yield Kind("cut: older checkpoint", older, (verified, lambda: HARMLESS))  # nobody reads it yet
    for name in JOURNALS:
        yield Kind(f"cut: {name}", folder / name, (journal(folder, name, resumed),))


def journal(
    folder: Path, name: str, resumed: Callable[[], tuple[int, list[str]]]
) -> Callable[[], str]:
    """Resuming notices another line that its checkpoint knows, and cuts away those after it."""
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
    """The files of the token cache; a damaged one is made again, which `tokenised` says by calling `begin`."""
    calls: list[Any] = []
    original = tokens.tokenised
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "tokenised", lambda *given: (calls.append(given), original(*given))[1])
        build._tokens(prepared, Lines(None))
    for i, (_, identity, splits, *more, _) in enumerate(calls):
        cache = Path(prepared.config.results) / f"cache-{i}"
        tool = tokenised(cache, identity, splits, *more)
        for file in sorted(cache.glob("*/*")):
            yield Kind(f"cache: {file.name}{'' if splits else ' of no rows'}", file, (tool,))


def tokenised(*given: Any) -> Callable[[], str]:
    """What opening the cache comes to; a damaged one is made again, before which `begin` is called."""

    opened: Callable[..., Any] = tokens.tokenised

    def read(begin: Callable[[], None]) -> dict[str, tuple[np.ndarray, ...]]:
        found = opened(*given, begin)
        return {split: (np.array(t.ids), np.array(t.lengths)) for split, t in found.items()}

    whole = read(lambda: None)

    def tool() -> str:
        made: list[str] = []
        found = read(lambda: made.append("again"))
        if not all(
            np.array_equal(a, b)
            for split in whole
            for a, b in zip(found[split], whole[split], strict=True)
        ):
            return SILENT
        return NOTICED if made else HARMLESS

    return tool


def kinds(results: Path) -> Iterator[Kind]:
    """Every kind of file that runs leave, of runs made here and now under `results`."""
    for name, words in (("done", DORA), ("full", FULL)):
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
    """Kind → how many flips were noticed, harmless and silent; a line for each."""
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
    """Prints a line for every kind of file; exit 1 where a flip was silent."""
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
