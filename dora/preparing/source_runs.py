"""The finished runs that a method reads (CoRA's); checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dora.checked_files import check_safetensors, sha256_file
from dora.configuration.config import Config
from dora.errors import UserError
from dora.records import artefacts
from dora.records.record import read_finished
from dora.records.schema import Run


@dataclass(frozen=True)
class Source:
    """A finished run that a method reads: its directory, task and method.

    `file`: its adapter for PEFT, or its whole model. `sha256`: of that file.
    """

    folder: Path
    file: Path
    task: str
    method: str
    sha256: str


def read_sources(config: Config, weights: str) -> tuple[Source, ...]:
    """Finds and checks the runs that the method's settings name; () if they name none.

    `weights`: the fingerprint of this run's model. Raises UserError with every problem found.
    """
    key = config.chosen.kind.sources
    named = getattr(config.chosen.settings, key) if key else None
    problems: list[str] = []
    sources: dict[str, Source] = {}
    for text in named or ():
        try:
            source = _source(f"method.{key}", Path(text).expanduser(), config, weights)
        except UserError as e:
            problems += e.problems
            continue
        # A run that counts twice adds no direction, and is surely a mistake.
        if (twin := sources.setdefault(source.sha256, source)) is not source:
            problems.append(
                f"method.{key}: {source.folder} holds the same weights as {twin.folder}; name each "
                "run once"
            )
    if problems:
        raise UserError(*problems)
    return tuple(sources.values())


def _source(key: str, folder: Path, config: Config, weights: str) -> Source:
    try:
        run = read_finished(folder)
    except UserError as e:
        raise UserError(f"{key} must name directories of finished runs: {e}") from e
    task, method = run["config"]["task"], run["config"]["method"]["name"]
    problems = []
    # Updates that were trained on what this run is scored on.
    own = config.task.name
    if task == own:
        problems.append(
            f"{key}: {folder} is a run on {task}, this run's own task; name runs on other tasks"
        )
    elif own in _tasks_before(key, folder, run):
        problems.append(
            f"{key}: {folder} began from a run on {own}, this run's own task; name another run"
        )
    if run["fingerprints"]["model"] != weights:
        problems.append(f"{key}: {folder} adapts another model than {config.model_name}")
    names = (artefacts.ADAPTER_WEIGHTS, artefacts.FULL_WEIGHTS)
    name = next((name for name in names if (folder / name).is_file()), None)
    if name is None:
        problems.append(
            f"{key}: {folder} holds neither {' nor '.join(names)}; name a run of a method with "
            "low-rank layers, or of full with keep_model=true"
        )
    if name is None or problems:
        raise UserError(*problems)
    file = folder / name
    # The file's form, then its checksum in the record, before anything in it is believed.
    check_safetensors(file)
    artefacts.check(folder, run, name)
    return Source(folder, file, task, method, sha256_file(file))


def _tasks_before(key: str, folder: Path, run: Run) -> set[str]:
    """Returns the tasks of all runs that this one began from or read, and those before them.

    Raises UserError if the record of one of them is gone.
    """
    tasks, seen, left = set(), {folder}, _before(run)
    while left:
        if (earlier := left.pop()) in seen:
            continue
        try:
            found = read_finished(earlier)
        except UserError as e:
            raise UserError(
                f"{key}: {folder} began from {earlier}, which may be a run on this run's own "
                f"task: {e}; put it back, or name another run"
            ) from e
        tasks.add(found["config"]["task"])
        seen.add(earlier)
        left += _before(found)
    return tasks


def _before(run: Run) -> list[Path]:
    """Returns the directories of the runs that this one began from (`init_from`) or read."""
    sources = [source["folder"] for source in run.get("sources", [])]
    return [Path(text) for text in (run["init_from"], *sources) if text]
