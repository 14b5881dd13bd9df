"""The finished run that another one starts from: found, and checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora.adapters.budget import Matrix
from dora.backbones import backbone, tensors
from dora.config import Config
from dora.errors import UserError
from dora.files import check_safetensors, sha256_file
from dora.plain import cut
from dora.records import artefacts
from dora.records.record import read_finished


@dataclass(frozen=True)
class Start:
    """A finished run to start from: its directory, ranks by matrix and scale (none for full), and hash."""

    folder: Path
    ranks: dict[str, int]
    scale: float | None
    fingerprint: str


def read_start(config: Config, weights: str, architecture: dict[str, Any]) -> Start:
    """The run that `init_from` names. Raises UserError where it does not fit this one, or is damaged.

    `weights`: the fingerprint of this run's model; `architecture`: its config.json.
    """
    folder = Path(str(config.init_from)).expanduser()
    try:
        run = read_finished(folder)
    except UserError as e:
        raise UserError(f"init_from must be the directory of a finished run: {e}") from e
    full = config.method_name == "full"
    name = artefacts.FULL_WEIGHTS if full else artefacts.WEIGHTS
    file = folder / name
    problems = []
    try:
        there = file.is_file()
    except OSError as e:
        raise UserError(f"init_from={folder}: {file} cannot be read: {e.strerror}") from e
    if not there:
        again = (
            "rerun it with keep_model=true force=true" if full else "train it again with force=true"
        )
        problems.append(f"init_from={folder} kept no weights ({file.name}); {again}")
    for what, theirs, ours in (
        ("method", run["config"]["method"]["name"], config.method_name),
        ("model", run["fingerprints"]["model"], weights),
        ("target", run["config"]["target"], None if full else list(config.targets())),
    ):
        if theirs != ours:
            problems.append(
                f"init_from={folder} has another {what} ({theirs}); this run has {ours}"
            )
    if problems:
        raise UserError(*problems)
    check_safetensors(file)
    artefacts.check(folder, run, name)
    ranks, scale = run["ranks"]["end"], run.get("scale")
    shapes = tensors.of_files([file]) or {}
    if full:
        ranks, scale = {}, None
        problems = tensors.misfits(architecture, shapes, f"the weights of init_from, in {file},")
    else:
        matrices = backbone.find_linears(architecture, config.targets())
        problems = _start_problems(folder / "run.json", ranks, scale, matrices)
        gated = bool(run["params"].get("gates")) or any(name.endswith(".g") for name in shapes)
        problems = problems or _factor_problems(file, shapes, matrices, ranks, gated)
        problems += _strange(file, shapes, matrices, gated, str(architecture["model_type"]))
    problems += [
        f"{file} is damaged: {tensor} holds {kind}, and weights are floating-point numbers"
        for tensor, kind in tensors.not_floating(file).items()
    ]
    if problems:
        raise UserError(
            *(f"{p}; name another run, or train this one again with force=true" for p in problems)
        )
    return Start(folder, ranks, scale, sha256_file(file))


def _start_problems(
    file: Path, ranks: dict[str, int], scale: float | None, matrices: tuple[Matrix, ...]
) -> list[str]:
    """What is wrong with a record's scale and ranks, which its weights are read by."""
    problems = []
    if scale is None or scale <= 0:
        problems.append(f"{file} is damaged: scale={scale!r} must be a finite number above 0")
    strange = ranks.keys() - {m.name for m in matrices}
    return problems + [
        f"{file} is damaged: ranks.end names {cut(name)}, which is no matrix of this run"
        for name in sorted(strange)
    ]


def _factor_problems(
    file: Path,
    shapes: dict[str, tensors.Shape],
    matrices: tuple[Matrix, ...],
    ranks: dict[str, int],
    gated: bool,
) -> list[str]:
    """The adapter's tensors that are missing from `file`, or are not of the ranks in the record."""
    problems = []
    for m in matrices:
        rank = ranks.get(m.name, 0)
        wanted = {"A": (rank, m.d_in), "B": (m.d_out, rank), **({"g": (rank,)} if gated else {})}
        for factor, shape in wanted.items():
            name = f"{m.name}.{factor}"
            if shapes.get(name) != shape:
                held = f"is {shapes[name]}" if name in shapes else "is missing"
                problems.append(f"{file} is damaged: {name} {held}, run.json makes it {shape}")
    return _some(problems)


def _strange(
    file: Path,
    shapes: dict[str, tensors.Shape],
    matrices: tuple[Matrix, ...],
    gated: bool,
    kind: str,
) -> list[str]:
    """The tensors of `file` that are neither the adapter's nor a head's. The head itself is left there: it stays new."""
    factors = ("A", "B", "g") if gated else ("A", "B")
    own = {f"{m.name}.{factor}" for m in matrices for factor in factors}
    problems = [
        f"{file} is not this run's: it holds {cut(name)}, which is no part of its adapter or head"
        for name in sorted(shapes.keys() - own)
        if not tensors.in_head(name, kind) and tensors.bare(name, kind) not in tensors.POOLER
    ]
    return _some(problems)


def _some(problems: list[str]) -> list[str]:
    """The first three, and how many more there are."""
    more = f"; {len(problems) - 3} more tensors are not as they should be"
    return problems if len(problems) <= 3 else [*problems[:2], problems[2] + more]
