"""Rules that hold for every method of the suite, whichever there are.

With METHODS_FROM=FOLDER in the environment they are checked of the methods in FOLDER alone, a folder
as --config-dir names one: docs/adding-a-method.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from exported import dev_logits
from omegaconf import OmegaConf
from sklearn.metrics import accuracy_score

from conftest import linears, tiny, train_head_only
from dora.adapters.budget import Budget
from dora.configuration.method_choice import MethodChoice
from dora.configuration.method_class import moments
from dora.data import npz
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.methods.base import Method, RunInfo
from dora.methods.released import RELEASED
from dora.preparing.prepare import prepare
from dora.records import artefacts
from dora.sharing.exporting import export
from dora.sharing.form import Form
from dora.training.build import build
from dora.training.lines import Lines
from dora.training.processes import World
from runs import (
    METHODS_FROM,
    arrays,
    configure,
    cut,
    lines,
    only_run,
    run,
    same_files,
    small,
    small_glue,
)

METHODS = sorted(file.stem for file in (METHODS_FROM / "method").glob("*.yaml"))
assert METHODS, f"METHODS_FROM={METHODS_FROM} holds no method/*.yaml"
# Released methods have such a test of their own, or one of their kind's.
RESUMED = [pytest.param(m, marks=[pytest.mark.slow] if m in RELEASED else []) for m in METHODS]


def chosen(name: str) -> MethodChoice:
    """Returns a method with the defaults of its YAML, and of those that this one extends."""
    return configure(f"method={name}").chosen


@pytest.mark.parametrize("name", METHODS)
def test_a_method_defines_only_moments_of_the_base_class(name: str) -> None:
    own = [cls for cls in chosen(name).kind.__mro__ if cls not in Method.__mro__]
    assert own
    assert {public for cls in own for public in vars(cls) if public[0] != "_"} <= moments()


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_yaml_says_its_name_and_explains_every_setting(name: str) -> None:
    text = (METHODS_FROM / "method" / f"{name}.yaml").read_text()
    choice = chosen(name)
    fields = {field.name for field in dataclasses.fields(choice.settings)}
    assert choice.name == name
    assert not choice.unknown
    # A YAML that extends another one has some of them there.
    here = fields & OmegaConf.create(text).keys() if "\ndefaults:" in f"\n{text}" else fields
    assert sorted(re.findall(r"^(\w+): \S+ +# \S", text, re.MULTILINE)) == sorted(here)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a function from a method to the directory of a short run."""

    @functools.cache  # one run for all that is asked of it
    def of(name: str) -> Path:
        results = tmp_path_factory.mktemp(name)
        run(small(results, *words_of(name)))
        return only_run(results)

    return of


def words_of(name: str) -> tuple[str, ...]:
    """Returns the words of a method's short run, at a rate at which it leaves its start."""
    return (f"method={name}", "keep_model=true", "budget=r2", "lr=3e-3")


@pytest.mark.parametrize("name", METHODS)
def test_a_run_leaves_a_whole_record_that_its_predictions_bear_out(
    name: str, finished: Callable[[str], Path]
) -> None:
    folder = finished(name)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done"
    assert record["embedded"]
    saved = arrays(folder)
    rows = read_dir(TASKS["wnli"], small_glue())
    for which in ("best", "last"):
        predicted = saved[f"{which}/dev/logits"].argmax(1)
        assert record["results"][which]["accuracy"] == accuracy_score(rows["dev"].label, predicted)
        assert len(saved[f"{which}/test/logits"]) == len(rows["test"])
    assert (saved["test/ids"] == rows["test"].idx).all()
    evaluations = [e for e in lines(folder / "metrics.jsonl") if e["split"] == "dev"]
    assert [e["step"] for e in evaluations] == [6, 12, 18, 24]
    counted = [e for e in evaluations if e["step"] >= record["counts_from"]]
    assert record["results"]["best"]["accuracy"] == max(e["accuracy"] for e in counted)
    # The second half alone counts: an early score is not what the run's end is worth.
    late = record["counts_from"] > 18  # a method of one's own whose ranks are final late
    assert record["evaluations"]["counted"] == len(counted) == (1 if late else 2)
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_that_was_cut_ends_as_one_left_alone(
    name: str, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a method keeps from step to step, a counter too, belongs into its `state`.
    words = words_of(name)
    for step in (7, 14):
        cut(tmp_path, step, monkeypatch, *words)
    again = run(small(tmp_path, *words))
    assert len(again["resumed_from"]) == 2  # behind steps 7 and 14, or at the ends of their rounds
    same_files(finished(name), only_run(tmp_path))


def attached(name: str, model: torch.nn.Module) -> Method:
    """Returns the method attached to the model, whose head is trained too."""
    choice, info = chosen(name), RunInfo(1000, 3)
    train_head_only(model)
    plan = choice.kind.plan(choice.settings, Budget.parse("r2"), linears(model), info)
    return choice.kind(choice.settings, model, plan, info)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_own_tensors_go_where_its_layers_are(name: str) -> None:
    model = tiny("roberta")
    method = attached(name, model)
    model.to("meta")  # any device but the one where start values are drawn
    method.load(method.state())
    assert {t.device.type for t in tensors_in(vars(method))} <= {"meta"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_holds_the_state_that_it_is_given(name: str) -> None:
    method = attached(name, tiny("roberta"))
    given = {n: torch.rand(t.shape).to(t.dtype) for n, t in method.state().items()}
    method.load({n: t.clone() for n, t in given.items()})
    held = method.state()
    assert held.keys() == given.keys()
    assert all(torch.equal(held[n], t) for n, t in given.items())


def tensors_in(held: object) -> Iterator[torch.Tensor]:
    """Yields the tensors in nested collections; parameters and modules move with the model."""
    if isinstance(held, torch.Tensor) and not isinstance(held, torch.nn.Parameter):
        yield held
    elif isinstance(held, dict | list | tuple):
        for value in held.values() if isinstance(held, dict) else held:
            yield from tensors_in(value)


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_model_with_the_stored_tensors_gives_the_same_logits(
    name: str, finished: Callable[[str], Path]
) -> None:
    folder = finished(name)
    record = json.loads((folder / "run.json").read_text())
    config = small(folder.parents[7], *words_of(name))
    prepared = prepare(config)
    assert prepared.folder == folder
    whole = config.chosen.kind.result == "model"
    file = folder / artefacts.weights_name(config.chosen.kind.result)
    loop = build(prepared, World(0, 1, torch.device("cpu")), None, Lines(None))
    gates = sum(layer.rank for layer in loop.setup.method.layers.values() if layer.g is not None)
    before = loop.predict(loop.setup.reported["dev"])
    stored = safetensors.torch.load_file(file)
    # A chain has kept factors by its end.
    assert {key for key in stored if ".kept_" not in key} == {
        key for key in loop.result() if ".kept_" not in key
    }
    loop.put(stored)
    logits = loop.predict(loop.setup.reported["dev"])
    # A file has no masked components, whose zeros may have rounded the sums of a method of one's own.
    apart = 0 if name in RELEASED else 1e-5
    np.testing.assert_allclose(logits, npz.load(folder)["best/dev/logits"], rtol=0, atol=apart)
    assert not np.array_equal(logits, before)
    # The counts in the record are those of the files.
    head = set(loop.setup.head)
    held = sum(
        tensor.numel()
        for key, tensor in stored.items()
        if key not in head and not key.endswith(".g")
    )
    params = record["params"]
    assert params["stored"] == (0 if whole else held)
    # The budget limits what an export holds, which differs where frozen factors are multiplied in.
    assert params["adapter_end"] in (params["stored"], params["in_peft_file"])
    assert record["ranks"]["end"] == loop.setup.method.ranks()
    # Gates are no adapter parameters: an export folds them into B.
    assert params["gates"] == gates
    if name in ("adalora", "dora", "sora"):  # which train most at their start
        assert gates > 0
        assert params["trained_at_once"] == params["trained_in_all"] == params["adapter_start"]


def exported(name: str) -> list[tuple[str, bool]]:
    """Returns the ways in which a method's runs are exported as a model: (name, merged)."""
    result = chosen(name).kind.result
    ways = {"adapter": [False, True], "weights": [True], "model": [False], "modules": []}
    return [(name, merge) for merge in ways[result]]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "merge"), [way for name in METHODS for way in exported(name)])
def test_an_export_gives_the_recorded_logits_to_others_code(
    name: str, merge: bool, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    export(finished(name), tmp_path / "out", Form(merge=merge))
    adapter = chosen(name).kind.result == "adapter" and not merge
    logits = dev_logits(tmp_path / "out", adapter)
    want = npz.load(finished(name))["best/dev/logits"]
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5)
