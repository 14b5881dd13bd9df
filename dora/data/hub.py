"""Files of a pinned revision from the hub: from its cache, or downloaded, or a clear error within seconds."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Literal

from dora.errors import UserError

_PROBE_S = 6.0


def fetch_hub(
    repo: str,
    revision: str,
    patterns: list[str],
    kind: Literal["model", "dataset"],
    instead: str,
    whole: Callable[[Path], bool] = lambda folder: True,
) -> Path:
    """The local snapshot of a hub repository's files, from the cache or, failing that, downloaded.

    Every pattern must match a file. A pattern may name alternatives in order of preference,
    "*.safetensors|*.bin": a later one is fetched only where the repository has none of the earlier;
    an empty one ("merges.txt|") makes the file optional. `whole` says more of what is in the cache than names can.
    `instead` tells the user what else works.

    Raises `UserError` within seconds where the hub cannot be reached: huggingface_hub by itself retries
    for most of a minute.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    choices = [pattern.split("|") for pattern in patterns]

    def snapshot(choice: int, wanted: list[list[str]], cached: bool) -> Path:
        allow = [c[choice] for c in wanted if choice < len(c) and c[choice]]
        found = snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=allow, local_files_only=cached
        )
        return Path(found)

    name = f"{kind} {repo} at {revision[:8]}"
    try:
        found = snapshot(0, choices, cached=True)
        if not _lacking(found, choices) and whole(found):
            return found
    except FileNotFoundError:  # not in the cache, or known to be incomplete there
        pass
    except ValueError as error:  # no valid name of a repository
        raise UserError(f"{name}: {error}; use {instead}") from error

    failure = _answer(
        lambda: HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=_PROBE_S)
    )
    if failure is not None:
        why = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
        raise UserError(
            f"{name} is not (or not whole) in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} "
            f"does not deliver it ({why}); use {instead}"
        ) from failure
    lacking = choices
    for choice in range(max(map(len, choices))):
        try:
            found = snapshot(choice, lacking, cached=False)
        except (
            Exception
        ) as error:  # whichever HTTP library the installed huggingface_hub is built on
            raise UserError(
                f"{name}: download broke off ({error}); run again to go on, or use {instead}"
            ) from error
        if not (lacking := _lacking(found, choices)):
            return found
    raise UserError(f"{name} has no file {', '.join('|'.join(c) for c in lacking)}; use {instead}")


def _lacking(folder: Path, choices: list[list[str]]) -> list[list[str]]:
    """The patterns of which no alternative matches a file in `folder`; an empty alternative always does."""
    held = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [c for c in choices if "" not in c and not any(fnmatch(h, p) for h in held for p in c)]


def _answer(call: Callable[[], object]) -> Exception | None:
    """What `call` raised, `TimeoutError` where it took over `_PROBE_S`, None where all is well.

    In a thread that can be abandoned: looking up a host's name obeys no HTTP timeout.
    """
    outcome: list[Exception | None] = []

    def attempt() -> None:
        try:
            call()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return outcome[0] if outcome else TimeoutError(f"no answer within {_PROBE_S:g} s")
