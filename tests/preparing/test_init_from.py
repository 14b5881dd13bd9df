"""A run to start from is whole, or its damage is named before a model is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dora.adapters.budget import Matrix
from dora.backbones.architectures import USUAL
from dora.backbones.backbone import find_linears, fingerprint, load_model, locate
from dora.backbones.model_config import read_config
from dora.errors import UserError
from dora.preparing import init_from
from dora.preparing.init_from import _misfits
from dora.preparing.prepare import Prepared
from dora.records import artefacts
from dora.training.build import attach
from folders import model_folder, prepared
from record_files import write_run
from runs import change_record

RANK = 2  # of every matrix of the run to start from


def finished(place: Path, method: str, **changes: Any) -> tuple[Path, Path]:
    """Writes a finished run as `method` leaves it; returns (model folder, the run's directory).

    `changes`: entries of run.json that replace the usual ones.
    """
    # Written by hand rather than trained: each test then damages one thing in known content.
    base = locate(str(model_folder(place / "m", "bert")))
    matrices = find_linears(read_config(base.path), USUAL)
    ranks = {} if method == "full" else {m.name: RANK for m in matrices}
    target = None if method == "full" else list(USUAL)
    config = {
        "task": "wnli",
        "method": {"name": method},
        "model": "m",
        "data": "dir",
        "budget": "r2",
        "target": target,
    }
    run = {
        "scale": None if method == "full" else 1.0,
        "fingerprints": {"model": fingerprint(base)},
        "config": config,
        **changes,
    }
    folder = write_run(place, method, 1, 0.5, ranks=ranks, **run)
    if method == "full":
        (folder / "model").mkdir()
        save_file(
            load_file(base.path / "model.safetensors"), folder / "model" / "model.safetensors"
        )
        return base.path, folder
    tensors = {}
    for m in matrices:
        tensors |= {
            f"{m.name}.A": np.ones((RANK, m.d_in), "f"),
            f"{m.name}.B": np.ones((m.d_out, RANK), "f"),
        }
        tensors |= {f"{m.name}.g": np.ones(RANK, "f")} if method == "dora" else {}
    save_file(tensors, folder / "best.safetensors")
    return base.path, folder


def started(place: Path, base: Path, folder: Path, method: str) -> Prepared:
    """Prepares a run of `method` that starts from the run in `folder`."""
    return prepared(base, place, [f"method={method}", "budget=r2", f"init_from={folder}"])


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_a_whole_run_is_taken(method: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, method)
    earlier = started(tmp_path, base, folder, method).earlier
    assert earlier is not None
    assert (earlier.folder, earlier.scale) == (folder, None if method == "full" else 1.0)
    assert set(earlier.ranks.values()) == (set() if method == "full" else {RANK})


@pytest.mark.parametrize("scale", [math.nan, math.inf, "1.0", None, True, [1.0], 0, 0.0, -1.0])
def test_a_scale_that_is_no_number_is_refused(scale: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora", scale=scale)
    with pytest.raises(
        UserError,
        match=r"run\.json (is damaged: scale=.* must be a finite number above 0"
        r"|cannot be read \((scale is .* must be a|\w+: (NaN|Infinity) is no JSON))",
    ):
        started(tmp_path, base, folder, "lora")


# JSON has them all; Python would take 2.0 and True for whole numbers.
@pytest.mark.parametrize("rank", ["2", 2.0, -1, None, True])
def test_a_rank_that_is_no_whole_number_is_refused(rank: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    run = json.loads((folder / "run.json").read_text())
    name = next(iter(run["ranks"]["end"]))
    run["ranks"]["end"][name] = rank
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(
        UserError, match=rf"ranks\.end\.{name} is {rank!r}, which must be a whole number from 0"
    ):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize(
    "ranks", [{"end": [1, 2]}, {"end": {"no.such.matrix": 2}}, {}, [], None, "x"]
)
def test_ranks_of_another_form_are_refused(ranks: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "ranks": ranks}))
    with pytest.raises(
        UserError, match=r"run\.json (is damaged: ranks\.end|cannot be read \(.*ranks)"
    ):
        started(tmp_path, base, folder, "lora")


# Without them nothing could say whether the run fits this one.
@pytest.mark.parametrize("key", ["config", "fingerprints"])
def test_a_record_without_a_part_of_itself_is_refused(key: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, key: None}))
    with pytest.raises(
        UserError, match=rf"cannot be read \({key} is None, which must be an object"
    ):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize(
    ("method", "factor"), [("lora", "A"), ("lora", "B"), ("dora", "g"), ("dora", "A")]
)
@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_tensor_of_the_adapter_that_does_not_fit_is_named(
    method: str, factor: str, damage: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, method)
    tensors = load_file(folder / "best.safetensors")
    name = f"bert.encoder.layer.1.output.dense.{factor}"
    held = tensors.pop(name)
    if damage != "missing":  # one column more, which only the shapes tell
        tensors[name] = np.ones((*held.shape[:-1], held.shape[-1] + 1), "f")
    save_file(tensors, folder / "best.safetensors")
    with pytest.raises(
        UserError, match=rf"best\.safetensors is damaged: {name} is .*run\.json makes it"
    ):
        started(tmp_path, base, folder, method)


def test_a_run_of_other_factors_is_not_called_damaged_for_a_method_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    tensors = load_file(file)
    save_file({name.replace(".A", ".d"): held for name, held in tensors.items()}, file)
    monkeypatch.setattr(init_from, "is_released", lambda kind: False)
    with pytest.raises(
        UserError, match=r"method=lora stores other factors \(.*\.A is missing"
    ) as told:
        started(tmp_path, base, folder, "lora")
    assert "starts_from_runs = False in LoRA" in str(told.value)
    assert "damaged" not in str(told.value)
    # Factors of LoRA's names and shapes are taken from a method of one's own, too.
    save_file(tensors, file)
    assert started(tmp_path, base, folder, "lora").earlier is not None


@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_tensor_of_the_fine_tuned_model_that_does_not_fit_is_named(
    damage: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, "full")
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    held = tensors.pop("encoder.layer.0.output.dense.weight")
    if damage != "missing":
        tensors["encoder.layer.0.output.dense.weight"] = held[:, :3].copy()
    save_file(tensors, file)
    with pytest.raises(
        UserError, match=r"init_from.*model\.safetensors.*encoder\.layer\.0\.output\.dense\.weight"
    ):
        started(tmp_path, base, folder, "full")


@pytest.mark.parametrize("method", ["lora", "full"])
# PyTorch would copy whole numbers into a parameter without a word.
@pytest.mark.parametrize("kind", ["i1", "i4", "u1", "?"])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    method: str, kind: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, method)
    file = folder / ("model/model.safetensors" if method == "full" else "best.safetensors")
    tensors = load_file(file)
    ends = "layer.0.output.dense.B", "layer.0.output.dense.weight"
    name = sorted(name for name in tensors if name.endswith(ends))[0]
    save_file({**tensors, name: tensors[name].astype(kind)}, file)
    with pytest.raises(
        UserError, match=rf"is damaged: {name} holds \w+, and weights are floating-point numbers"
    ):
        started(tmp_path, base, folder, method)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_weights_of_another_precision_are_taken(kind: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    save_file({name: tensor.astype(kind) for name, tensor in load_file(file).items()}, file)
    assert started(tmp_path, base, folder, "lora").earlier is not None


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.2.output.dense.A",  # the model has layers 0 and 1
        "bert.embeddings.word_embeddings.weight",
        "x",
    ],
)
def test_a_tensor_of_no_adapter_or_head_is_refused(name: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "adalora")
    file = folder / "best.safetensors"
    save_file({**load_file(file), name: np.ones(RANK, "f")}, file)
    with pytest.raises(
        UserError, match=rf"best\.safetensors is not this run's: it holds {name}, which is no part"
    ):
        started(tmp_path, base, folder, "adalora")


def test_a_tensor_that_the_method_has_not_is_refused_once_it_is_attached(tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    # Under a matrix's name a method may store tensors of its own; which ones shows when it is
    # attached, so `prepare` lets it pass.
    name = "bert.encoder.layer.0.output.dense.C"
    save_file({**load_file(file), name: np.ones(RANK, "f")}, file)
    prepared = started(tmp_path, base, folder, "lora")
    model, head = load_model(prepared.model, 2, None, 1)
    with pytest.raises(UserError, match=f"holds {name}, which this run's method has not"):
        attach(prepared, model, head)


# A head is never taken up: the other run's task may have other classes.
@pytest.mark.parametrize(
    "name", ["classifier.weight", "classifier.bias", "bert.pooler.dense.weight"]
)
def test_a_head_of_any_shape_is_left_where_it_is(name: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    save_file({**load_file(file), name: np.ones((7, 5), "f")}, file)
    assert started(tmp_path, base, folder, "lora").earlier is not None


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_that_are_not_as_the_record_has_them_are_refused(
    method: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, method)
    name = "model/model.safetensors" if method == "full" else "best.safetensors"
    change_record(folder, files=artefacts.sums(folder, [name]))
    assert started(tmp_path, base, folder, method).earlier is not None
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 0x40  # within a tensor: another finite number, which only the checksum tells
    (folder / name).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{name} is damaged or another's: its sha256 is not the one in run\.json"
    ):
        started(tmp_path, base, folder, method)


@pytest.mark.parametrize(
    ("trained", "kept", "recorded"),
    [
        (3, 0, 3),  # LoRA's
        (2, 3, 5),  # a chain's
        (0, 3, 3),  # a chain's last link without a component of this matrix
        (3, 3, 3),  # start values beside the trained factors
    ],
)
def test_a_recorded_rank_counts_kept_components_but_no_start_values(trained, kept, recorded):
    shapes = {"m.A": (trained, 4), "m.B": (5, trained)}
    if kept:
        shapes |= {"m.kept_A": (kept, 4), "m.kept_B": (5, kept)}
    matrices = (Matrix("m", 4, 5),)

    def problems(rank: int) -> list[str]:
        return _misfits(shapes, matrices, {"m": rank}, gated=False)

    assert problems(recorded) == []
    assert problems(recorded + 1)
