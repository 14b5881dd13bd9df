"""The run directory: what a run is, where it lies, what it has done so far. Knows no model.

run.json         state, configuration, provenance, parameters, results
metrics.jsonl    one line an event          ranks.jsonl   one line an allocation
predictions.npz  log.txt  checkpoint/ (until done)  adapter/ (PEFT format)  best.safetensors
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dora.errors import TEMPORARY, NotNow, RunFailed, UserError
from dora.files import named, strange, sync, write_atomic
from dora.plain import cut
from dora.process import machine
from dora.records import artefacts, run_json
from dora.records.lock import Lock, held
from dora.records.provenance import changes
from dora.records.run_json import SCHEMA, NotARecord, Run
from dora.records.words import command_of

# Raised whenever the same configuration trains to other bits than before, so that old and new runs are two
# directories and tables do not mix them. tests/test_arithmetic.py tells when; results/README.md says which number
# means what.
ARITHMETIC = 3
JOURNALS = ("metrics.jsonl", "ranks.jsonl")
FOLDERS = ("checkpoint", "adapter", "model")
TRIES = 2  # how often a run may diverge before only force=true begins it again
_CLEARING = "force=true was about to begin it anew; the same command does"
# What a run's weights do not depend on, or what has a place of its own in the path.
NOT_IDENTITY = (
    "seed",
    "results",
    "device",
    "compile",
    "wandb",
    "force",
    "checkpoint_every",
    "keep_model",
)


def identity(config: dict[str, Any], fingerprints: dict[str, str | None]) -> str:
    """The first 8 hex digits of a hash of what determines a run's result but for its seed, ARITHMETIC included.

    `config` is resolved; paths are left out in favour of `fingerprints` of what they hold (data, model,
    init_from), so that the same run typed two ways, or from a moved folder, is the same directory.
    """
    kept = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    about = {"config": kept, "fingerprints": fingerprints, "arithmetic": ARITHMETIC}
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def arithmetic(run: dict[str, Any]) -> int:
    """The number of the arithmetic that trained a run; 1 for records of before there were numbers."""
    return int(run.get("arithmetic", 1))


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def seconds_since(stamp: str) -> float:
    """Seconds from a time that `now` wrote until now, by this host's clock."""
    then = datetime.datetime.fromisoformat(stamp)
    return (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()


def read_done(folder: Path) -> Run | None:
    """run.json of a run that is done; None where it is not, is not there, or cannot be believed."""
    try:
        run = run_json.read(folder)
    except (FileNotFoundError, NotARecord):
        return None
    return run if run["status"] == "done" else None


def read_finished(folder: Path) -> Run:
    """run.json of a finished run whose files are wanted. Raises UserError saying what `folder` is instead."""
    rule = "a run directory is RESULTS/runs/DATA/TASK/MODEL/METHOD/BUDGET/KEY/sSEED"
    try:
        run = run_json.read(folder)
    except FileNotFoundError as e:
        raise UserError(f"{folder} holds no run.json; {rule}") from e
    except NotARecord as e:
        raise UserError(f"{folder / 'run.json'} cannot be read ({e}); {rule}") from e
    if run["status"] != "done":
        how = command_of(run.get("words"), folder, "the command that began it")
        raise UserError(f"{folder} is {run['status']}, not done; finish it first: {how}")
    return run


def scores(data: dict[str, Any]) -> str:
    """Best and last as one phrase: `accuracy 0.8670 (last 0.8567), best at step 252`."""
    best, last = data["results"]["best"], data["results"]["last"]
    names = [k for k, v in best.items() if isinstance(v, float)]
    text = ", ".join(
        f"{k} {best[k]:.4f}{f' (last {last[k]:.4f})' if k in last else ''}" for k in names
    )
    warning = f"; DEGENERATE: {best['degenerate']}" if best["degenerate"] else ""
    return f"{text or 'no metric is defined'}, best at step {best['step']}{warning}"


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turns what goes wrong on a disk before a run has begun into UserError, or NotNow where it will pass."""
    try:
        yield
    except OSError as e:
        text = f"run directory {folder} cannot be used: {e.strerror or e}"
        if e.errno in TEMPORARY:
            raise NotNow(f"{text}; once that is mended, the same command goes on") from e
        raise UserError(text) from e


def note_planned(folder: Path, words: Sequence[str], config: dict[str, Any]) -> None:
    """Notes in an empty run directory that a sweep is going to train this run; any other is left as it is."""
    waiting = {
        "schema": SCHEMA,
        "status": "waiting",
        "reason": None,
        "config": config,
        "words": list(words),
        "times": {"planned": now()},
    }
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run.json").exists():
            try:
                write_atomic(folder / "run.json", artefacts.sealed(waiting))
            except FileNotFoundError:  # another launch has just begun it, and tidied up
                pass
            except OSError:
                with contextlib.suppress(OSError):  # not empty: somebody has begun it
                    folder.rmdir()
                raise


def tidy(folder: Path) -> None:
    """Removes the checkpoint of a run that is done, where a kill has left it; never while somebody is at work there."""
    if (folder / "checkpoint").exists() and held(folder) is None and read_done(folder) is not None:
        machine.discard(folder / "checkpoint")


class Record:
    """One run directory, held by this process alone while it is open.

    `data` is what run.json holds; `update` changes and writes it whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {}
        self._lock = Lock(folder)
        self._journals: dict[str, Any] = {}
        self._seals: dict[str, Any] = {}  # a running sha256 of each journal

    @property
    def done(self) -> bool:
        """Whether the run has ended with results."""
        return self.data.get("status") == "done"

    @property
    def taken_by(self) -> str | None:
        """Who took the directory over while this process was halted; None as it should be."""
        return self._lock.lost or ("nobody, it is gone" if self._lock.gone else None)

    @property
    def checkpoints(self) -> Path:
        """Where the loop keeps its state until the run is done."""
        return self.folder / "checkpoint"

    def open(self, header: dict[str, Any], force: bool = False) -> None:
        """Takes the directory, makes it if needed, and reads what is there.

        Raises NotNow where another process is at work in it or the disk is full, UserError where it cannot be
        written to, RunFailed for a run that diverged, was taken up again and diverged once more. With `force` a run
        that is done, has failed or diverged is started afresh. One that was stopped or killed goes on either way, so
        that a forced run which was stopped is resumed by the same command.
        """
        with writable(self.folder):
            self._open(header, force)

    def _open(self, header: dict[str, Any], force: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if found := strange(self.folder):
            raise UserError(
                f"run directory {self.folder} holds links or pipes, and no run leaves any: {', '.join(map(cut, found[:5]))}; "
                "remove them, or move the directory away"
            )
        self._lock.take()
        self._sweep()
        path = self.folder / "run.json"
        broken = None
        try:
            self.data = run_json.read(self.folder)
        except FileNotFoundError:
            pass
        except NotARecord as e:
            broken = e
        ended = self.data.get("status") in ("done", "failed", "diverged")
        if self.data.get("clearing") or (force and (ended or broken)):
            self._clear()
        elif broken:
            raise UserError(
                f"{path} cannot be read ({broken}); remove it to resume, or use force=true"
            )
        self._refuse_diverged()
        if self.done:  # a kill between its last two acts left the checkpoint
            machine.discard(self.checkpoints)
        else:
            first = self.data.get("times", {}).get("started", now())
            kept = ("resumed_from", "starts", "progress")
            before: dict[str, Any] = {key: self.data[key] for key in kept if key in self.data}
            before |= {"divergences": self.divergences} if self.divergences else {}
            times = {**self.data.get("times", {}), "started": first}
            self.data = {
                "schema": SCHEMA,
                "status": "running",
                "reason": None,
                "arithmetic": ARITHMETIC,
                **header,
                "resumed_from": [],
                "starts": [],
                **before,
                "times": times,
            }
            self.update()

    def _sweep(self) -> None:
        """Removes what killed processes were writing here: nobody else writes a run's own files while it is held."""
        own = [folder for name in FOLDERS if not (folder := self.folder / name).is_symlink()]
        for left in (left for folder in (self.folder, *own) for left in folder.glob(".*.tmp")):
            if machine.UNFINISHED.search(left.name):  # others' hidden files may be called so too
                machine.discard(left)
        # Others may export the run, or look at the file server's clock (.now.* of an older version).
        for pattern in (".*.part", ".*.now", ".now.*"):
            machine.sweep(self.folder, pattern, ours=True)

    def _refuse_diverged(self) -> None:
        """Raises RunFailed where a run diverged, was taken up at its last sound checkpoint and diverged again."""
        if self.data.get("status") == "diverged" and self.divergences >= TRIES:
            raise RunFailed(
                f"{self.data.get('reason')}, or add force=true to start it anew: it diverged {self.divergences} times, "
                "and a run is taken up only once after it diverged"
            )

    @property
    def divergences(self) -> int:
        """How often the run has diverged since it was begun; at least once where its state says so."""
        return int(self.data.get("divergences", self.data.get("status") == "diverged"))

    def _clear(self) -> None:
        """Removes all that a run leaves.

        A kill may come between any two of the removals. So the record first says what is going on: no longer a result
        to anybody, and to whoever opens it next, with force=true or without, an order to clear the rest. The
        checkpoint goes before all else, since alone it would be trained on, and the record last.
        """
        kept = {
            key: value for key, value in self.data.items() if key not in ("results", "progress")
        }
        self.data = {"schema": SCHEMA, "times": {}, **kept}
        self.update(status="stopped", reason=_CLEARING, clearing=True)
        for name in (*FOLDERS, *JOURNALS, "predictions.npz", "best.safetensors", "run.json"):
            machine.remove(self.folder / name)
        self.data = {}

    def _check_ours(self) -> None:
        """Raises RunFailed where another process has taken the directory over: nothing in it is ours to write. So too
        where the directory is gone: what is written would begin another one, without what was there.
        """
        if self._lock.gone:
            raise RunFailed(
                f"{self.folder} was removed or moved away while this process was at work in it; where it was moved, its "
                "last checkpoint went along"
            )
        self._lock.look()
        if self.taken_by is not None:
            raise RunFailed(
                f"{self.folder} was taken over by {self.taken_by}, which began while this process was halted, or with it; it "
                "goes on there"
            )

    def update(self, **changes: Any) -> None:
        """Changes keys of run.json and writes it whole. A failed write is fatal."""
        self._check_ours()
        times = {**changes.get("times", self.data["times"]), "updated": now()}
        text = artefacts.sealed({**self.data, **changes, "times": times})
        write_atomic(self.folder / "run.json", text)
        self.data = json.loads(text)

    def start(self, step: int) -> str | None:
        """Notes that training begins, or goes on, after `step`, and by whom.

        Returns what is not as it was at the start before and changes the result, None where nothing is.
        """
        keys = ("host", "device", "processor", "world_size", "git", "versions")
        this = {"step": step, "time": now(), **{k: self.data[k] for k in keys}}
        before = self.data["starts"][-1] if step and self.data["starts"] else this
        resumed = [step] if step else []
        if not step:  # whatever progress was noted, no checkpoint of it is left
            self.data.pop("progress", None)
        self.update(
            resumed_from=self.data["resumed_from"] + resumed, starts=[*self.data["starts"], this]
        )
        return changes(before, this)

    def start_journals(self, sealed: dict[str, Any]) -> None:
        """Opens metrics.jsonl and ranks.jsonl cut back to what the checkpoint knew of them, as `sync` gave it."""
        for name in JOURNALS:
            path = self.folder / name
            path.touch()
            os.truncate(path, sealed[name]["bytes"] if name in sealed else 0)
            self._seals[name] = hashlib.sha256(path.read_bytes())
            self._journals[name] = path.open("ab")

    def journals_differ(self, about: dict[str, Any]) -> str | None:
        """Which journal no longer begins with the lines that a checkpoint's label knows; None where all do."""
        for name, sealed in about["journals"].items():
            path = self.folder / name
            begin = path.read_bytes()[: sealed["bytes"]] if path.exists() else b""
            if (
                len(begin) != sealed["bytes"]
                or hashlib.sha256(begin).hexdigest() != sealed["sha256"]
            ):
                return f"{name} is not as it was when the checkpoint was written"
        return None

    def log(self, journal: str, event: dict[str, Any]) -> None:
        """Appends one line. Lines hold nothing of clock or machine: a resumed run writes the same ones."""
        self._check_ours()
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        with named(self.folder / journal):
            self._journals[journal].write(line)
            self._journals[journal].flush()
        self._seals[journal].update(line)

    def sync(self) -> dict[str, Any]:
        """Journals to the disk; their sizes in bytes and their sha256, for the checkpoint."""
        self._check_ours()
        sealed = {}
        for name, file in self._journals.items():
            with named(self.folder / name):
                sync(file)
            sealed[name] = {"bytes": file.tell(), "sha256": self._seals[name].hexdigest()}
        return sealed

    def close(self) -> None:
        """Lets go of journals and lock."""
        for file in self._journals.values():
            with contextlib.suppress(
                OSError
            ):  # of a full disk: resuming cuts the journals back anyway
                file.close()
        self._journals = {}
        self._lock.release()

    def finish(self) -> None:
        """Marks the run done; its checkpoints have served."""
        self.sync()
        times = {**self.data["times"], "finished": now()}
        self.update(status="done", reason=None, times=times)
        machine.discard(self.checkpoints)
