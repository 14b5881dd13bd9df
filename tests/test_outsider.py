"""Methods in a package of one's own: trained, resumed, shown and exported without an edit of this
package.

The first is the example of docs/adding-a-method.md, read from there. The second leaves weights instead of an
adapter, the third has gates with a proximal step, a basis frozen in its layers, a budget that is an
upper bound and a state.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import dev_logits
from safetensors.torch import load_file

import dora
from dora.adapters.plan import Plan
from dora.configuration import method_class
from dora.configuration.method_choice import packaged
from dora.configuration.method_class import fingerprint
from dora.errors import UserError
from dora.methods.base import Method
from dora.methods.lora import LoRA
from dora.methods.released import RELEASED
from dora.preparing.prepare import prepare
from dora.python.train import method_of
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import (
    FILES,
    arrays,
    command,
    only_run,
    python,
    refused,
    run,
    small,
    small_glue,
    small_words,
)

ROOT = Path(__file__).parents[1]
BIASES = '''
"""Trains the biases of the backbone alone."""
from torch import nn
from dora.method import Method

class Biases(Method):
    """Trains every bias."""
    title = "Biases"
    budget = "none"
    result = "weights"

    def __init__(self, settings, model, plan, run):
        for name, p in model.named_parameters():
            p.requires_grad_(name.endswith(".bias"))
'''
GATES = '''
"""LoRA with gates that a proximal step shrinks to zero, on rotated inputs."""
from dataclasses import dataclass
import torch
from torch import nn
from dora.method import Method, ParameterGroup, Remove, Settings, adapt, allocate, pruning_plan

@dataclass
class GatesSettings(Settings):
    shrink: float
    start_factor: float

class Gates(Method):
    title = "Gates"
    budget = "at_most"
    settings_type = GatesSettings

    def __init__(self, settings, model, plan, run):
        self.settings, self.budget_plan = settings, plan
        self.layers = adapt(model, plan.matrices, plan.start, 2.0, 0.0, gated=True)
        generator = run.generator("start")
        for i, layer in enumerate(self.layers.values()):
            nn.init.kaiming_uniform_(layer.A, generator=generator)
            nn.init.normal_(layer.g, generator=generator)
            layer.register_buffer("shift", torch.rand(3, generator=run.generator("shift", i)))
        self.cut_at = run.total_steps // 2
        self.ranks_final_at = self.cut_at
        self.seen = torch.zeros(1)

    @classmethod
    def plan(cls, settings, budget, matrices, run):
        return pruning_plan(budget, matrices, settings.start_factor)

    def parameter_groups(self):
        gates = [layer.g for layer in self.layers.values()]
        return [ParameterGroup(gates, rate=2.0, weight_decay=0.0)]

    def penalty(self, step):
        return 0.01 * torch.cat([layer.g.abs() for layer in self.layers.values()]).mean()

    def after_step(self, step):
        if step > self.cut_at:
            return None
        self.seen += 1
        with torch.no_grad():
            for layer in self.layers.values():
                layer.g.sub_(layer.g.clamp(-self.settings.shrink, self.settings.shrink))
        if step < self.cut_at:
            return None
        sizes = [layer.g.detach().abs() for layer in self.layers.values()]
        best = allocate(sizes, self.budget_plan.costs, self.budget_plan.target)
        return Remove([keep & (size > 0) for keep, size in zip(best, sizes)])

    def frozen(self):
        shifts = {f"{name}.shift": layer.shift for name, layer in self.layers.items()}
        return {**super().frozen(), **shifts}

    def state(self):
        return {"seen": self.seen}

    def load(self, state):
        where = next(iter(self.layers.values())).A.device
        self.seen = state["seen"].to(where, copy=True)
'''
FORGETFUL = '''
"""LoRA that halves B once, after a number of steps that it counts and does not save."""
from dora.methods.lora import PlainLoRA, PlainSettings

class Forgetful(PlainLoRA):
    """Forgets in a resumed run how many steps there were."""
    title = "Forgetful"
    settings_type = PlainSettings

    def after_step(self, step):
        self._steps = getattr(self, "_steps", 0) + 1
        if self._steps == 12:
            for layer in self.layers.values():
                layer.B.data.mul_(0.5)
'''

TIED = '''
"""LoRA whose layers of one shape have one A, which is drawn and never trained."""
from dora.methods.lora import PlainLoRA, PlainSettings

class Tied(PlainLoRA):
    title = "Tied"
    settings_type = PlainSettings

    def __init__(self, settings, model, plan, run):
        super().__init__(settings, model, plan, run)
        first = {}
        for layer in self.layers.values():
            layer.A = first.setdefault(layer.A.shape, layer.A).requires_grad_(False)

    def frozen(self):
        return {f"{name}.A": layer.A for name, layer in self.layers.items()}
'''


def yaml_of(name: str, place: str, **settings: float) -> str:
    held = {"base_lr": "1e-2", **settings}
    explained = [f"{key}: {value}  # of the example" for key, value in held.items()]
    return "\n".join([f"name: {name}", f"_target_: {place}", *explained]) + "\n"


def example(at: int = 0) -> tuple[str, str]:
    """(class file, YAML) of the manual's first example, or of the one `at` another place."""
    text = (ROOT / "docs" / "adding-a-method.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[at]
    yaml = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[at]
    return code, yaml.replace("dora.methods.shrunk.", "outside.shrunk.")


def put(root: Path, file: str, code: str, name: str, yaml: str) -> None:
    """Writes a module of one's own, and conf/method/NAME.yaml, below a folder."""
    for path, text in ((root / file, code), (root / f"conf/method/{name}.yaml", yaml)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def planned(root: Path, method: str, budget: str) -> Plan:
    """The plan of a run with a method of one's own, whose YAML is below `root`."""
    config = small(root / "results", "method=lora", f"budget={budget}")
    plan = prepare(replace(config, method=method_of(method, root / "conf"))).plan
    assert plan is not None
    return plan


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package `outside` of four methods, and a folder conf/ that names them."""
    root = tmp_path_factory.mktemp("outsider")
    (root / "outside").mkdir()
    (root / "outside/__init__.py").write_text("")
    (root / "conf/method").mkdir(parents=True)
    code, yaml = example()
    biases = yaml_of("biases", "outside.biases.Biases")
    gates = yaml_of("gates", "outside.gates.Gates", shrink=0.02, start_factor=1.5)
    forgetful = yaml_of("forgetful", "outside.forgetful.Forgetful", alpha=16.0, dropout=0.0)
    for name, source, held in (
        ("shrunk", code, yaml),
        ("biases", BIASES, biases),
        ("gates", GATES, gates),
        ("forgetful", FORGETFUL, forgetful),
    ):
        (root / f"outside/{name}.py").write_text(source)
        (root / f"conf/method/{name}.yaml").write_text(held)
    return root


def call(package: Path, *words: str, code: int = 0) -> str:
    """Standard output of `python WORDS` with the package beside this one; the exit code must be
    `code`.
    """
    path = os.pathsep.join([str(package), str(ROOT)])
    if words[0] == "-m" and words[1].startswith("dora."):
        done = command(*words[1:], PYTHONPATH=path)
    else:
        done = python(*words, PYTHONPATH=path)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def words(package: Path, results: Path, method: str, budget: str = "budget=r2") -> list[str]:
    own = [f"--config-dir={package / 'conf'}", f"method={method}", budget]
    return [*own, *small_words(results, "task=rte", "eval_every=12")]


def test_a_method_that_was_edited_begins_another_run(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (package / "outside/biases.py").read_text()
    kind = packaged("lora").kind
    assert fingerprint(kind) is None
    found = []
    for i, text in enumerate((source, source, source + "# another\n")):
        (tmp_path / f"own{i}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        found.append(fingerprint(importlib.import_module(f"own{i}").Biases))
    assert found[0] == found[1] != found[2]
    # So does one whose parent, of one's own in another file, was edited.
    found = []
    for text in (source, source + "# another\n"):
        (tmp_path / "parent.py").write_text(text)
        (tmp_path / "child.py").write_text("import parent\n\nclass Child(parent.Biases): ...\n")
        for name in ("parent", "child"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        found.append(fingerprint(importlib.import_module("child").Child))
    assert found[0] != found[1]
    # A file beside the suite's methods is one's own too, until it is released with them.
    names = {file.stem for file in (ROOT / "conf/method").glob("*.yaml")}
    assert names >= RELEASED.keys()
    assert {name for name in RELEASED if fingerprint(packaged(name).kind)} == set()
    monkeypatch.setattr(method_class, "RELEASED", RELEASED.keys() - {"lora"})
    monkeypatch.setattr(method_class, "_AT_IMPORT", {})
    assert len(fingerprint(kind) or "") == 64


def test_code_that_a_process_has_imported_keeps_its_name_and_an_edit_is_told(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (package / "outside/biases.py").read_text()
    yaml = yaml_of("mine", "mine_in_a_notebook.Biases")
    put(tmp_path, "mine_in_a_notebook.py", code, "mine", yaml)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {
        "data": "dir",
        "data__dir": small_glue(),
        "max_steps": 2,
        "results": str(tmp_path / "results"),
        "config_dir": tmp_path / "conf",
    }
    first = dora.train("wnli", "mine", **given).record["fingerprints"]["method"]
    kind = sys.modules["mine_in_a_notebook"].Biases
    (tmp_path / "mine_in_a_notebook.py").write_text("# edited\n")
    # What trains is what was imported, and a sweep under way goes on under its name.
    assert fingerprint(kind) == first
    with pytest.raises(UserError, match="Biases was edited since this process imported it"):
        dora.train("wnli", "mine", seed=2, **given)


def test_the_example_of_the_manual_trains_as_it_stands(package: Path, tmp_path: Path) -> None:
    # So small that some matrices have no component.
    given = [*words(package, tmp_path, "shrunk", "budget=1000"), "method.shrink=0.2"]
    said = call(package, "-m", "dora.run", *given)
    record = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert "shrunk on tiny_roberta" in said
    assert record["config"]["method"] == {"name": "shrunk", "alpha": 16.0, "shrink": 0.2}
    assert record["method"]["title"] == "Shrunk LoRA"
    assert len(record["fingerprints"]["method"]) == 64
    assert set(record["ranks"]["end"].values()) == {0, 1}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("rank", [4, 200])  # 200: more than the matrices have
def test_the_manuals_layer_of_ones_own_stores_its_vectors_and_exports_whole_factors(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, yaml = example(1)
    put(tmp_path, "mypackage/vera.py", code, "vera", yaml)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"data": "dir", "data__dir": small_glue(), "config_dir": tmp_path / "conf"}
    trained = dora.train(
        "wnli", "vera", f"r{rank}", max_steps=4, max_length=48, results=str(tmp_path / "r"), **given
    )
    params, matrices = trained.record["params"], trained.record["ranks"]["end"]
    # Two layers of width 192: four matrices of 192 rows, one of 768 and one of 192.
    assert params["adapter_end"] == params["stored"] == 12 * rank + 2 * (5 * 192 + 768)
    kept = load_file(trained.folder / "best.safetensors")
    own = {name for name in kept if not name.startswith("classifier.")}
    assert own == {f"{name}.{factor}" for name in matrices for factor in ("d", "b")}
    assert all(kept[f"{name}.b"].any() for name in matrices)
    export(trained.folder, tmp_path / "out", Form())
    logits = dev_logits(tmp_path / "out", True)
    want = arrays(trained.folder)["best/dev/logits"]
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5)
    # Layers share A, and the file has it for each of them.
    written = load_file(trained.folder / "adapter/adapter_model.safetensors")
    As = [t for name, t in written.items() if name.endswith("query.lora_A.weight")]
    assert len(As) == 2
    assert torch.equal(*As)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_layers_may_share_a_frozen_parameter_that_the_result_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "ties.py", TIED, "tied", yaml_of("tied", "ties.Tied", alpha=16.0, dropout=0.0))
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"data": "dir", "data__dir": small_glue(), "config_dir": tmp_path / "conf"}
    # With a checkpoint, which holds it too.
    given |= {"max_steps": 4, "eval_every": 2, "max_length": 48, "results": str(tmp_path / "r")}
    trained = dora.train("wnli", "tied", "r2", **given)
    kept = load_file(trained.folder / "best.safetensors")
    As = [t for name, t in kept.items() if name.endswith("query.A")]
    assert len(As) == 2
    assert torch.equal(*As)
    export(trained.folder, tmp_path / "out", Form())
    want = arrays(trained.folder)["best/dev/logits"]
    np.testing.assert_allclose(dev_logits(tmp_path / "out", True), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        # 3,456 parameters of vectors b, and one of d for each of 12 matrices.
        *(
            (n, "of each matrix and what is stored beside it (3468 parameters)")
            for n in (2_000, 3_456)
        ),
        (3_467, "budget=3467 is less than one component of each matrix and"),
        (3_468, None),
    ],
)
def test_the_manuals_vectors_are_not_paid_for_where_no_component_is(
    budget: int, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, yaml = example(1)
    put(tmp_path, "mypackage/vera.py", code, "vera", yaml)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = (f"--config-dir={tmp_path / 'conf'}", "method=vera", f"budget={budget}", "task=rte")
    if said:
        (problem,) = refused(*words)
        assert said in problem
        return
    plan = planned(tmp_path, "vera", str(budget))
    assert (plan.start, plan.params(plan.start)) == ((1,) * 12, budget)


ONE_SIZE = '''
"""Scales the outputs of the key matrices by vectors, of one size under every budget."""
from dataclasses import replace
from dora.method import Method, Plan

class OneSize(Method):
    title = "One size"
    budget = "at_most"
    result = "modules"

    @classmethod
    def plan(cls, settings, budget, matrices, run):
        own = tuple(replace(m, component_cost=m.d_out) for m in matrices if "key" in m.name)
        return Plan(budget, own, (1, 1), (1, 1), budget.total(own), dealt=True)
'''


def test_a_method_of_one_size_is_not_told_to_come_near_loras_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "one_size.py", ONE_SIZE, "one", yaml_of("one", "one_size.OneSize"))
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = planned(tmp_path, "one", "r8")
    # Two vectors of 192, and LoRA's r8 is 55,296.
    assert (plan.params(plan.start), plan.note) == (384, None)


SCALES = '''
"""Scales the outputs of the value matrices by vectors, which are called g."""
import torch
from torch import nn
from dora.method import Method

class Scaled(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.g = base, nn.Parameter(torch.ones(base.out_features))

    def forward(self, x):
        return self.base(x) * self.g

class Scales(Method):
    title = "Scales"
    budget = "none"
    result = "modules"

    def __init__(self, settings, model, plan, run):
        for name, linear in list(model.named_modules()):
            if name.endswith("attention.self.value"):
                model.set_submodule(name, Scaled(linear))
'''


def test_a_modules_vector_is_counted_though_it_has_the_name_of_a_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "scales_of_mine.py", SCALES, "scales", yaml_of("scales", "scales_of_mine.Scales"))
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {
        "data": "dir",
        "data__dir": small_glue(),
        "max_steps": 2,
        "config_dir": tmp_path / "conf",
    }
    params = dora.train("wnli", "scales", results=str(tmp_path / "results"), **given).record[
        "params"
    ]
    # Two layers of width 192.
    assert (params["adapter_end"], params["trained_at_once"], params["gates"]) == (384, 384, 0)


@pytest.mark.slow  # 20 s each; the manual's example, above, always runs
@pytest.mark.parametrize("method", ["gates", "biases"])
def test_a_method_from_outside_resumes_to_the_byte_and_appears_everywhere(
    method: str, package: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    call(package, "-m", "dora.run", *words(package, whole, method))
    crash = str(ROOT / "tests/crash_run.py")
    call(package, crash, "13", *words(package, cut, method), code=1)
    assert "resumed after step 12" in call(package, "-m", "dora.run", *words(package, cut, method))
    a, b = only_run(whole), only_run(cut)
    left = [name for name in FILES if (a / name).exists()]
    assert {"metrics.jsonl", "best.safetensors", "predictions.npz"} <= set(left)
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in left)
    shown = call(package, "-m", "dora.tables", "--results", str(whole))
    assert f"| {method.title()} " in shown
    call(package, "-m", "dora.plots", "--results", str(whole))
    assert list((whole / "figures").glob("*.png"))
    call(package, "-m", "dora.export", str(a), "--to", str(tmp_path / "export"))
    record: dict[str, Any] = json.loads((a / "run.json").read_text())
    card = (tmp_path / "export/README.md").read_text()
    assert record["method"]["title"] in card
    assert f"needs its author's files, of fingerprint `{record['fingerprints']['method']}`" in card
    if method == "gates":
        kept = load_file(a / "best.safetensors")
        assert sum(name.endswith(".shift") for name in kept) == len(record["ranks"]["end"])
        assert (tmp_path / "export/adapter_config.json").exists()
        assert record["params"]["in_peft_file"] <= record["plan"]["end_params"][1]
    else:
        assert record["config"]["budget"] is None
        assert (tmp_path / "export/model.safetensors").exists()
        assert all(
            ".bias" in name or "classifier" in name for name in load_file(a / "best.safetensors")
        )


@pytest.mark.parametrize(
    ("chosen", "passed"),
    [
        ("ends_as_one_left_alone and (forgetful or shrunk)", 1),
        pytest.param("", 30, marks=pytest.mark.slow),  # 30 s
    ],
)
def test_the_checks_of_every_method_are_made_of_those_of_a_folder_and_find_a_state_that_is_lacking(
    chosen: str, passed: int, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METHODS_FROM", str(package / "conf"))
    checks = "tests/methods/test_every_method.py"
    given = ("-p", "no:cacheprovider", "--tb=no", "--rootdir", str(ROOT), "-k", chosen)
    said = call(package, "-m", "pytest", str(ROOT / checks), *given, code=1)
    of_state = "test_a_run_that_was_cut_ends_as_one_left_alone[forgetful]"
    assert re.findall(r"^FAILED (.*?)(?: - .*)?$", said, re.MULTILINE) == [f"{checks}::{of_state}"]
    assert f"1 failed, {passed} passed" in said


def test_a_slip_in_an_outsiders_plan_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["from dora.method import Method", "class Slip(Method):", "    title = 'Slip'"]
    lines += ["    @classmethod", "    def plan(cls, *given):", "        a, b = given"]
    (tmp_path / "slip_of_mine.py").write_text("\n".join(lines))
    (tmp_path / "method").mkdir()
    (tmp_path / "method/slip.yaml").write_text(yaml_of("slip", "slip_of_mine.Slip"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = refused(f"--config-dir={tmp_path}", "method=slip", "task=rte")
    assert "too many values to unpack" in problem
    assert "(ValueError in slip_of_mine.py, line 6)" in problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from dora.method import Nothing", "(ImportError in importing_1.py, line 2)"),
        ("import no_such_library", "(ModuleNotFoundError in importing_2.py, line 2)"),
        ("import math; math.nothing", "(AttributeError in importing_3.py, line 2)"),
    ],
)
def test_an_import_that_fails_in_an_outsiders_file_is_told_with_its_line(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = said.partition(" in ")[2].partition(".")[0]  # a module is imported once
    (tmp_path / f"{name}.py").write_text(f"import math\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=re.escape(said)) as told:
        method_class.method_class("mine", f"{name}.Mine")
    assert "PYTHONPATH" not in str(told.value)


SLIPS = [
    ("", "Slip has no title"),
    ("title = nam", "importing it fails: name 'nam' is not defined (NameError in slip_"),
    ("title = 'Slip'\nclass S", "importing it fails: expected ':'"),
    (
        "title = 'Slip'\n    class S(Settings):\n        alpha: float\n    settings_type = S",
        "S: alpha must be declared in a class that has @dataclass above it",
    ),
    (
        "title = 'Slip'\n    class S(Settings):\n        alpha: 'flaot'\n    settings_type = S",
        "S has a setting whose type cannot be read: name 'flaot' is not defined",
    ),
    (
        "title = 'Slip'\n    class S: alpha: float\n    settings_type = S",
        "Slip.settings_type must be a dataclass",
    ),
    (
        "title = 'Slip'\n    def after_steps(self, step): return None",
        "is after_step meant? A helper",
    ),
    ("title = 'Slip'\n    def helper(self): return 1", "Slip.helper is no moment of a method"),
]


@pytest.mark.parametrize(("body", "said"), SLIPS)
def test_a_slip_in_an_outsiders_class_is_told_before_anything_is_loaded(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"slip_{abs(hash(body))}"  # a module is imported once
    text = f"from dora.method import Method, Settings\nclass Slip(Method):\n    {body or 'note = None'}\n"
    (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "method").mkdir()
    (tmp_path / "method/slip.yaml").write_text(yaml_of("slip", f"{name}.Slip"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = refused(f"--config-dir={tmp_path}", "method=slip", "task=rte")
    assert said in problem


@pytest.mark.parametrize(("kind", "value"), [("Kind", "ONE"), ("Literal['a', 'b']", "a")])
def test_a_setting_of_a_type_that_no_record_holds_is_told(
    kind: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"typed_{value}"
    text = f"""
from dataclasses import dataclass
from enum import Enum
from typing import Literal
from dora.method import Method, Settings
Kind = Enum("Kind", "ONE TWO")
@dataclass
class Typing(Settings):
    kind: {kind}
class Typed(Method):
    title = "Typed"
    settings_type = Typing
"""
    (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "method").mkdir()
    yaml = yaml_of("typed", f"{name}.Typed") + f"kind: {value}\n"
    (tmp_path / "method/typed.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = refused(f"--config-dir={tmp_path}", "method=typed", "task=rte")
    assert "Typing" in problem
    assert "a setting is a bool, an int, a float, a str" in problem


@pytest.mark.parametrize("file", ["method/lora.yaml", "experiment/bitfit_roberta_base.yaml"])
def test_a_file_that_has_the_name_of_one_of_the_suites_is_not_left_unread(
    file: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text((ROOT / "conf" / file).read_text())
    word = file.removesuffix(".yaml").replace("/", "=")
    (problem,) = refused(f"--config-dir={tmp_path}", word, "task=rte", "seed=1")
    assert f"{word} is the suite's own, and {tmp_path / file} has its name" in problem


def test_a_librarys_mixin_is_no_class_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import PyTorchModelHubMixin

    class Mine(PyTorchModelHubMixin, LoRA): ...

    assert method_class._own(Mine) == [Mine]


def test_settings_that_the_class_does_not_name_are_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["from dora.method import Method", "class Bare(Method):", "    title = 'Bare'"]
    (tmp_path / "bare_of_mine.py").write_text("\n".join([*lines, "    budget = 'none'"]))
    (tmp_path / "method").mkdir()
    yaml = yaml_of("bare", "bare_of_mine.Bare") + "alpha: 16.0\n"
    (tmp_path / "method/bare.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = refused(f"--config-dir={tmp_path}", "method=bare", "task=rte")
    assert "Bare.settings_type, which is Settings, has no such field" in problem


@pytest.mark.parametrize(
    ("moment", "value", "said"),
    [
        ("penalty", 0.1, "LoRA.penalty returned a float (0.1), which must be Tensor or None"),
        ("after_step", 3, "LoRA.after_step returned a int (3), which must be Mask or Remove or "),
        ("learning_rate", "x", "LoRA.learning_rate returned a str ('x'), which must be Real"),
        (
            "learning_rate",
            None,
            "LoRA.learning_rate returned a NoneType (None), which must be Real",
        ),
        ("parameter_groups", [{"lr": 1}], "parameter_groups returned dicts ({'lr': 1}), which"),
    ],
)
def test_a_moment_that_returns_something_else_is_named(
    moment: str, value: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoRA, moment, lambda *given: value)
    with pytest.raises(UserError, match=re.escape(said)):
        run(small(tmp_path, "method=lora", "budget=r2"))


def test_the_manual_names_every_statement_and_every_moment() -> None:
    text = (ROOT / "docs/adding-a-method.md").read_text()
    public = {n for n in {*vars(Method), *Method.__annotations__} if not n.startswith("_")}
    # Explained with the class's own code: settings and layers of the example, and plans that prune.
    lacking = {name for name in public if not re.search(rf"`{name}[`(]", text)}
    assert lacking <= {"settings_type", "layers", "ranks_final_at"}


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("name: bad\nbase_lr: 1.0\n", "bad.yaml must name a class"),
        (
            "name: bad\n_target_: outside.nothing.X\nbase_lr: 1.0\n",
            "cannot be imported (No module named 'outside.nothing'); a package of one's own must",
        ),
        ("name: bad\n_target_: outside.gates.Gate\nbase_lr: 1.0\n", "gates.py has no Gate"),
        (
            "name: bad\n_target_: json.JSONDecoder\nbase_lr: 1.0\n",
            "is not a subclass of dora.method.Method",
        ),
        (
            "name: bad\n_target_: outside.gates.Gates\nbase_lr: 1.0\nshrink: 1.0\n",
            "no default for start_factor, which Gates has as settings",
        ),
        (
            "name: bad\n_target_: outside.gates.Gates\nbase_lr: 1.0\nshrink: 1.0\nstart: 1.5\n",
            "no default for start_factor, which Gates has as settings, and none named start",
        ),
        ("name: a b\n_target_: outside.gates.Gates\n", "must say name: bad"),
        ((ROOT / "conf/method/lora.yaml").read_text(), "name: lora; it must say name: bad"),
    ],
)
def test_a_yaml_that_is_no_methods_is_explained(
    yaml: str, said: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/bad.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(str(package))
    (problem,) = refused(f"--config-dir={tmp_path}", "method=bad", "task=rte")
    assert said in problem
