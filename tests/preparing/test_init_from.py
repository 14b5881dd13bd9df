"""A run to start from is whole, or its damage is named before a model is loaded."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dora.adapters.budget import Matrix
from dora.adapters.peft_config import adapter_config
from dora.backbones.architectures import USUAL
from dora.backbones.backbone import find_linears, fingerprint, load_model, locate
from dora.backbones.model_config import read_config
from dora.errors import UserError
from dora.preparing import init_from
from dora.preparing.init_from import _other_factors
from dora.preparing.prepare import Prepared
from dora.records import artefacts
from dora.records.record import read_finished
from dora.sharing import exporting
from dora.sharing.form import Form
from dora.training.build import attach
from folders import model_folder, prepared
from record_files import write_run
from runs import change_record

RANK = 2  # of every matrix of the run to start from


def finished(place: Path, method: str) -> tuple[Path, Path]:
    """Writes a finished run as `method` leaves it; returns (model folder, the run's directory)."""
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
    }
    folder = write_run(place, method, 1, 0.5, ranks=ranks, **run)
    if method == "full":
        (folder / "model").mkdir()
        file = folder / "model" / "model.safetensors"
        save_file(load_file(base.path / "model.safetensors"), file)
        return base.path, recorded(folder, file)
    tensors = {}
    for m in matrices:
        tensors |= {
            f"{m.name}.A": np.ones((RANK, m.d_in), "f"),
            f"{m.name}.B": np.ones((m.d_out, RANK), "f"),
        }
        tensors |= {f"{m.name}.g": np.ones(RANK, "f")} if method == "dora" else {}
    save_file(tensors, folder / "best.safetensors")
    return base.path, recorded(folder, folder / "best.safetensors")


def recorded(folder: Path, file: Path) -> Path:
    """Returns the run's directory, after sealing its record with the checksum of its weights."""
    change_record(folder, files=artefacts.sums(folder, [str(file.relative_to(folder))]))
    return folder


def edited(folder: Path, **changes: Any) -> None:
    """Changes run.json with a text editor's means: as the oldest records are, without a seal."""
    run = json.loads((folder / "run.json").read_text())
    kept = {k: v for k, v in run.items() if k not in ("files", "sealed", "sha256")}
    (folder / "run.json").write_text(json.dumps({**kept, **changes}))


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


@pytest.mark.parametrize("scale", [math.nan, math.inf, "1.0", True, [1.0]])
def test_a_scale_that_is_no_number_is_refused(scale: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    edited(folder, scale=scale)
    with pytest.raises(
        UserError,
        match=r"run\.json cannot be read \((scale is .* must be a|\w+: (NaN|Infinity) is no JSON)",
    ):
        started(tmp_path, base, folder, "lora")


# JSON has them all; Python would take 2.0 and True for whole numbers.
@pytest.mark.parametrize("rank", ["2", 2.0, -1, None, True])
def test_a_rank_that_is_no_whole_number_is_refused(rank: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    ranks = json.loads((folder / "run.json").read_text())["ranks"]
    name = next(iter(ranks["end"]))
    edited(folder, ranks={**ranks, "end": {**ranks["end"], name: rank}})
    with pytest.raises(
        UserError, match=rf"ranks\.end\.{name} is {rank!r}, which must be a whole number from 0"
    ):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize("ranks", [{"end": [1, 2]}, {}, [], None, "x"])
def test_ranks_of_another_form_are_refused(ranks: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    edited(folder, ranks=ranks)
    with pytest.raises(UserError, match=r"run\.json cannot be read \(.*ranks"):
        started(tmp_path, base, folder, "lora")


# Without them nothing could say whether the run fits this one.
@pytest.mark.parametrize("key", ["config", "fingerprints"])
def test_a_record_without_a_part_of_itself_is_refused(key: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    edited(folder, **{key: None})
    with pytest.raises(
        UserError, match=rf"cannot be read \({key} is None, which must be an object"
    ):
        started(tmp_path, base, folder, "lora")


def test_a_record_without_checksums_is_refused_by_init_from_and_export(tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    change_record(folder, "files")
    said = f"{folder}: its record has no checksums; its command trains it anew"
    with pytest.raises(UserError) as caught:
        started(tmp_path, base, folder, "lora")
    assert caught.value.problems == (said,)
    # The adapter that an export would hand on.
    (folder / "adapter").mkdir()
    shutil.copy(folder / "best.safetensors", folder / artefacts.ADAPTER_WEIGHTS)
    config = adapter_config({}, str(base), ["classifier"])
    (folder / artefacts.ADAPTER_CONFIG).write_text(json.dumps(config))
    assert exporting.unfit(read_finished(folder), folder, Form()) == [said]


def test_a_run_of_other_factors_is_not_called_damaged_for_a_method_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    tensors = load_file(file)
    save_file({name.replace(".A", ".d"): held for name, held in tensors.items()}, file)
    recorded(folder, file)
    monkeypatch.setattr(init_from, "is_released", lambda kind: False)
    with pytest.raises(
        UserError, match=r"method=lora stores other factors of bert\.encoder\.layer\.0\."
    ) as told:
        started(tmp_path, base, folder, "lora")
    assert "starts_from_runs = False in LoRA" in str(told.value)
    assert "damaged" not in str(told.value)
    # Factors of LoRA's names and shapes are taken from a method of one's own, too.
    save_file(tensors, file)
    assert started(tmp_path, base, recorded(folder, file), "lora").earlier is not None


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.output.dense.C",
        "bert.encoder.layer.2.output.dense.A",  # the model has layers 0 and 1
        "x",
    ],
)
def test_a_tensor_that_the_method_has_not_is_refused_once_it_is_attached(
    name: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    # Which tensors a method has shows when it is attached, so `prepare` lets it pass.
    save_file({**load_file(file), name: np.ones(RANK, "f")}, file)
    prepared = started(tmp_path, base, recorded(folder, file), "lora")
    model, head = load_model(prepared.model, 2, None, 1)
    with pytest.raises(UserError, match=f"holds {name}, which this run's method has not"):
        attach(prepared, model, head)


# A head is never taken up: the other run's task may have other classes.
@pytest.mark.parametrize("name", ["classifier.weight", "classifier.bias"])
def test_a_head_of_any_shape_is_left_where_it_is(name: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    file = folder / "best.safetensors"
    save_file({**load_file(file), name: np.ones((7, 5), "f")}, file)
    prepared = started(tmp_path, base, recorded(folder, file), "lora")
    model, head = load_model(prepared.model, 2, None, 1)
    drawn = model.state_dict()[name].clone()
    attach(prepared, model, head)
    assert torch.equal(model.state_dict()[name], drawn)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_that_are_not_as_the_record_has_them_are_refused(
    method: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, method)
    name = "model/model.safetensors" if method == "full" else "best.safetensors"
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
    assert _other_factors(shapes, matrices, {"m": recorded}) is None
    assert _other_factors(shapes, matrices, {"m": recorded + 1}) == "m"
