"""The run directory: what a run is, where it lies, what it has done so far. Knows no model.

run.json         state, configuration, provenance, parameters, results
metrics.jsonl    one line an event          ranks.jsonl   one line an allocation
predictions.npz  log.txt  checkpoint/ (until done)  adapter/ (PEFT format)  best.safetensors
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dora.checked_files import strange
from dora.errors import TEMPORARY, NotNow, RunFailed, UserError
from dora.files import write_atomic
from dora.plain import cut
from dora.process import machine
from dora.records import artefacts, cleaning, run_json
from dora.records.journal_writer import JournalWriter, journal_that_differs
from dora.records.lock import Lock
from dora.records.moved import at_home
from dora.records.provenance import changes
from dora.records.run_json import NotARecord
from dora.records.schema import SCHEMA, Run
from dora.records.words import command_of

TRIES = 2  # how often a run may diverge before only force=true begins it again
# `taken_by` of a run whose directory has disappeared.
REMOVED = "nobody: removed or moved away"
_CLEARING = "force=true was about to begin it anew; the same command does"


def now() -> str:
    """Returns the time in UTC, to the second, as in ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read_finished(folder: Path) -> Run:
    """Returns run.json of a finished run whose files are wanted.

    Raises UserError that says what `folder` is instead.
    """
    rule = "a run directory is RESULTS/runs/DATA/TASK/MODEL/METHOD/BUDGET/KEY/sSEED"
    try:
        run = run_json.read(folder)
    except FileNotFoundError as e:
        raise UserError(f"{folder} holds no run.json; {rule}") from e
    except NotARecord as e:
        raise UserError(f"{folder / 'run.json'} cannot be read ({e}); {rule}") from e
    if run["status"] != "done":
        how = command_of(at_home(run, folder), folder, "the command that began it")
        way = "finish it first"
        if run["status"] == "diverged":
            way = "train it with a lower lr than this"
        raise UserError(f"{folder} is {run['status']}, not done; {way}: {how}")
    return run


def scores_in_words(data: Run) -> str:
    """Returns best and last as one phrase: `accuracy 0.8670 (last 0.8567), best at step 252`."""
    best, last = data["results"]["best"], data["results"]["last"]
    # A metric that is undefined is absent, and may be so in one of the two alone.
    names = [k for k, v in best.items() if isinstance(v, float)]
    text = ", ".join(
        f"{k} {best[k]:.4f}{f' (last {last[k]:.4f})' if k in last else ''}" for k in names
    )
    warning = f"; DEGENERATE: {best['degenerate']}" if best["degenerate"] else ""
    return f"{text or 'no metric is defined'}, best at step {best['step']}{warning}"


def refuse_diverged(run: Run) -> None:
    """Raises RunFailed for a run that was resumed after it diverged, and diverged again.

    It resumes at its last sound checkpoint, so a third try would end as the second did.
    """
    if run.get("status") == "diverged" and (times := run.get("divergences", 0)) >= TRIES:
        raise RunFailed(
            f"{run.get('reason')}, or add force=true to start it anew: it diverged "
            f"{times} times, and a run is taken up only once after it diverged"
        )


@contextlib.contextmanager
def writable(folder: Path, what: str = "run directory") -> Iterator[None]:
    """Turns an OSError outside of training into UserError, or NotNow if it will pass.

    `what`: what the folder is to a reader of the message.
    """
    try:
        yield
    except OSError as e:
        text = f"{what} {folder} cannot be used: {e.strerror or e}"
        if e.errno in TEMPORARY:
            raise NotNow(f"{text}; once that is mended, the same command goes on") from e
        raise UserError(text) from e


class Record:
    """One run directory, held by this process alone while it is open.

    `data`: the content of run.json; `update` changes and writes it whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: Run = {}
        self._lock = Lock(folder)
        self._journals = JournalWriter(folder)

    @property
    def done(self) -> bool:
        """Tells whether the run has ended with results."""
        return self.data.get("status") == "done"

    @property
    def taken_by(self) -> str | None:
        """Returns who took the directory over, REMOVED if it disappeared, None if it is ours.

        It can be taken over while this process is halted for longer than a lease.
        """
        if self._lock.lost is None and self._lock.gone:
            return REMOVED
        return self._lock.lost

    @property
    def checkpoints(self) -> Path:
        """Returns the folder in which the loop keeps its state until the run is done."""
        return self.folder / "checkpoint"

    @property
    def divergences(self) -> int:
        """Returns how often the run has diverged since it was begun."""
        return int(self.data.get("divergences", 0))

    def open(self, header: dict[str, Any], force: bool = False) -> None:
        """Takes the directory, makes it if needed, and reads its record.

        `header`: keys of the record that this start knows, such as configuration and machine.

        Raises NotNow if another process is at work in it or the disk is full, UserError if it
        cannot be written to, RunFailed for a run that diverged, was taken up again and diverged
        once more. With `force` a run that is done, has failed or diverged is started afresh. A run
        that was stopped or killed goes on either way, so that the same command, with its
        force=true, resumes a forced run that was stopped.
        """
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Before anything is written: behind a link it would land in somebody else's file.
            if found := strange(self.folder):
                names = ", ".join(map(cut, found[:5]))
                raise UserError(
                    f"run directory {self.folder} holds links or pipes, and no run leaves any: "
                    f"{names}; remove them, or move the directory away"
                )
            try:
                self._lock.take()
                cleaning.sweep(self.folder)
                self._read(force)
                refuse_diverged(self.data)
                if self.done:  # a kill between its last two acts left the checkpoint
                    machine.discard(self.checkpoints)
                else:
                    self._begin(header)
            except OSError:
                self._lock.release()
                cleaning.remove_unbegun(self.folder)
                raise

    def _read(self, force: bool) -> None:
        """Reads the record, and clears the directory if it is to be started afresh."""
        broken = None
        try:
            self.data = run_json.read_placed(self.folder)
        except FileNotFoundError:
            pass
        except NotARecord as e:
            broken = e
        ended = self.data.get("status") in ("done", "failed", "diverged")
        # `clearing`: a kill interrupted an earlier clearing, which any start completes.
        if self.data.get("clearing") or (force and (ended or broken)):
            self._clear()
        elif broken:
            path = self.folder / "run.json"
            raise UserError(
                f"{path} cannot be read ({broken}); remove it to resume, or use force=true"
            )

    def _begin(self, header: dict[str, Any]) -> None:
        """Writes the record of a run that starts or goes on, with the history of earlier starts."""
        # A job of a sweep is told the precision that auto stands for: only the record it was
        # planned with knows of auto.
        history = ("resumed_from", "starts", "progress", "auto_precision")
        kept: dict[str, Any] = {key: self.data[key] for key in history if key in self.data}
        if self.divergences:
            kept["divergences"] = self.divergences
        times = self.data.get("times", {})
        # The order of the keys is the order in run.json: state first, then the header.
        self.data = {
            "schema": SCHEMA,
            "status": "running",
            "reason": None,
            **header,
            "resumed_from": [],
            "starts": [],
            **kept,
            "times": {**times, "started": times.get("started", now())},
        }
        self.update()

    def _clear(self) -> None:
        """Removes everything that a run leaves.

        A kill may come between any two of the removals. So the record first says that the directory
        is being cleared: no tool then takes the rest for a result, and the next start, with
        force=true or without, clears what is left.
        """
        outcome = ("results", "progress")
        kept = {key: value for key, value in self.data.items() if key not in outcome}
        self.data = {"schema": SCHEMA, "times": {}, **kept}
        self.update(status="stopped", reason=_CLEARING, clearing=True)
        cleaning.remove_run(self.folder)
        self.data = {}

    def _check_ours(self) -> None:
        """Raises RunFailed where the directory is no longer this process's to write to.

        Another process may have taken it over. Or it is gone, and to write would begin another
        directory, without the files of this one.
        """
        # Reads the lock file at every line of a journal, in 0.1 ms: lines come every few steps.
        self._lock.look()
        taker = self.taken_by
        if taker == REMOVED:
            raise self.removed()
        if taker is not None:
            raise RunFailed(
                f"{self.folder} was taken over by {taker}, which began while this process "
                "was halted, or with it; it goes on there"
            )

    def removed(self) -> RunFailed:
        """Returns the error of a run whose directory is gone."""
        return RunFailed(
            f"{self.folder} was removed or moved away while this process was at work in it; "
            "where it was moved, its last checkpoint went along"
        )

    def update(self, **changes: Any) -> None:
        """Changes keys of run.json and writes it whole. Raises OSError: a failed write is fatal."""
        self._check_ours()
        new = {**self.data, **changes}
        new["times"] = {**new["times"], "updated": now()}
        text = artefacts.sealed(new)
        write_atomic(self.folder / "run.json", text)
        # Read back from the text, so that memory holds what any reader gets: lists for tuples.
        self.data = json.loads(text)

    def start(self, step: int, seconds: float = 0.0) -> str | None:
        """Notes that training begins, or goes on, after `step`, and on which machine.

        `seconds`: of training up to there. Returns the differences to the start before that change
        the result, or None if there are none.
        """
        keys = ("host", "device", "processor", "world_size", "git", "versions")
        config = self.data.get("config", {})
        how = {k: config[k] for k in ("compile", "cuda_graphs") if k in config}
        this = {"step": step, "time": now(), **{k: self.data[k] for k in keys}, **how}
        before = self.data["starts"][-1] if step and self.data["starts"] else this
        resumed = [step] if step else []
        if not step:  # whatever progress was noted, no checkpoint of it is left
            self.data.pop("progress", None)
        elif "progress" in self.data:
            # The last noted one is of a newer checkpoint where that was damaged.
            self.data["progress"] |= {"step": step, "seconds": round(seconds, 1)}
        self.update(
            resumed_from=self.data["resumed_from"] + resumed, starts=[*self.data["starts"], this]
        )
        return changes(before, this)

    def start_journals(self, sealed: dict[str, Any]) -> None:
        """Opens the journals, cut back to the lines of `sealed`, which `sync` gave a checkpoint."""
        self._journals.start(sealed)

    def journals_differ(self, about: dict[str, Any]) -> str | None:
        """Returns which journal does not begin with the lines that a checkpoint's label knows."""
        return journal_that_differs(self.folder, about["journals"])

    def log(self, journal: str, event: dict[str, Any]) -> None:
        """Appends one line to a journal.

        Lines hold nothing of clock or machine: a resumed run writes the same ones.
        """
        self._check_ours()
        self._journals.append(journal, event)

    def sync(self) -> dict[str, Any]:
        """Writes the journals to the disk; returns their size in bytes and sha256, by name."""
        self._check_ours()
        return self._journals.sync()

    def close(self) -> None:
        """Closes the journals and releases the directory."""
        self._journals.close()
        self._lock.release()

    def finish(self) -> None:
        """Marks the run done and removes its checkpoints.

        In this order: a kill in between leaves a checkpoint too many, never a run without either.
        """
        self.sync()
        times = {**self.data["times"], "finished": now()}
        self.update(status="done", reason=None, times=times)
        machine.discard(self.checkpoints)
