"""A method of one's own on a model of one's own: on the terms of the suite's methods, or refused."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from peft import PeftModel
from test_outsider import GATES, example, put, yaml_of

import dora
from dora.attaching.attach import _moments_in_steps, unserved
from dora.configuration.method_choice import packaged
from dora.errors import RunFailed, UserError
from dora.methods.released import RELEASED
from own_models import STEPS, batch, build, check_restart, go_on, rows, train

# LoRA whose components are kept and begun anew in the middle of the run, which it counts as "step".
RENEWED = '''
"""LoRA whose components are frozen after half of the run, and others begun."""
from dataclasses import replace
import torch
from dora.method import Renew, equal_plan
from dora.methods.lora import PlainLoRA, PlainSettings

class Renewed(PlainLoRA):
    title = "Renewed"
    settings_type = PlainSettings

    def __init__(self, settings, model, plan, run):
        super().__init__(settings, model, plan, run)
        self._run, self._counted = run, torch.zeros(1)

    @classmethod
    def plan(cls, settings, budget, matrices, run):
        plan = equal_plan(budget, matrices)
        return replace(plan, start=tuple(rank // 2 for rank in plan.start))

    def after_step(self, step):
        self._counted = self._counted + 1
        if int(self._counted) != self._run.total_steps // 2:
            return None
        random = self._run.generator("renewed")
        return Renew([
            {"A": torch.randn(layer.A.shape, generator=random), "B": torch.zeros(layer.B.shape)}
            for layer in self.layers.values()
        ])

    def state(self):
        return {"step": self._counted}

    def load(self, state):
        self._counted = state["step"].clone()
'''
PLAIN = {"alpha": 16.0, "dropout": 0.0}
Own = Callable[..., Path]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """Returns what writes a method of one's own to conf/ and its module beside, and gives conf/."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(name: str, code: str, yaml: str = "", **settings: float) -> Path:
        # A module is imported once: each test has its own.
        module = f"{name}_{abs(hash(str(tmp_path)))}"
        (kind,) = re.findall(r"^class (\w+)\(.*(?:Method|LoRA)\)", code, re.MULTILINE)
        yaml = re.sub(r"_target_: .*", f"_target_: {module}.{kind}", yaml)
        place = f"{module}.{kind}"
        put(tmp_path, f"{module}.py", code, name, yaml or yaml_of(name, place, **settings))
        return tmp_path / "conf"

    return written


def subclass(body: str) -> str:
    """Returns the module of a subclass of LoRA with this body."""
    lines = ["from dora.methods.lora import PlainLoRA, PlainSettings", "class Mine(PlainLoRA):"]
    held = ["title = 'Mine'", "settings_type = PlainSettings", *body.splitlines()]
    return "\n".join([*lines, *(f"    {line}" for line in held)]) + "\n"


METHODS: dict[str, Callable[[Own], Path]] = {
    "shrunk": lambda own: own("shrunk", *example()),
    "vera": lambda own: own("vera", *example(1)),
    "gates": lambda own: own("gates", GATES, shrink=0.02, start_factor=1.5),
    "renewed": lambda own: own("renewed", RENEWED, **PLAIN),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_and_is_saved_for_peft_and_merged(name: str, own: Own, tmp_path: Path) -> None:
    folder, held = METHODS[name](own), rows("bert")
    before = GlobalHydra.instance()
    model = build("bert")
    adapter = dora.attach(model, name, "r4", STEPS, config_dir=folder)
    assert GlobalHydra.instance() is before
    start = adapter.ranks()
    go_on(model, adapter, torch.optim.AdamW(adapter.groups(1e-2)), held)
    change = sum(adapter.ranks().values()) / sum(start.values())
    assert change < 1 if name == "gates" else change == {"renewed": 2}.get(name, 1)
    assert adapter.plan.missed(list(adapter.ranks().values())) is None
    given = batch(held, 1)
    with torch.no_grad():
        expected = model.eval()(**given).logits
        adapter.save(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(build("bert"), tmp_path / "adapter").eval()
        torch.testing.assert_close(loaded(**given).logits, expected, rtol=0, atol=1e-5)
        adapter.merge()
        torch.testing.assert_close(model(**given).logits, expected, rtol=0, atol=1e-5)


def test_factors_that_layers_share_stand_in_no_checkpoint_of_the_trainers(
    own: Own, tmp_path: Path
) -> None:
    model = build("bert")
    adapter = dora.attach(model, "vera", "r4", config_dir=METHODS["vera"](own))
    layers = adapter.method.layers.values()
    shapes = {layer.A.shape for layer in layers}
    assert len({id(layer.A) for layer in layers}) == len(shapes) < len(layers)
    model.save_pretrained(tmp_path)  # as its checkpoints do; refuses names that share memory


@pytest.mark.parametrize("by", ["adapter", "model"])
@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_after_a_restart_to_the_bit(name: str, by: str, own: Own) -> None:
    folder = METHODS[name](own)

    def attached() -> tuple[Any, dora.Adapter, torch.optim.AdamW]:
        model = build("mlp")
        adapter = dora.attach(model, name, "r4", STEPS, config_dir=folder)
        return model, adapter, torch.optim.AdamW(adapter.groups(1e-2))

    # Behind the pruning, and behind the renewal.
    check_restart(attached, rows("mlp"), 12, by)


def test_a_state_of_other_settings_or_other_code_is_refused(own: Own) -> None:
    folder = own("shrunk", *example())
    (module,) = folder.parent.glob("shrunk_*.py")

    def attached(**given: Any) -> dora.Adapter:
        return dora.attach(build("mlp"), "shrunk", "r4", STEPS, config_dir=folder, **given)

    state = attached().state_dict()
    with pytest.raises(UserError, match=r"alpha=16\.0, shrink=0\.1, code=.*shrink=0\.2, code="):
        attached(shrink=0.2).load_state_dict(state)
    module.write_text(module.read_text() + "# edited\n")
    with pytest.raises(UserError, match="ShrunkLoRA was edited since this process imported it"):
        attached()
    del sys.modules[module.stem]  # as a new process
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"code=(\w+); attached is .*code=(?!\1)\w+"):
        attached().load_state_dict(state)


REFUSED = {
    "rate": (
        "def learning_rate(self, step, usual): ...",
        r"method=mine needs the suite's own loop for its learning_rate \(python -m dora.run "
        r"--config-dir=\S+ method=mine\); adalora, cora, dora, .* can be attached",
    ),
    "clip": (
        "def learning_rate(self, step, usual): ...\ndef adjust_gradients(self, step): ...",
        "own loop for its learning_rate and adjust_gradients",
    ),
    "federated": ("federated = True", "own loop for its clients"),
    "weights": (
        "result = 'weights'",
        'method=mine leaves no adapter: it states result = "weights", and save.. writes and',
    ),
    "modules": (
        "result = 'modules'",
        'states result = "modules", and save.. writes and merge.. adds the factors of low-rank lay',
    ),
    "no budget": ("budget = 'none'", "method=mine has no budget"),
    "sources": ("sources = 'alpha'", "alpha= names runs of the suite, which none but its own"),
    "unknown": ("def after_steps(self, step): ...", "is after_step meant"),
    "length": ("def after_step(self, step): ...", "mine may plan its after_step by the run's len"),
    "plan": (
        "@classmethod\ndef plan(cls, *given): return {}",
        "method=mine plans a dict, which must be a Plan",
    ),
    "trained": (
        "def __init__(self, settings, model, plan, run):\n"
        "    super().__init__(settings, model, plan, run)\n"
        "    model.first.base.bias.requires_grad_(True)",
        r"Mine states result = .adapter., which .* and trains first\.base\.bias",
    ),
    "lost": (
        "def __init__(self, settings, model, plan, run):\n"
        "    super().__init__(settings, model, plan, run)\n"
        "    self.layers['first'].A.requires_grad_(False)",
        r"Mine freezes first\.A, which its result would lack: let frozen\(\) name it",
    ),
    "backbone": (
        "def __init__(self, settings, model, plan, run):\n"
        "    super().__init__(settings, model, plan, run)\n"
        "    model.last.base.weight.data.mul_(2)",
        r"Mine.__init__ changes last\.base\.weight, which its result does not hold(.|\n)*"
        "the model has been changed by now: load it anew",
    ),
    "state": ("def state(self): return {'count': 3}", "Mine.state returned a int"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_method_that_cannot_be_attached_is_refused_with_the_reason(why: str, own: Own) -> None:
    body, message = REFUSED[why]
    folder = own("mine", subclass(body), **PLAIN)
    with pytest.raises(UserError, match=message):
        dora.attach(build("mlp"), "mine", "r4", config_dir=folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "mien"}, r"method=mien: choose method from .*mine.*; did you mean mine\?"),
        ({"rank": 3}, "mine has no setting rank; it has alpha, dropout$"),
        ({"lr": 3}, "no setting lr; it has alpha, dropout; the learning rate is your optimizer's"),
        ({"alpha": "big"}, "^alpha=big must be a number, such as 1e-3$"),
        ({"dropout": 2.0}, r"^dropout=2\.0 must lie in \[0, 1\)"),
        ({"config_dir": "/no/where"}, "config_dir=/no/where is no folder"),
        ({"config_dir": ""}, "config_dir= is no folder"),
        (
            {"config_dir": None},
            r"of your own with config_dir=FOLDER, which holds method/NAME\.yaml",
        ),
        ({"method": "lora", "rank": 3}, "lora has no setting rank; it has alpha"),
    ],
)
def test_a_mistake_names_what_there_is(given: dict[str, Any], message: str, own: Own) -> None:
    folder = own("mine", subclass(""), **PLAIN)
    model = build("mlp")
    with pytest.raises(UserError, match=message):
        dora.attach(model, **{"method": "mine", "budget": "r4", "config_dir": folder, **given})
    assert all(p.requires_grad for p in model.parameters())


def test_a_folder_is_taken_from_where_the_process_is_and_its_file_may_extend_the_suites(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = "defaults: [lora, _self_]\nname: mine\n_target_: here\nalpha: 2.0\n"
    folder = own("mine", subclass("").replace("Plain", ""), yaml)
    monkeypatch.chdir(folder.parent)
    adapter = dora.attach(build("mlp"), "mine", "r4", config_dir="conf", dropout=0.5)
    settings: Any = adapter.method.settings  # type: ignore[attr-defined]
    assert (settings.alpha, settings.dropout) == (2.0, 0.5)
    assert dora.attach(build("mlp"), "lora", "r4", config_dir="conf").taken == 0


def test_an_update_that_is_stored_otherwise_than_it_is_added_is_not_kept(
    own: Own, tmp_path: Path
) -> None:
    code, yaml = example(1)
    folder = own("vera", code.replace(" * self.d * self.scale", " * self.scale"), yaml)
    model = build("mlp")
    adapter = dora.attach(model, "vera", "r4", config_dir=folder)
    train(model, adapter, rows("mlp"))
    for keep in (lambda: adapter.save(tmp_path / "adapter"), adapter.merge):
        with pytest.raises(RunFailed, match=r"VeRALinear.stored\(\) gives another update"):
            keep()


def test_a_diverged_adapter_is_kept_as_the_suites_are(own: Own, tmp_path: Path) -> None:
    # Its values are no fault of stored(), which another message would blame.
    adapter = dora.attach(build("mlp"), "mine", "r4", config_dir=own("mine", subclass(""), **PLAIN))
    with torch.no_grad():
        next(iter(adapter.method.layers.values())).B.fill_(torch.nan)
    adapter.save(tmp_path / "adapter")


def test_a_model_without_values_takes_a_method_of_ones_own(own: Own) -> None:
    with torch.device("meta"):
        model = build("mlp")
    folder = own("mine", subclass(""), **PLAIN)
    assert dora.attach(model, "mine", "r4", config_dir=folder).ranks()


def test_the_suites_methods_that_may_go_by_the_runs_length() -> None:
    # The others' states do not name the number of steps, and are loaded under any other.
    kinds = {name: packaged(name).kind for name in RELEASED}
    planned = {
        name for name, kind in kinds.items() if not unserved(kind) and _moments_in_steps(kind)
    }
    assert planned == {"adalora", "dora", "sora", "flat_lora", "lora_pro"}
