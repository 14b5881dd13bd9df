"""The finished run that another one starts from (`init_from`); checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora.adapters.budget import Matrix
from dora.backbones import backbone
from dora.checked_files import Shape, check_safetensors, sha256_file, tensor_shapes
from dora.configuration.config import Config
from dora.configuration.method_class import is_released
from dora.errors import UserError
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
    check_safetensors(file)
    # Method, model and target are this run's by now, so that a file as its run wrote it fits.
    artefacts.check(folder, run, name)
    ranks = run["ranks"]["end"] if form in ("adapter", "modules") else {}
    # A method of one's own may store other factors, whose values may mean another start here.
    if form == "adapter" and not is_released(config.chosen.kind):
        matrices = backbone.find_linears(model_config, config.targets())
        if (other := _other_factors(tensor_shapes(file), matrices, ranks)) is not None:
            raise UserError(_not_started(config, other))
    scale = run.get("scale") if form == "adapter" else None
    return EarlierRun(folder, file, ranks, scale, sha256_file(file))


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


def _other_factors(
    shapes: dict[str, Shape], matrices: tuple[Matrix, ...], ranks: dict[str, int]
) -> str | None:
    """Returns the first matrix without A (r, d_in) and B (d_out, r) of its recorded rank, or None.

    `shapes`: of a file's tensors by name.
    """
    for m in matrices:
        A, B, kept = (shapes.get(f"{m.name}.{factor}", (0,)) for factor in ("A", "B", "kept_A"))
        r = A[0]
        # A recorded rank counts kept components too, unless they are the trained ones' start values.
        recorded = ranks.get(m.name, 0) in (r, r + kept[0])
        if (A, B) != ((r, m.d_in), (m.d_out, r)) or not recorded:
            return m.name
    return None


def _not_started(config: Config, matrix: str) -> str:
    """Returns the message for a method outside the suite whose factors are not LoRA's."""
    return (
        f"init_from={config.init_from}: init_from reads A (rank, d_in) and B (d_out, rank) of each "
        f"matrix, and method={config.method_name} stores other factors of {matrix}; state "
        f"starts_from_runs = False in {config.chosen.kind.__name__}, and start from a run of a "
        "method with LoRA's factors, or merge that run into a model (python -m dora.export RUN "
        "--merge) and give its folder as model.path"
    )
