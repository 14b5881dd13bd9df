"""A run to start from is whole, or what is damaged in it is named before anything is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dora.backbone import architecture, find_linears, fingerprint, locate
from dora.errors import UserError
from dora.linears import KINDS
from dora.prepare import Prepared
from folders import model_folder, prepared
from records import write_run

RANK = 2


def finished(place: Path, method: str, **changes: Any) -> tuple[Path, Path]:
    """(model folder, directory of a finished run on it), as a run with these methods leaves them."""
    base = locate(str(model_folder(place / "m", "bert")), None, None, None, "main", False)
    matrices = find_linears(architecture(base), KINDS)
    ranks = {} if method == "full" else {m.name: RANK for m in matrices}
    target = None if method == "full" else list(KINDS)
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
        save_file(load_file(base.path / "model.safetensors"), folder / "model" / "model.safetensors")
        return base.path, folder
    tensors = {}
    for m in matrices:
        tensors |= {f"{m.name}.A": np.ones((RANK, m.d_in), "f"), f"{m.name}.B": np.ones((m.d_out, RANK), "f")}
        tensors |= {f"{m.name}.g": np.ones(RANK, "f")} if method == "dora" else {}
    save_file(tensors, folder / "best.safetensors")
    return base.path, folder


def started(place: Path, base: Path, folder: Path, method: str) -> Prepared:
    return prepared(base, place, [f"method={method}", "budget=r2", f"init_from={folder}"])


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_a_whole_run_is_taken(method: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, method)
    start = started(tmp_path, base, folder, method).start
    assert start is not None
    assert (start.folder, start.scale) == (folder, None if method == "full" else 1.0)
    assert set(start.ranks.values()) == (set() if method == "full" else {RANK})


@pytest.mark.parametrize("scale", [math.nan, math.inf, "1.0", None, True, [1.0], 0, 0.0, -1.0])
def test_a_scale_that_is_no_number_is_refused(scale: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora", scale=scale)
    with pytest.raises(UserError, match=r"run\.json is damaged: scale=.* must be a finite number"):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize("rank", ["2", 2.0, -1, None, True])
def test_a_rank_that_is_no_whole_number_is_refused(rank: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    run = json.loads((folder / "run.json").read_text())
    name = next(iter(run["ranks"]["end"]))
    run["ranks"]["end"][name] = rank
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=rf"ranks\.end of {name}, .* must be a whole number from 0"):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize("ranks", [{"end": [1, 2]}, {"end": {"no.such.matrix": 2}}, {}, [], None, "x"])
def test_ranks_of_another_form_are_refused(ranks: object, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "ranks": ranks}))
    with pytest.raises(UserError, match=r"run\.json is damaged: ranks\.end"):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize("key", ["config", "fingerprints"])
def test_a_record_without_a_part_of_itself_is_refused(key: str, tmp_path: Path) -> None:
    base, folder = finished(tmp_path, "lora")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, key: None}))
    with pytest.raises(UserError, match=r"has another (method|model) \(None\)"):
        started(tmp_path, base, folder, "lora")


@pytest.mark.parametrize(("method", "factor"), [("lora", "A"), ("lora", "B"), ("dora", "g"), ("dora", "A")])
@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_tensor_of_the_adapter_that_does_not_fit_is_named(
    method: str, factor: str, damage: str, tmp_path: Path
) -> None:
    base, folder = finished(tmp_path, method)
    tensors = load_file(folder / "best.safetensors")
    name = f"bert.encoder.layer.1.output.dense.{factor}"
    held = tensors.pop(name)
    if damage != "missing":
        tensors[name] = np.ones((*held.shape[:-1], held.shape[-1] + 1), "f")
    save_file(tensors, folder / "best.safetensors")
    with pytest.raises(UserError, match=rf"best\.safetensors is damaged: {name} is .*run\.json makes it"):
        started(tmp_path, base, folder, method)


@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_tensor_of_the_fine_tuned_model_that_does_not_fit_is_named(damage: str, tmp_path: Path) -> None:
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
