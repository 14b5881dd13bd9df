"""What is adapted, trained and refused, and how an attached adapter goes on after a restart."""

from __future__ import annotations

import copy
import gc
import os
import socket
import subprocess
import sys
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import dora
from dora.errors import UserError
from own_models import (
    STEPS,
    Perceptron,
    attach,
    batch,
    build,
    check_restart,
    go_on,
    rows,
    train,
    trainer,
)


def test_all_linears_but_the_output_are_adapted_and_the_head_is_trained_whole() -> None:
    vit = attach(build("vit"))
    assert vit.head == ["classifier"]
    assert len(vit.ranks()) == 2 * 6  # q, k, v, o and two of the feed-forward network
    llama = attach(build("llama"))
    assert llama.head == []
    assert len(llama.ranks()) == 2 * 7
    assert "lm_head" not in llama.ranks()
    mlp = attach(build("mlp"))
    assert list(mlp.ranks()) == ["first", "second", "last"]
    trained = {n for n, p in vit.model.named_parameters() if p.requires_grad}
    factors = {f"{name}.{f}" for name in vit.ranks() for f in ("A", "B", "g")}
    assert trained == factors | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("target", "count"), [(["q_proj", "v_proj"], 4), (r".*layers\.0\..*_proj", 7), (["lm_head"], 1)]
)
def test_a_target_is_ends_of_names_or_an_expression_for_whole_names(
    target: Any, count: int
) -> None:
    model = build("llama")
    assert len(attach(model, target=target).ranks()) == count


def test_a_module_named_as_head_is_trained_whole_and_saved(tmp_path: Path) -> None:
    model = build("mlp")
    start = model.last.weight.clone()
    adapter = attach(model, head=["last"])
    train(model, adapter, rows("mlp"))
    assert not torch.equal(model.last.weight, start)
    assert list(adapter.ranks()) == ["first", "second"]
    adapter.save(tmp_path)
    assert '"modules_to_save": [\n    "last"\n  ]' in (tmp_path / "adapter_config.json").read_text()


@pytest.mark.parametrize("name", ["last", "out", "layer", "B", "st", "0"])
def test_a_head_that_peft_would_misread_is_told_before_training_and_not_saved(
    name: str, tmp_path: Path
) -> None:
    def made() -> nn.Sequential:
        linears = [("first", nn.Linear(6, 6)), ("10", nn.Linear(6, 6)), (name, nn.Linear(6, 2))]
        return nn.Sequential(OrderedDict(linears))

    # PEFT's own reading of the name: none, the head alone, or the head and others.
    try:
        config = LoraConfig(target_modules=["first", "10"], modules_to_save=[name])
        modules = get_peft_model(made(), config).modules()
        wrapped = sum(isinstance(m, ModulesToSaveWrapper) for m in modules)
    except (TypeError, ValueError):
        wrapped = 0
    told = {"method": "lora", "budget": "r2", "head": [name]}
    if wrapped == 1:
        dora.attach(made(), **told).save(tmp_path)  # a warning would be an error
        assert name == "last"
    else:
        with pytest.warns(UserWarning, match=f"save.. will be refused: PEFT .* ends in {name} too"):
            adapter = dora.attach(made(), **told)
        with pytest.raises(UserError, match=f"cannot read this adapter, so rename {name}"):
            adapter.save(tmp_path)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "method": (
        {"method": "vera"},
        "method=vera is none.*adalora, cora, dora, .* can be",
    ),
    "chain": ({"method": "chain"}, "needs the suite's own loop.*adalora, cora, dora"),
    "federated": ({"method": "fedit"}, "needs the suite's own loop"),
    "setting": ({"rank": 3}, "dora has no setting rank; it has alpha, dropout"),
    "rate": ({"base_lr": 1e-3}, "no setting base_lr; it has .*; the learning rate is your optim"),
    "name": ({"name": "x"}, "dora has no setting name; it has"),
    "whole": (
        {"method": "bitfit"},
        r'method=bitfit leaves no adapter: .*"weights".*alone \(python -m dora.run',
    ),
    "type": ({"alpha": "big"}, "alpha=big must be a number, such as 1e-3$"),
    "value": ({"beta": 1.5}, r"beta=1.5 must lie in \[0, 1\); the paper uses 0.9"),
    "budget": ({"budget": "8"}, "budget=8 reads as 8 parameters: write r8"),
    "large": ({"budget": "r8"}, r"at most r5 .*the smallest is last, 8 x 16.*head=\['last'\]"),
    "length": ({"steps": None}, "give steps="),
    "text": ({"steps": "16"}, "steps='16' must be a whole number from 1: of optimizer steps"),
    "seed": ({"seed": None}, "seed=None must be a whole number from 0"),
    "short": ({"steps": 2}, "leave no pruning window in a run of 2 steps"),
    "target": ({"target": ["query"]}, "names none of this model's 3 linears"),
    "typo": ({"target": ["first", "secnod"]}, r"target=\['secnod'\] names none of this model's"),
    "expression": ({"target": "("}, "no regular expression"),
    "head": ({"head": ["classifier"]}, "no module classifier; its modules begin with first"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_rule_and_leaves_the_model_alone(mistake: str) -> None:
    given, message = MISTAKES[mistake]
    model = build("mlp")
    with pytest.raises(UserError, match=message):
        dora.attach(model, **{"method": "dora", "budget": "r4", "steps": STEPS, **given})
    assert [type(m) for m in model.children()] == [nn.Linear] * 3
    assert all(p.requires_grad for p in model.parameters())


def test_the_methods_of_a_hydra_program_around_it_are_none_of_attachs(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "theirs.yaml").write_text("name: theirs\n")
    with initialize_config_dir(str(tmp_path), version_base=None):
        assert attach(build("mlp")).taken == 0
        with pytest.raises(UserError, match="method=theirs is none of this suite's; adalora"):
            dora.attach(build("mlp"), method="theirs")


def test_a_tied_linear_and_a_second_adapter_are_refused() -> None:
    model = build("mlp")
    model.again = nn.Linear(12, 24)
    model.again.weight = model.first.weight
    with pytest.raises(UserError, match=r"first is again.weight too: a tied linear"):
        attach(model)
    attach(model, target=["second"])
    with pytest.raises(UserError, match=r"call its merge\(\) first"):
        attach(model)


def test_a_head_in_float16_is_refused() -> None:
    with pytest.raises(UserError, match="classifier would be trained in float16, where AdamW"):
        attach(build("bert").half())


def test_scores_that_are_not_finite_say_at_which_step() -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model)
    nn.init.constant_(model.second.A, float("nan"))
    with pytest.raises(FloatingPointError, match="after step 3: training has diverged"):
        train(model, adapter, held)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("method", ["adalora", "sora"])
def test_a_method_that_reads_gradients_is_told_where_they_are_cleared(
    method: str, to_none: bool
) -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, method)
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    (model(**batch(held, 1))["loss"] + adapter.penalty()).backward()
    optimizer.step()
    model.zero_grad(to_none)
    with pytest.raises(UserError, match=r"between optimizer.step\(\) and zero_grad\(\)"):
        adapter.step()


def test_an_adapter_whose_gates_all_died_trains_its_head_on() -> None:
    model, held = build("bert"), rows("bert")
    adapter = attach(model, "sora", l1_weight=0.0, shrink=50.0)
    train(model, adapter, held)
    assert adapter.taken == STEPS > adapter.method.ranks_final_at
    assert set(adapter.ranks().values()) == {0}


def test_gates_that_a_scaler_left_without_a_finite_gradient_are_told() -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, "sora")
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    (model(**batch(held, 1))["loss"] + adapter.penalty()).backward()
    model.second.g.grad.fill_(float("inf"))
    optimizer.step()
    with pytest.raises(FloatingPointError, match="a gradient scaler, which does not know it"):
        adapter.step()


def test_a_loop_without_step_is_told_so_at_its_second_step() -> None:
    model = build("mlp")
    adapter = attach(model)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    optimizer.step()
    with pytest.raises(UserError, match=r"call adapter.step\(\) after each optimizer.step\(\)"):
        optimizer.step()


@pytest.mark.parametrize("method", ["lora", "dora", "sora"])
def test_an_optimizer_made_before_attach_is_told_at_its_second_step(method: str) -> None:
    model, held = build("bert"), rows("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    adapter = attach(model, method)
    with pytest.raises(UserError, match=r"does not hold the adapter's .* after attach"):
        go_on(model, adapter, optimizer, held)
    # One of the head alone, which steps beside the adapter's, is none of these.
    model = build("bert")
    adapter = attach(model, "lora")
    head = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    head.step()
    adapter.step()
    own = torch.optim.SGD(
        [p for layer in adapter.method.layers.values() for p in (layer.A, layer.B)]
    )
    for optimizer in (own, head, head, own):
        optimizer.step()
        adapter.step()
    assert adapter.taken == 2


@pytest.mark.parametrize("method", ["adalora", "dora", "sora"])
def test_a_step_before_the_optimizers_is_told(method: str) -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, method)
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    (model(**batch(held, 1))["loss"] + adapter.penalty()).backward()
    adapter.step()  # does nothing yet
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(UserError, match=r"the order is backward\(\), optimizer.step\(\), adapter"):
        adapter.penalty()


@pytest.mark.parametrize(
    ("method", "weight"), [("adalora", "orthogonality"), ("dora", "dem"), ("sora", "l1_weight")]
)
def test_a_loss_without_the_methods_term_is_told(method: str, weight: str) -> None:
    held = rows("mlp")

    def first_step(**given: Any) -> int:
        adapter = attach(model := build("mlp"), method, **given)
        optimizer = torch.optim.AdamW(adapter.groups(1e-2))
        model(**batch(held, 1))["loss"].backward()
        optimizer.step()
        adapter.step()
        return adapter.taken

    with pytest.raises(UserError, match="has a term in the loss, and it was not asked for"):
        first_step()
    assert first_step(**{weight: 0.0}) == 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_head_named_twice_or_inside_another_is_one(tmp_path: Path) -> None:
    model = build("bert")
    adapter = attach(model, "lora", head=["bert.pooler", "bert.pooler.dense", "classifier"])
    assert adapter.head == ["bert.pooler", "classifier"]
    adapter.save(tmp_path)
    PeftModel.from_pretrained(build("bert"), tmp_path)
    assert attach(build("bert"), "lora", head="classifier").head == ["classifier"]


def test_a_merged_adapter_says_so() -> None:
    adapter = attach(build("mlp"), "lora")
    adapter.merge()
    assert repr(adapter) == f"<LoRA after step 0 of {STEPS}: merged>"
    for call in (adapter.state_dict, adapter.step, adapter.penalty, lambda: adapter.save("x")):
        with pytest.raises(UserError, match="this adapter was merged"):
            call()


def test_a_call_of_step_without_an_optimizers_step_counts_nothing() -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model)
    adapter.step()  # as by a loop that accumulates gradients
    assert adapter.taken == 0
    optimizer = train(model, adapter, held, 3)
    adapter.step()
    assert adapter.taken == 3
    go_on(model, adapter, optimizer, held, 4)
    assert adapter.taken == 4


class HandMade:
    """An optimizer that PyTorch does not know."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters

    def step(self) -> None:
        """Moves along the gradients, and clears them not."""
        for p in self.parameters:
            p.data -= 0.1 * p.grad


def test_an_optimizer_of_another_make_is_handed_over() -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model)
    optimizer = HandMade(adapter.parameters())
    for step in range(1, STEPS + 1):
        loss = model(**batch(held, step))["loss"] + adapter.penalty()
        loss.backward()
        optimizer.step()
        adapter.step()  # tells nothing of a step
        adapter.step(optimizer)
        model.zero_grad()
    assert adapter.taken == STEPS
    assert sum(adapter.ranks().values()) == 12


def test_rates_that_a_method_states_need_its_groups() -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model, "lora", lr_ratio=16.0)
    with pytest.raises(UserError, match=r"make the optimizer from adapter.groups\(lr\)"):
        train(model, adapter, held)
    model = build("mlp")
    adapter = attach(model, "lora", lr_ratio=16.0)
    groups = adapter.groups(1e-3)
    assert sorted(group["lr"] for group in groups) == [1e-3, 16e-3]
    go_on(model, adapter, torch.optim.AdamW(groups), held)
    assert adapter.taken == STEPS


def test_an_adapter_before_its_pruning_is_saved_and_merged_with_a_warning(tmp_path: Path) -> None:
    model = build("mlp")
    adapter = attach(model)
    train(model, adapter, rows("mlp"), 2)
    with pytest.warns(UserWarning, match="after step 2 with 18 components, budget r4: .* final"):
        adapter.save(tmp_path)
    with pytest.warns(UserWarning, match="merged after step 2"):
        adapter.merge()
    with pytest.raises(UserError, match="was merged"):
        adapter.penalty()


@pytest.mark.parametrize(
    ("method", "cut", "by"),
    [
        pytest.param(
            method, cut, by, marks=[] if (method, cut) == ("dora", 12) else pytest.mark.slow
        )
        for method in ("dora", "adalora", "sora", "lora", "flat_lora", "lora_pro")
        for cut in (5, 12)
        for by in ("adapter", "model")
    ],
)
def test_training_goes_on_after_a_restart_as_if_there_had_been_none(
    method: str, cut: int, by: str
) -> None:
    # Step 12 is behind the pruning: the state has fewer components than a fresh adapter.
    def attached() -> tuple[Any, dora.Adapter, torch.optim.AdamW]:
        model = build("mlp")
        adapter = attach(model, method, dropout=0.0)
        return model, adapter, torch.optim.AdamW(adapter.parameters(), lr=1e-2)

    check_restart(attached, rows("mlp"), cut, by)


def test_a_state_of_another_target_is_refused() -> None:
    one, other = attach(build("mlp")), attach(build("mlp"), target=["first"])
    with pytest.raises(UserError, match=r"another model, method or target: last.A, last.B"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("saved", "attached", "theirs"),
    [
        (("melora", {"blocks": 2}), ("lora", {}), r"MELoRA with blocks=2, scale=4\.0; attached is"),
        (
            ("lora", {"alpha": 16.0}),
            ("lora", {"alpha": 64.0}),
            r"LoRA with init=kaiming, scale=4\.0; attached",
        ),
        (("lora", {}), ("lora", {"dropout": 0.5}), r"budget=r4, .*dropout=0\.0.*; attached is"),
        (("dora", {}), ("dora", {"prune_end": 0.9}), rf"steps={STEPS}, .*prune_end=0\.5.*; att"),
        (("dora", {}), ("adalora", {}), r"DoRA \(dynamic rank\) with .*; attached is AdaLoRA with"),
    ],
)
def test_a_state_of_another_method_or_scale_is_refused_and_changes_nothing(
    saved: tuple[str, Any], attached: tuple[str, Any], theirs: str
) -> None:
    def made(method: str, settings: Any) -> tuple[nn.Module, dora.Adapter]:
        model = build("mlp")
        return model, attach(model, method, **settings)

    (first, one), (second, other) = made(*saved), made(*attached)
    before = copy.deepcopy(other.state_dict())
    for load, state in (
        (other.load_state_dict, one.state_dict()),
        (second.load_state_dict, first.state_dict()),
    ):
        with pytest.raises(UserError, match=theirs):
            load(state)
    after = other.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_trained_parameters_alone_are_no_state() -> None:
    adapter = attach(build("mlp"))
    trained = {n: p for n, p in adapter.model.named_parameters() if p.requires_grad}
    with pytest.raises(
        UserError, match=r"tensors of the model alone: save adapter\.state_dict\(\)"
    ):
        adapter.load_state_dict(trained)


@pytest.mark.parametrize("fact", ["made", "arguments"])
def test_a_state_without_a_fact_on_its_adapter_is_refused(fact: str) -> None:
    adapter = attach(build("mlp"))
    state = {n: t for n, t in adapter.state_dict().items() if not n.endswith(f".{fact}")}
    assert len(state) < len(adapter.state_dict())
    with pytest.raises(UserError, match=f"this state lacks '{fact}'"):
        adapter.load_state_dict(state)


def test_a_deep_copy_of_the_model_trains_by_itself() -> None:
    model, held = build("mlp"), rows("mlp")
    adapter = attach(model)
    train(model, adapter, held, 3)
    before = copy.deepcopy(adapter.state_dict())
    both: Any = copy.deepcopy([model, adapter])
    train(both[0], both[1], held)
    assert both[1].taken == STEPS
    assert adapter.taken == 3
    after = adapter.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_keeps_a_model_alive_that_its_owner_has_dropped() -> None:
    model = build("mlp")
    adapter = attach(model)
    train(model, adapter, rows("mlp"), 2)
    alive = weakref.ref(model)
    del model, adapter
    gc.collect()
    assert alive() is None


def test_an_adapter_that_is_collected_within_a_step_does_not_end_it() -> None:
    # As any allocation may begin a collection while PyTorch goes through the hooks of a step.
    hook = register_optimizer_step_post_hook(lambda *_: gc.collect())
    try:
        model = build("mlp")
        adapter = attach(model, "lora")
        dropped = attach(build("mlp"), "lora")
        alive = weakref.ref(dropped)
        del dropped
        train(model, adapter, rows("mlp"), 2)
    finally:
        hook.remove()
    assert alive() is None
    assert adapter.taken == 2


def test_components_are_trained_in_fp32_beside_a_backbone_in_bf16() -> None:
    model, held = build("mlp").bfloat16(), rows("mlp")
    for row in held:
        row["x"] = row["x"].bfloat16()
    adapter = attach(model)
    start = {name: p.clone() for name, p in model.named_parameters() if "base" in name}
    train(model, adapter, held)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert all(torch.equal(p, dict(model.named_parameters())[name]) for name, p in start.items())
    assert sum(adapter.ranks().values()) == 12


def test_factors_that_pissa_keeps_lie_beside_a_backbone_in_bf16() -> None:
    model, held = build("mlp").bfloat16(), rows("mlp")
    for row in held:
        row["x"] = row["x"].bfloat16()
    with torch.no_grad():
        before = model(**batch(held, 1))["loss"]
    attach(model, "lora", init="pissa")
    with torch.no_grad():
        assert float(model(**batch(held, 1))["loss"]) == pytest.approx(float(before), abs=0.02)


def test_components_and_scores_lie_where_the_model_does() -> None:
    # Any device but the one where start values are drawn.
    adapter = attach(build("mlp").to("meta"))
    held = [*adapter.model.parameters(), *adapter.method.state().values()]
    assert {t.device.type for t in held} == {"meta"}
    moved = attach(build("mlp"))
    moved.model.to("meta")
    moved.penalty()
    assert {t.device.type for t in moved.method.state().values()} == {"meta"}


def test_a_transformer_of_torch_itself_computes_with_the_adapter_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    adapter = dora.attach(model, "lora", "r2", 4)
    # The attention's output is read without being called, so it stays as it is.
    assert sorted({name.rpartition(".")[2] for name in adapter.ranks()}) == ["linear1", "linear2"]
    for p in adapter.parameters():
        nn.init.normal_(p)
    x = torch.randn(3, 5, 16)
    expected = model.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-5, atol=1e-5)


def test_the_trainer_is_refused_where_its_length_is_not_the_adapters(tmp_path: Path) -> None:
    model, held = Perceptron(), rows("mlp")
    adapter = dora.attach(model, "dora", "r4", steps=100)
    with pytest.raises(UserError, match="plans for steps=100, and this Trainer takes 16"):
        trainer(model, adapter, held, tmp_path).train()


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 12])
def test_the_trainer_resumes_from_its_own_checkpoint_to_the_bit(at: int, tmp_path: Path) -> None:
    def trained(folder: Path, **given: Any) -> dict[str, torch.Tensor]:
        model = build("llama")
        adapter = attach(model, dropout=0.0)
        saving = {"save_strategy": "steps", "save_steps": 4}
        trainer(model, adapter, rows("llama"), folder, **saving).train(**given)
        return model.state_dict()

    alone = trained(tmp_path / "alone")
    again = trained(tmp_path / "again", resume_from_checkpoint=f"{tmp_path}/alone/checkpoint-{at}")
    assert alone.keys() == again.keys()
    assert all(torch.equal(alone[name], again[name]) for name in alone)


@pytest.mark.slow
def test_the_trainer_counts_the_penalty_once_a_step_and_in_no_loss_that_it_logs(
    tmp_path: Path,
) -> None:
    found = []
    for parts in (1, 2):
        model = build("mlp")
        # With a weight of 1e4 any loss that held the penalty would show.
        adapter = attach(model, dem=1e4, dropout=0.0)
        given = {"eval_strategy": "steps", "eval_steps": 4, "logging_steps": 4}
        micro = {"gradient_accumulation_steps": parts, "per_device_train_batch_size": 8 // parts}
        run = trainer(model, adapter, rows("mlp"), tmp_path, **given, **micro)
        run.train()
        log = [v for line in run.state.log_history for k, v in line.items() if k.endswith("loss")]
        assert len(log) > 4
        assert max(log) < 100
        found.append(adapter.state_dict())
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_method_that_moves_its_gates_itself_needs_its_groups_in_the_trainer(
    tmp_path: Path,
) -> None:
    held = rows("mlp")
    model = build("mlp")
    adapter = attach(model, "sora")
    with pytest.raises(UserError, match=r"Trainer pass optimizers=\(optimizer, None\)"):
        trainer(model, adapter, held, tmp_path).train()
    model = build("mlp")
    adapter = attach(model, "sora")
    run = trainer(model, adapter, held, tmp_path)
    run.optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    run.train()
    assert adapter.taken == STEPS
    assert adapter.plan.missed(list(adapter.ranks().values())) is None


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_removals_are_refused_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{os.environ.get('PYTHONPATH', '')}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = [sys.executable, str(here / "in_two_processes.py"), str(tmp_path)]
    base = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(script, env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]

    model = build("mlp")
    adapter = attach(model, dropout=0.0, remove=False)
    train(model, adapter, rows("mlp"))
    found = torch.load(tmp_path / "together.pt")
    assert sum(adapter.ranks().values()) == 12
    for name, expected in adapter.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-4)
