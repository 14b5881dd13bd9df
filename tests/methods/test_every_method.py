"""Rules that hold for every method of the suite, whichever there are."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import METHODS
from dora import CONF
from dora.data import npz
from dora.method_choice import packaged
from dora.methods.base import Method
from dora.records import artefacts
from dora.training.build import build
from dora.training.lines import Lines
from dora.training.prepare import prepare
from dora.training.processes import World
from runs import run, small

# What a class states (title, budget, …) and the moments.
MOMENTS = {n for n in {*vars(Method), *Method.__annotations__} if not n.startswith("_")}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_defines_only_moments_of_the_base_class(name: str) -> None:
    own = [cls for cls in packaged(name).kind.__mro__ if cls not in Method.__mro__]
    assert own
    assert {public for cls in own for public in vars(cls) if public[0] != "_"} <= MOMENTS


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_yaml_says_its_name_and_explains_every_setting(name: str) -> None:
    text = (CONF / "method" / f"{name}.yaml").read_text()
    chosen = packaged(name)
    fields = [field.name for field in dataclasses.fields(chosen.settings)]
    assert chosen.name == name
    assert sorted(re.findall(r"^(\w+): \S+ +# \S", text, re.MULTILINE)) == sorted(fields)


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_model_with_the_stored_tensors_gives_the_same_logits(
    name: str, tmp_path: Path
) -> None:
    config = small(tmp_path, f"method={name}", "keep_model=true", "budget=r2")
    record = run(config)
    prepared = prepare(config)
    whole = config.chosen.kind.result == "model"
    file = prepared.folder / artefacts.weights_name(config.chosen.kind.result)
    loop = build(prepared, World(0, 1, torch.device("cpu")), None, Lines(None))
    before = loop.predict(loop.setup.reported["dev"])
    stored = safetensors.torch.load_file(file)
    assert stored.keys() == loop.result().keys()
    loop.put(stored)
    logits = loop.predict(loop.setup.reported["dev"])
    np.testing.assert_array_equal(logits, npz.load(prepared.folder)["best/dev/logits"])
    assert not np.array_equal(logits, before)
    # The counts in the record are those of the files.
    head = set(loop.setup.head)
    held = sum(
        tensor.numel()
        for key, tensor in stored.items()
        if key not in head and not key.endswith(".g")
    )
    assert record["params"]["adapter_end"] == record["params"]["stored"] == (0 if whole else held)
    assert record["ranks"]["end"] == loop.setup.method.ranks()
