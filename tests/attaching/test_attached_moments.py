"""Moments of a method beside the loop's own calls: start values, noise, adjusted gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_outsider import example, put
from torch import Tensor, nn

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
)

ROWS = rows("mlp")


# --- start values ---


@pytest.fixture
def lora_ga(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes the manual's LoRA-GA to a folder, and returns its conf/."""
    monkeypatch.syspath_prepend(str(tmp_path))
    code, yaml = example(2)
    module = f"lora_ga_{abs(hash(str(tmp_path)))}"  # a module is imported once
    put(tmp_path, f"{module}.py", code, "lora_ga", yaml.replace("mypackage.lora_ga", module))
    return tmp_path / "conf"


def mean_loss(model: nn.Module) -> Callable[[int], Tensor]:
    """Returns what `begin` is given: the mean loss of the first rows."""
    held = {name: torch.stack([row[name] for row in ROWS]) for name in ROWS[0]}
    return lambda number: model(**{name: x[:number] for name, x in held.items()})["loss"]


def test_lora_ga_begins_at_the_gradient_of_these_rows_and_computes_what_the_model_did(
    lora_ga: Path,
) -> None:
    plain, model = build("mlp"), build("mlp")
    mean_loss(plain)(20).backward()
    before = model(**batch(ROWS, 1))["logits"]
    adapter = dora.attach(model, "lora_ga", "r2", config_dir=lora_ga, rows=20)
    model.train()
    model.second.eval()  # as a loop may hold a part of its model
    adapter.begin(mean_loss(model))
    assert (model.first.training, model.second.training) == (True, False)
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model(**batch(ROWS, 1))["logits"], before, rtol=0, atol=1e-5)
    for name, layer in adapter.method.layers.items():
        U, _, Vt = torch.linalg.svd(plain.get_submodule(name).weight.grad, full_matrices=False)
        size = layer.out_features**0.25 / 4  # gamma = 16
        for found, want in ((layer.A, Vt[:2]), (layer.B.t(), U[:, 2:4].t())):
            signs = (found * want).sum(1, keepdim=True).sign()  # which a decomposition leaves open
            torch.testing.assert_close(found * signs, size * want, rtol=0, atol=1e-4)


def test_a_method_waits_for_its_start_values_and_takes_them_once(tmp_path: Path) -> None:
    model = build("mlp")
    adapter = attach(model, "nora", svd="plain")
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    uses = (adapter.penalty, adapter.step, adapter.state_dict, adapter.merge)
    for use in (*uses, lambda: adapter.save(tmp_path / "adapter")):
        with pytest.raises(UserError, match=r"NoRA has no start values yet: call adapter\.begin\("):
            use()
    unbegun = copy.deepcopy(model.state_dict())
    adapter.begin()
    go_on(model, adapter, optimizer, ROWS, 2)
    with pytest.raises(UserError, match=r"has its start values: adapter\.begin\(\) comes once"):
        adapter.begin()
    model.load_state_dict(unbegun)
    assert not adapter.begun
    adapter.begin()
    attach(build("mlp"), "lora").begin()  # nothing to set


@pytest.mark.parametrize("by", ["adapter", "model"])
def test_a_state_brings_the_start_values(by: str) -> None:
    made = iter((True, True, False))  # the third is the one that goes on

    def attached() -> tuple[Any, dora.Adapter, torch.optim.AdamW]:
        model = build("mlp")
        adapter = attach(model, "nora", outer_rank=6)
        if next(made):
            adapter.begin(mean_loss(model))
        return model, adapter, torch.optim.AdamW(adapter.parameters(), lr=1e-2)

    check_restart(attached, ROWS, 5, by)


# What the function does with the model, and what is said of it.
WRONG: dict[str, tuple[Callable[[Any], Any] | None, str]] = {
    "none": (None, "follow from 64 training rows"),
    "number": (lambda model: mean_loss(model)(4).item(), "must return the rows' mean loss"),
    "rows": (lambda model: model(**batch(ROWS, 1))["logits"], "must return the rows' mean loss"),
    "other model": (lambda model: mean_loss(build("mlp"))(4), "has run no row through the linears"),
    "no gradient": (
        lambda model: (
            model(**batch(ROWS, 1))["logits"].detach() + torch.ones(1, requires_grad=True)
        ).sum(),
        "has no gradient by any adapted linear",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_function_that_gives_no_mean_loss_is_told_and_another_taken(
    wrong: str, lora_ga: Path
) -> None:
    model = build("mlp")
    adapter = dora.attach(model, "lora_ga", "r2", config_dir=lora_ga)
    given, message = WRONG[wrong]
    with pytest.raises(UserError, match=message):
        adapter.begin(None if given is None else lambda number: given(model))
    assert not adapter.begun
    assert all(p.grad is None for p in model.parameters())
    adapter.begin(mean_loss(model))
    assert adapter.begun


def test_a_loop_that_calls_the_adapter_never_is_told_of_the_start_values() -> None:
    model = build("mlp")
    optimizer = torch.optim.AdamW(attach(model, "nora").parameters())
    model(**batch(ROWS, 1))["loss"].backward()
    with pytest.raises(UserError, match="NoRA has no start values yet"):
        optimizer.step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those that Dynamo raises in itself
def test_a_compiled_model_shows_its_inputs_too() -> None:
    eager, model = build("mlp"), build("mlp")
    attach(eager, "nora").begin(mean_loss(eager))
    adapter = attach(model, "nora")
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(**batch(ROWS, 1))
    adapter.begin(mean_loss(compiled))
    for name, tensor in eager.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_buffer_that_a_forward_pass_changes_is_as_it_was() -> None:
    class Counting(Perceptron):
        """A perceptron that counts its passes."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            """Returns the perceptron's loss and logits."""
            self.passes += 1
            return super().forward(x, labels)

    model = Counting()
    attach(model, "nora").begin(mean_loss(model))
    assert model.passes == 0


def test_a_feature_that_these_rows_lack_is_no_danger_later() -> None:
    model = build("mlp")
    adapter = attach(model, "nora")
    without = batch(ROWS, 1)
    without["x"][:, 3] = 0.0
    adapter.begin(lambda number: model(**without)["loss"])
    layer: Any = adapter.method.layers["first"]
    assert layer.outer_A.abs().max() < 1e5


def test_a_matrix_of_zeros_begins_at_some_orthonormal_basis() -> None:
    model: Any = build("mlp")
    model.second.weight.data.zero_()
    adapter = attach(model, "cora")
    adapter.begin()
    B = adapter.method.layers["second"].B.detach()
    torch.testing.assert_close(B.t() @ B, torch.eye(4), rtol=0, atol=1e-6)


def test_start_values_that_are_written_over_are_computed_with(lora_ga: Path) -> None:
    # As DistributedDataParallel does with one process's, in their place.
    models = [build("mlp"), build("mlp")]
    for model, number in zip(models, (8, 20), strict=True):
        adapter = dora.attach(model, "lora_ga", "r2", config_dir=lora_ga, rows=number)
        adapter.begin(mean_loss(model))
        model(**batch(ROWS, 1))
    with torch.no_grad():
        for own, others in zip(models[0].buffers(), models[1].buffers(), strict=True):
            own.detach().copy_(others)
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            p.copy_(q)
    first, second = (model(**batch(ROWS, 1))["logits"] for model in models)
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", ["nora", "cora", "flat_lora", "lora_pro"])
def test_a_backbone_in_bf16_has_its_start_values_and_factors_in_fp32(method: str) -> None:
    model = build("llama").to(torch.bfloat16)
    adapter = attach(model, method)
    held = rows("llama")
    ids = torch.stack([row["input_ids"] for row in held])
    adapter.begin(lambda number: model(input_ids=ids[:number], labels=ids[:number]).loss)
    train(model, adapter, held, 3)
    layer = next(iter(adapter.method.layers.values()))
    assert layer.A.dtype == layer.B.dtype == torch.float32
    assert all(t.dtype == torch.float32 for t in layer.kept().values())
    assert layer.delta().isfinite().all()
    assert layer.delta().any()


def test_matrices_of_one_name_and_width_begin_at_one_basis() -> None:
    adapter = attach(build("llama"), "cora")
    adapter.begin()
    layers = adapter.method.layers
    q, other = (layers[f"model.layers.{i}.self_attn.q_proj"].B for i in (0, 1))
    assert torch.equal(q, other)
    assert not torch.equal(q, layers["model.layers.0.self_attn.o_proj"].B)


# --- noise ---


def seen(model: Any, adapter: dora.Adapter) -> list[Tensor]:
    """Returns a list that will hold the weight of each pass of the first linear."""
    found: list[Tensor] = []
    layer = adapter.method.layers["first"]
    layer.register_forward_pre_hook(lambda q, args: found.append(q.frozen_weight().clone()))
    return found


def test_a_steps_passes_have_one_noise_and_an_evaluation_has_none() -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora", rho=1.0)
    weights = seen(model, adapter)
    optimizer = torch.optim.AdamW(adapter.groups(1e-2))
    for step in range(1, 5):
        model.train()
        for part in (1, 2):
            (model(**batch(ROWS, 2 * step + part))["loss"] / 2).backward()
            if part == 1:  # in the middle of accumulation
                adapter.step()
                model.eval()
                model(**batch(ROWS, 1))
                model.train()
        optimizer.step()
        adapter.step()
        optimizer.zero_grad()
        assert all(layer.perturbed is None for layer in adapter.method.layers.values())
    base = adapter.method.layers["first"].base.weight
    steps = [weights[i : i + 3] for i in range(0, 12, 3)]
    for first, evaluated, second in steps:
        assert torch.equal(first, second)
        assert torch.equal(evaluated, base)
    assert [torch.equal(first, base) for first, *_ in steps] == [True, False, False, False]
    noises = [first - base for first, *_ in steps[1:]]
    assert not torch.allclose(noises[0] / noises[0].norm(), noises[1] / noises[1].norm())


def test_a_state_that_is_loaded_within_a_step_has_that_ones_noise_drawn_anew() -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora", rho=1.0)
    start = copy.deepcopy(adapter.state_dict())
    train(model, adapter, ROWS, 2)
    model(**batch(ROWS, 3))  # draws the third step's
    assert adapter.method.layers["first"].perturbed is not None
    adapter.load_state_dict(start)
    weights = seen(model, adapter)
    model(**batch(ROWS, 1))
    assert torch.equal(weights[0], adapter.method.layers["first"].base.weight)


def test_a_pass_in_inference_mode_draws_for_training_too() -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora", rho=1.0)
    train(model, adapter, ROWS, 1)
    with torch.inference_mode():
        model(**batch(ROWS, 2))
    train(model, adapter, ROWS, 3)


def test_a_draw_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora", rho=1.0)
    train(model, adapter, ROWS, 2)
    with monkeypatch.context() as patched:
        patched.setattr(adapter.method, "noise", lambda step: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**batch(ROWS, 3))
    model(**batch(ROWS, 3))
    assert adapter.method.layers["first"].perturbed is not None


def test_a_layer_that_data_parallel_has_copied_is_refused() -> None:
    model: Any = build("mlp")
    attach(model, "flat_lora")
    with pytest.raises(UserError, match=r"nn\.DataParallel makes .*DistributedDataParallel"):
        model.first._replicate_for_data_parallel()(torch.zeros(1, 12))


def test_noise_ends_at_its_full_size_where_a_loop_goes_on() -> None:
    adapter = attach(build("mlp"), "flat_lora", rho=1.0)
    adapter.method.noise(3 * STEPS)
    layer = adapter.method.layers["first"]
    assert layer.perturbed is not None
    assert (layer.perturbed - layer.base.weight).norm() > 0.5 * layer.base.weight.norm()


def test_a_state_of_other_noise_is_refused() -> None:
    state = attach(build("mlp"), "flat_lora", seed=2).state_dict()
    with pytest.raises(UserError, match=r"seed=2.*attached is .*seed=1"):
        attach(build("mlp"), "flat_lora").load_state_dict(state)


def test_a_copy_of_the_model_draws_by_itself() -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora", rho=1.0)
    train(model, adapter, ROWS, 3)
    twin = copy.deepcopy(model).train()
    twin(**batch(ROWS, 4))
    assert twin.first.perturbed is not None
    assert model.first.perturbed is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those that Dynamo raises in itself
def test_a_compiled_model_draws_once_a_step() -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora", rho=1.0)
    twin = build("mlp")
    alone = attach(twin, "flat_lora", rho=1.0)
    train(torch.compile(model, backend="eager"), adapter, ROWS, 6)
    train(twin, alone, ROWS, 6)
    torch.testing.assert_close(model.first.B, twin.first.B, rtol=0, atol=1e-6)


def test_a_merged_model_has_no_hook_left() -> None:
    model = build("mlp")
    adapter = attach(model, "flat_lora")
    train(model, adapter, ROWS)
    assert not any(m._forward_pre_hooks for m in adapter.merge().modules())


# --- gradients ---


def test_gradients_are_adjusted_once_before_the_first_of_two_optimizers() -> None:
    models = [build("mlp"), build("mlp")]
    adapters = [attach(model, "lora_pro") for model in models]
    one = torch.optim.AdamW(adapters[0].parameters(), lr=1e-2)
    layers = adapters[1].method.layers.values()
    two = [
        torch.optim.AdamW([getattr(layer, factor) for layer in layers], lr=1e-2) for factor in "AB"
    ]
    for step in range(1, 6):
        for model, adapter, optimizers in zip(models, adapters, ([one], two), strict=True):
            model(**batch(ROWS, step))["loss"].backward()
            for optimizer in optimizers:
                optimizer.step()
            adapter.step()
            for optimizer in optimizers:
                optimizer.zero_grad()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_that_steps_before_all_gradients_are_there_is_refused() -> None:
    model = build("mlp")
    adapter = attach(model, "lora_pro")
    optimizer = torch.optim.AdamW(adapter.parameters())
    message = r"LoRA-Pro adjusts gradients .*, by a closure or within backward\(\): call backward"
    with pytest.raises(UserError, match=message):
        optimizer.step(lambda: model(**batch(ROWS, 1))["loss"])
    for p in adapter.parameters():
        alone = torch.optim.AdamW([p])
        p.register_post_accumulate_grad_hook(lambda _, alone=alone: alone.step())
    with pytest.raises(UserError, match=message):
        model(**batch(ROWS, 1))["loss"].backward()
    torch.optim.AdamW(build("mlp").parameters()).step(lambda: torch.zeros(()))  # another model's


def test_a_step_that_was_interrupted_is_adjusted_anew() -> None:
    model = build("mlp")
    adapter = attach(model, "lora_pro")
    optimizer = torch.optim.AdamW(adapter.parameters())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    model(**batch(ROWS, 1))["loss"].backward()
    hook = optimizer.register_step_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    hook.remove()
    adapter.step()
    optimizer.zero_grad()
    model(**batch(ROWS, 1))["loss"].backward()
    before = adapter.method.layers["first"].B.grad
    assert before is not None
    clipped = before.clone()
    optimizer.step()
    assert not torch.equal(clipped, before)


def test_a_penalty_beside_a_frozen_factor_is_added_where_there_is_a_gradient() -> None:
    adapter = attach(build("mlp"), "cora", basis="fixed")
    adapter.begin()
    layer = adapter.method.layers["first"]
    adapter.method.penalty = lambda step: layer.A.pow(2).sum() + layer.A.sum()  # type: ignore[method-assign]
    adapter.add_penalty_gradient()
    assert layer.B.grad is None
    torch.testing.assert_close(layer.A.grad, torch.ones_like(layer.A))


def test_an_optimizer_that_tells_of_no_step_is_refused() -> None:
    class Foreign:
        param_groups = ({"params": [], "lr": 0.1},)

    model = build("mlp")
    adapter = attach(model, "lora_pro")
    model(**batch(ROWS, 1))["loss"].backward()
    with pytest.raises(UserError, match=r"nothing tells of one by a Foreign: use a torch\.optim"):
        adapter.step(Foreign())


def test_a_method_that_moves_all_of_its_factors_itself_is_refused() -> None:
    with pytest.raises(UserError, match=r"LoRA-Pro moves all of its factors itself .*mode=efficie"):
        attach(build("mlp"), "lora_pro", mode="full")


def test_a_loop_that_tells_of_no_steps_end_is_told_so() -> None:
    model = build("mlp")
    adapter = attach(model, "lora_pro")
    optimizer = torch.optim.AdamW(adapter.parameters())
    for _ in range(2):
        F.cross_entropy(model(**batch(ROWS, 1))["logits"], torch.zeros(4).long()).backward()
        if optimizer.state:
            with pytest.raises(UserError, match="stepped twice without the adapter"):
                optimizer.step()
        else:
            optimizer.step()
    assert adapter.taken == 0 < STEPS
