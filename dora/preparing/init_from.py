"""The finished run that another one starts from (`init_from`); checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora.adapters.budget import Matrix
from dora.backbones import backbone, tensors
from dora.configuration.config import Config
from dora.configuration.method_class import is_released
from dora.errors import UserError
from dora.files import Shape, check_safetensors, sha256_file, tensor_shapes
from dora.plain import cut
from dora.records import artefacts
from dora.records.identity import configuration
from dora.records.record import read_finished


@dataclass(frozen=True)
class EarlierRun:
    """A finished run to start from.

    `file`: its weights. `ranks`: the rank of each matrix by name; empty without low-rank layers.
    `scale`: its layers' scale, None without low-rank layers. `fingerprint`: the sha256 of `file`.
    """

    folder: Path
    file: Path
    ranks: dict[str, int]
    scale: float | None
    fingerprint: str


def read_earlier_run(config: Config, weights: str, model_config: dict[str, Any]) -> EarlierRun:
    """Finds and checks the run that `init_from` names.

    `weights`: the fingerprint of this run's model; `model_config`: its config.json. Raises
    UserError if the other run does not fit this one, or is damaged.
    """
    folder = Path(str(config.init_from)).expanduser()
    try:
        run = read_finished(folder)
    except UserError as e:
        raise UserError(f"init_from must be the directory of a finished run: {e}") from e
    form = config.chosen.kind.result
    name = artefacts.weights_name(form)
    file = folder / name
    if problems := [*_absent(folder, file, form), *_unlike(folder, run, config, weights)]:
        raise UserError(*problems)
    # The file's form, then its checksum in the record, before any shape in it is believed.
    check_safetensors(file)
    artefacts.check(folder, run, name)
    problems = [
        *_content_problems(file, run, config, model_config),
        *(
            f"{file} is damaged: {tensor} holds {kind}, and weights are floating-point numbers"
            for tensor, kind in tensors.not_floating(file).items()
        ),
    ]
    if problems:
        raise UserError(
            *(f"{p}; name another run, or train this one again with force=true" for p in problems)
        )
    ranks = run["ranks"]["end"] if form in ("adapter", "modules") else {}
    scale = run.get("scale") if form == "adapter" else None
    return EarlierRun(folder, file, ranks, scale, sha256_file(file))


def _content_problems(
    file: Path, run: dict[str, Any], config: Config, model_config: dict[str, Any]
) -> list[str]:
    """Returns the problems of a run's weights, by the kind of result that its method leaves.

    Raises UserError if a method of one's own stores other factors than LoRA's.
    """
    form, shapes = config.chosen.kind.result, tensor_shapes(file)
    if form == "model":
        return tensors.misfits(model_config, shapes, f"the weights of init_from, in {file},")
    if form == "weights":
        return _foreign_tensors(file, shapes, (), model_config)
    ranks, record = run["ranks"]["end"], file.parent / "run.json"
    matrices = backbone.find_linears(model_config, config.targets())
    if form == "modules":
        # `carry_over` compares names and shapes with those of this run's modules.
        return _foreign_ranks(record, ranks, matrices)
    problems = _start_problems(record, ranks, run.get("scale"), matrices)
    # By record and file: one of the two may have been changed by hand, and both must show it.
    gated = bool(run["params"].get("gates")) or any(f"{m.name}.g" in shapes for m in matrices)
    misfits = [] if problems else _misfits(shapes, matrices, ranks, gated)
    # The checksum has told that the file is whole: a method of one's own may store other factors.
    if misfits and not is_released(config.chosen.kind):
        raise UserError(_other_factors(config, misfits))
    problems += _first_three([f"{file} is damaged: {misfit}" for misfit in misfits])
    return problems + _foreign_tensors(file, shapes, matrices, model_config)


def _absent(folder: Path, file: Path, form: str) -> list[str]:
    """Returns a message if the run kept no weights. Raises UserError if the file is unreadable."""
    try:
        there = file.is_file()
    except OSError as e:
        raise UserError(f"init_from={folder}: {file} cannot be read: {e.strerror}") from e
    if there:
        return []
    whole = form == "model"
    again = (
        "rerun it with keep_model=true force=true" if whole else "train it again with force=true"
    )
    return [f"init_from={folder} kept no weights ({file.name}); {again}"]


def _unlike(folder: Path, run: dict[str, Any], config: Config, weights: str) -> list[str]:
    """Returns a message for each of method, model, target and layout in which two runs differ."""
    target = list(config.targets()) if config.chosen.has_budget else None
    before = configuration(run)["method"]
    pairs = [
        ("method", before["name"], config.method_name),
        ("model", run["fingerprints"]["model"], weights),
        ("target", run["config"]["target"], target),
    ]
    if before["name"] == config.method_name:  # another method's settings say nothing here
        # The components come with the scale that these gave them, and keep it.
        of_scale = [key for key in ("alpha", "scaling") if key in before]
        for key in (*config.chosen.kind.layout, *of_scale):
            ours = getattr(config.chosen.settings, key)
            pairs.append((f"method.{key}", before.get(key), ours))
    return [
        f"init_from={folder} has another {what} ({theirs}); this run has {ours}"
        for what, theirs, ours in pairs
        if theirs != ours
    ]


def _start_problems(
    file: Path, ranks: dict[str, int], scale: float | None, matrices: tuple[Matrix, ...]
) -> list[str]:
    """Returns a message for each error in a record's scale and ranks, by which weights are read."""
    problems = []
    if scale is None or scale <= 0:
        problems.append(f"{file} is damaged: scale={scale!r} must be a finite number above 0")
    return problems + _foreign_ranks(file, ranks, matrices)


def _foreign_ranks(file: Path, ranks: dict[str, int], matrices: tuple[Matrix, ...]) -> list[str]:
    """Returns a message for each name in a record's ranks that is no matrix of this model."""
    return [
        f"{file} is damaged: ranks.end names {cut(name)}, which is no matrix of this run"
        for name in sorted(ranks.keys() - {m.name for m in matrices})
    ]


def _other_factors(config: Config, misfits: list[str]) -> str:
    """Returns the message for a method outside the suite whose factors are not LoRA's."""
    return (
        f"init_from={config.init_from}: init_from reads A (rank, d_in) and B (d_out, rank) of each "
        f"matrix, and method={config.method_name} stores other factors ({misfits[0]}); state "
        f"starts_from_runs = False in {config.chosen.kind.__name__}, and start from a run of a "
        "method with LoRA's factors, or merge that run into a model (python -m dora.export RUN "
        "--merge) and give its folder as model.path"
    )


def _misfits(
    shapes: dict[str, Shape],
    matrices: tuple[Matrix, ...],
    ranks: dict[str, int],
    gated: bool,
) -> list[str]:
    """Returns a message for each factor that the file lacks, or has in another rank than recorded.

    `shapes`: of the file's tensors by name. `ranks`: the recorded ones. `gated`: each component has
    a gate, `g`.
    """
    found = []
    for m in matrices:
        # A recorded rank counts kept components too, which have tensors of their own, unless they
        # are the start values of the trained ones, and so as many as these.
        kept = shapes.get(f"{m.name}.kept_A", (0,))[0]
        trained = shapes.get(f"{m.name}.A", (0,))[0]
        rank = ranks.get(m.name, 0)
        start_values = kept == trained == rank
        rank -= 0 if start_values else kept
        wanted = {"A": (rank, m.d_in), "B": (m.d_out, rank), **({"g": (rank,)} if gated else {})}
        wanted |= {"kept_A": (kept, m.d_in), "kept_B": (m.d_out, kept)} if kept else {}
        for factor, shape in wanted.items():
            name = f"{m.name}.{factor}"
            if shapes.get(name) != shape:
                held = f"is {shapes[name]}" if name in shapes else "is missing"
                found.append(f"{name} {held}, run.json makes it {shape}")
    return found


def _foreign_tensors(
    file: Path,
    shapes: dict[str, Shape],
    matrices: tuple[Matrix, ...],
    model_config: dict[str, Any],
) -> list[str]:
    """Returns messages on tensors of `file` that belong to no adapter, backbone or head.

    The head may be there and is not used. Tensors under a matrix's name may be a method's own;
    `carry_over` refuses those that this method does not have.
    """
    kind = str(model_config["model_type"])
    names = {m.name for m in matrices}
    # Only a method without adapted matrices may store tensors of the backbone.
    backbones = set() if matrices else tensors.names(model_config)
    problems = [
        f"{file} is not this run's: it holds {cut(name)}, which is no part of its adapter or head"
        for name in sorted(shapes)
        if name.rpartition(".")[0] not in names
        and tensors.bare(name, kind) not in backbones
        and not tensors.in_head(name, kind)
        and tensors.bare(name, kind) not in tensors.POOLER
    ]
    return _first_three(problems)


def _first_three(problems: list[str]) -> list[str]:
    """Returns the first three messages; the third says how many more there are."""
    more = f"; {len(problems) - 3} more tensors are not as they should be"
    return problems if len(problems) <= 3 else [*problems[:2], problems[2] + more]
