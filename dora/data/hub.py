"""Files of a pinned revision on the hub: cached, else downloaded, else a quick clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Literal

from dora.errors import UserError, reason

# Seconds after which the hub counts as out of reach: more than a slow connection needs for one
# request, and little to wait for a message.
_PROBE_S = 6.0


@dataclass(frozen=True)
class _Revision:
    """One revision of a hub repository. `instead`: what the user may give in its place."""

    repo: str
    kind: Literal["model", "dataset"]
    revision: str
    instead: str

    def __str__(self) -> str:
        return f"{self.kind} {self.repo} at {self.revision[:8]}"

    def snapshot(self, patterns: list[str], cached: bool) -> Path:
        """Returns the local folder with the files that match `patterns`.

        `cached`: takes what is in the cache; raises FileNotFoundError where nothing is.
        """
        # Imported late, as everywhere in this module: the import is slow, and data=mini and
        # data=dir never need it.
        from huggingface_hub import snapshot_download

        found = snapshot_download(
            self.repo,
            repo_type=self.kind,
            revision=self.revision,
            allow_patterns=patterns,
            local_files_only=cached,
        )
        return Path(found)


def fetch_hub(
    repo: str,
    revision: str,
    patterns: list[str],
    kind: Literal["model", "dataset"],
    instead: str,
    whole: Callable[[Path], bool] = lambda folder: True,
) -> Path:
    """Returns the local snapshot of a hub repository's files, downloaded if the cache lacks it.

    `patterns`: each must match a file. A pattern may list alternatives in order of preference, as
    in "*.safetensors|*.bin": a later one is fetched only where the repository has none of the
    earlier. An empty alternative, as in "merges.txt|", makes the file optional.
    `instead`: in words, what the user may give in its place.
    `whole`: a further check of the cached snapshot, beyond the names of its files.

    Raises UserError within seconds where the hub cannot be reached. huggingface_hub alone would
    retry for most of a minute.
    """
    choices = [pattern.split("|") for pattern in patterns]
    wanted = _Revision(repo, kind, revision, instead)
    if (found := _from_cache(wanted, choices, whole)) is not None:
        return found
    _check_reachable(wanted)
    return _download(wanted, choices)


def _from_cache(
    wanted: _Revision, choices: list[list[str]], whole: Callable[[Path], bool]
) -> Path | None:
    """Returns the cached snapshot, or None where it lacks a file or is not `whole`.

    Raises UserError where the repository's name is not a valid one.
    """
    try:
        found = wanted.snapshot(_nth(0, choices), cached=True)
        # huggingface_hub returns a cached folder even where an earlier download ended half-way, or
        # fetched other files.
        return found if not _lacking(found, choices) and whole(found) else None
    except FileNotFoundError:  # not in the cache, or known to be incomplete there
        return None
    except ValueError as error:  # no valid name of a repository
        raise UserError(f"{wanted}: {error}; use {wanted.instead}") from error


def _check_reachable(wanted: _Revision) -> None:
    """Raises UserError where the hub does not answer, or does not have the revision."""
    from huggingface_hub import HfApi, constants

    failure = _failure_of(
        lambda: HfApi().repo_info(
            wanted.repo, repo_type=wanted.kind, revision=wanted.revision, timeout=_PROBE_S
        )
    )
    if failure is not None:
        raise UserError(
            f"{wanted} is not (or not whole) in the cache {constants.HF_HUB_CACHE}, and "
            f"{constants.ENDPOINT} does not deliver it ({reason(failure)}); use {wanted.instead}"
        ) from failure


def _download(wanted: _Revision, choices: list[list[str]]) -> Path:
    """Downloads the first alternative of each pattern that the repository has.

    Raises UserError where the download breaks off or a pattern matches no file.
    """
    lacking = choices
    # One round for each place in the order of preference. A single download of all alternatives
    # would fetch the weights in every format.
    for choice in range(max(map(len, choices))):
        try:
            found = wanted.snapshot(_nth(choice, lacking), cached=False)
        # Any Exception: the class depends on the HTTP library below the installed huggingface_hub.
        except Exception as error:
            raise UserError(
                f"{wanted}: download broke off ({reason(error)}); run again to go on, "
                f"or use {wanted.instead}"
            ) from error
        if not (lacking := _lacking(found, choices)):
            return found
    missing = ", ".join("|".join(c) for c in lacking)
    raise UserError(f"{wanted} has no file {missing}; use {wanted.instead}")


def _nth(choice: int, choices: list[list[str]]) -> list[str]:
    """Returns alternative number `choice` of every pattern that has so many, less empty ones."""
    return [c[choice] for c in choices if choice < len(c) and c[choice]]


def _lacking(folder: Path, choices: list[list[str]]) -> list[list[str]]:
    """Returns the patterns with no alternative that matches a file in `folder`.

    A pattern with an empty alternative is never among them.
    """
    held = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [c for c in choices if "" not in c and not any(fnmatch(h, p) for h in held for p in c)]


def _failure_of(call: Callable[[], object]) -> Exception | None:
    """Returns the exception of `call`, TimeoutError after `_PROBE_S` seconds, None on success."""
    outcome: list[Exception | None] = []

    def attempt() -> None:
        try:
            call()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # A daemon thread can be abandoned: the look-up of a host's name obeys no HTTP timeout.
    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return outcome[0] if outcome else TimeoutError(f"no answer within {_PROBE_S:g} s")
