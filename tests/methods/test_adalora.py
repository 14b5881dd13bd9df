"""AdaLoRA beside PEFT's, step by step, and the paper's counts.

PEFT's differs in the final phase: it forces a mask at T - t_f, clears its averages there, and masks
ties too. Up to there both must do the same.
"""

import copy
import math

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, get_peft_model

from conftest import (
    backward_and_step,
    batches,
    linears,
    settings_of,
    tiny,
    train_head_only,
    trained,
)
from dora.adapters.budget import Budget
from dora.adapters.changes import Mask, apply
from dora.adapters.components import mask, remove
from dora.methods.adalora import AdaLoRA
from dora.methods.base import RunInfo

# PEFT reads an attribute that Transformers deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

# Steps of a run: a window of 5 to 26 with an allocation every 3.
TOTAL, T_I, T_F, INTERVAL = 36, 5, 10, 3
SETTINGS = settings_of(
    "adalora",
    alpha=32,
    orthogonality=0.1,
    init_warmup=T_I,
    final_warmup=T_F,
    mask_interval=INTERVAL,
    remove=False,
)
OURS_TO_PEFT = {"A": "lora_A", "B": "lora_B", "g": "lora_E"}


def attach(model, settings=SETTINGS, budget="r4", total_steps=TOTAL):
    """Returns AdaLoRA attached to the model, whose head is trained too."""
    train_head_only(model)
    plan = AdaLoRA.plan(settings, Budget.parse(budget), linears(model), RunInfo(100, 3))
    return AdaLoRA(settings, model, plan, RunInfo(total_steps, 3))


def attach_pefts(model, method):
    """Returns PEFT's AdaLoRA with the schedule, A, B and g of `method`."""
    # PEFT's init_r is what `plan` makes of start_factor 1.5.
    config = AdaLoraConfig(
        init_r=6,
        target_r=4,
        lora_alpha=32,
        lora_dropout=0.0,
        orth_reg_weight=0.1,
        beta1=0.85,
        beta2=0.85,
        tinit=T_I,
        tfinal=T_F,
        deltaT=INTERVAL,
        total_step=TOTAL,
        target_modules=list(method.layers),
    )
    train_head_only(model)
    head = [p for p in model.parameters() if p.requires_grad]
    peft = get_peft_model(model, config)
    # PEFT freezes everything but its own tensors.
    for p in head:
        p.requires_grad_(True)
    tensors = dict(peft.named_parameters())
    for name, layer in method.layers.items():
        for factor, p in layer.factors().items():
            theirs = tensors[peft_name(name, factor)]
            theirs.data = p.detach().clone().view_as(theirs)
    return peft


def peft_name(matrix, factor):
    """Returns PEFT's name of a factor of ours."""
    return f"base_model.model.{matrix}.{OURS_TO_PEFT[factor]}.default"


def averages(method):
    """Returns our averages as {PEFT's name: (sensitivity, uncertainty)}."""
    both = zip(
        method._averages(method._sensitivity), method._averages(method._uncertainty), strict=True
    )
    return {
        peft_name(m, f).removeprefix("base_model.model."): (sensitivity[f], uncertainty[f])
        for m, (sensitivity, uncertainty) in zip(method.layers, both, strict=True)
        for f in sensitivity
    }


def factors(method):
    """Returns A, B and g of all layers."""
    return [p for layer in method.layers.values() for p in layer.factors().values()]


@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
@pytest.mark.usefixtures("float64")
def test_losses_averages_and_survivors_equal_pefts_adalora_until_the_final_phase(architecture):
    ours, theirs = tiny(architecture), tiny(architecture)
    method = attach(ours)
    peft = attach_pefts(theirs, method)
    optimizers = [torch.optim.AdamW(trained(m), lr=2e-2, weight_decay=0.01) for m in (ours, peft)]
    counts = []
    for t, batch in enumerate(batches(TOTAL)):
        loss = ours(**batch).loss + method.penalty(t + 1)
        want = backward_and_step(peft.base_model(**batch).loss, optimizers[1])  # penalty included
        got = backward_and_step(loss, optimizers[0])
        if t <= TOTAL - T_F:
            assert got == pytest.approx(want, rel=1e-6)

        # Both read gradients and weights after the optimizer's step, before gradients are cleared.
        peft.base_model.update_and_allocate(t)
        if (decision := method.after_step(t + 1)) is not None:
            mask(method.layers.values(), decision.keep)
        for optimizer in optimizers:
            optimizer.zero_grad()

        live = {m: layer.live().tolist() for m, layer in method.layers.items()}
        if t < TOTAL - T_F:
            allocator = peft.base_model.rankallocator
            for name, (sensitivity, uncertainty) in averages(method).items():
                mean, spread = allocator.exp_avg_ipt[name], allocator.exp_avg_unc[name]
                torch.testing.assert_close(
                    sensitivity, mean.view_as(sensitivity), rtol=1e-6, atol=0
                )
                torch.testing.assert_close(
                    uncertainty, spread.view_as(uncertainty), rtol=1e-6, atol=0
                )
            tensors = dict(peft.named_parameters())
            assert live == {m: (tensors[peft_name(m, "g")].flatten() != 0).tolist() for m in live}
            counts.append(sum(sum(k) for k in live.values()))
    assert len(set(counts)) > 5  # the window did prune, so the survivors above were not all of them
    # The final sets are equal nevertheless: PEFT made its own at T - t_f of the averages compared.
    pattern = {
        n.split(".lora_E")[0]: k for n, k in peft.peft_config["default"].rank_pattern.items()
    }
    assert live == pattern
    assert sum(sum(k) for k in live.values()) == 4 * len(live)


@pytest.mark.parametrize("remove_", [False, True])
def test_golden_counts_of_12_matrices_from_12_to_8(remove_):
    """Checks the paper's schedule with random scores."""
    # T = 100, t_i = 10, t_f = 30, an allocation every 10 steps.
    settings = settings_of(
        "adalora", init_warmup=10, final_warmup=30, mask_interval=10, remove=remove_
    )
    method = attach(tiny("roberta"), settings, "r8", total_steps=100)
    layers = list(method.layers.values())
    live, scheduled = {}, {}
    for t in range(100):
        for p in factors(method):
            torch.nn.init.normal_(p)  # a masked g revives, so that each count is the mask's alone
            p.grad = torch.randn_like(p)
        decision = method.after_step(t + 1)
        scheduled[t] = method._budget_at(t)
        if decision is None:
            continue
        apply(decision, layers)
        live[t] = sum(int(layer.live().sum()) for layer in layers)
        # Masks of the final set behind the first are no lines of ranks.jsonl.
        assert (t > 71) == (isinstance(decision, Mask) and not decision.new)
    # b(t) = 96 + 48 (1 - (t - 10) / 60)^3, rounded down.
    golden = {20: 123, 30: 110, 40: 102, 50: 97, 60: 96, 70: 96}
    assert {t: scheduled[t] for t in golden} == golden
    assert {t: n for t, n in live.items() if t <= 70} == golden
    # Without removal the final mask is applied in every step to the end.
    assert list(live)[6:] == ([71] if remove_ else list(range(71, 100)))
    assert sum(layer.rank for layer in layers) == (96 if remove_ else 144)
    assert set(list(live.values())[4:]) == {96}


@pytest.mark.usefixtures("float64")
def test_the_update_has_pefts_scale():
    model = tiny("roberta")
    method = attach(model)
    for layer in method.layers.values():
        torch.nn.init.normal_(layer.g)
    peft = attach_pefts(tiny("roberta"), method)
    for name, layer in method.layers.items():
        theirs = peft.base_model.model.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(layer.delta(), theirs, rtol=1e-12, atol=0)
        assert layer.scale == 32 / (6 + 1e-5)


def test_start_values_are_normal_with_deviation_002_and_g_zero():
    # Wide enough for a sample of 768 and more values a factor: 15 % is 6 standard errors.
    method = attach(tiny("roberta", hidden=64), budget="r8")
    for layer in method.layers.values():
        for p in (layer.A, layer.B):
            assert p.std().item() == pytest.approx(0.02, rel=0.15)
            assert p.mean().item() == pytest.approx(0, abs=0.003)
        assert layer.g.eq(0).all()


@pytest.mark.usefixtures("float64")
def test_averages_and_scores_equal_the_papers_equations_entry_by_entry():
    """Compares three steps of one matrix with eqs. 9 to 13, written as loops over entries."""
    method = attach(tiny("roberta", layers=1))
    layer = next(iter(method.layers.values()))
    mean = {name: np.zeros(p.shape) for name, p in layer.factors().items()}
    spread = copy.deepcopy(mean)
    for step in (1, 2, 3):
        for p in factors(method):
            torch.nn.init.normal_(p)
            p.grad = torch.randn_like(p)
        method.after_step(step)
        for name, p in layer.factors().items():
            # Ī first, then Ū by the new Ī, as in the released code.
            for at in np.ndindex(*p.shape):
                now = abs(p[at].item() * p.grad[at].item())
                mean[name][at] = 0.85 * mean[name][at] + 0.15 * now
                spread[name][at] = 0.85 * spread[name][at] + 0.15 * abs(now - mean[name][at])
    s = {name: mean[name] * spread[name] for name in mean}
    want = [s["g"][i] + s["A"][i, :].mean() + s["B"][:, i].mean() for i in range(layer.rank)]
    np.testing.assert_allclose(method._scores()[0].numpy(), want, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_beta1_is_the_sensitivitys_and_beta2_the_uncertaintys():
    method = attach(tiny("roberta", layers=1), settings_of("adalora", beta1=0.5, beta2=0.25))
    for p in factors(method):
        torch.nn.init.ones_(p)
        p.grad = torch.ones_like(p)
    method.after_step(1)
    # From 0: Ī = (1 - 1/2) · 1, and Ū = (1 - 1/4) · |1 - Ī|.
    for stored, value in ((method._sensitivity, 0.5), (method._uncertainty, 0.375)):
        assert all(t.eq(value).all() for of in method._averages(stored) for t in of.values())


@pytest.mark.usefixtures("float64")
def test_the_penalty_is_the_mean_unsquared_distance_from_orthogonality():
    method = attach(tiny("roberta"))
    distances = []
    for layer in method.layers.values():
        torch.nn.init.normal_(layer.A)  # far from orthogonal
        A, B = layer.A.detach().numpy(), layer.B.detach().numpy()
        distances += [math.sqrt(((gram - np.eye(6)) ** 2).sum()) for gram in (A @ A.T, B.T @ B)]
    assert method.penalty(1).item() == pytest.approx(0.1 * np.mean(distances), rel=1e-10)
    # To the end of training, unlike DoRA's.
    assert method.penalty(TOTAL).item() == pytest.approx(0.1 * np.mean(distances), rel=1e-10)


@pytest.mark.usefixtures("float64")
def test_matrices_of_unequal_ranks_count_in_the_penalty_by_their_own_components_alone():
    method = attach(tiny("roberta"))
    layers = list(method.layers.values())
    remove(layers, [torch.arange(6) < 1 + i % 6 for i in range(len(layers))])
    distances = [
        torch.linalg.norm(gram - torch.eye(layer.rank)).item()
        for layer in layers
        for gram in (layer.A @ layer.A.T, layer.B.T @ layer.B)
    ]
    assert method.penalty(TOTAL).item() == pytest.approx(0.1 * np.mean(distances), rel=1e-10)


def test_a_matrix_that_lost_every_component_no_longer_counts_in_the_penalty():
    method = attach(tiny("roberta"))
    first, *others = method.layers.values()
    want = method.penalty(1)
    remove([first], [torch.zeros(6, dtype=torch.bool)])
    # A mean over the others' terms: a matrix of rank 0 must not count as one of distance 0.
    terms = []
    for layer in others:
        grams = layer.A @ layer.A.T, layer.B.T @ layer.B
        terms += [torch.linalg.norm(G - torch.eye(6)) for G in grams]
    assert method.penalty(2).item() == pytest.approx(
        0.1 * sum(t.item() for t in terms) / len(terms), rel=1e-6
    )
    assert math.isfinite(want.item())


def test_a_matrix_without_gradients_counts_as_one_whose_gradients_are_zero():
    states = []
    for second in (None, torch.zeros_like):
        method = attach(tiny("roberta"))
        # A process without rows has no gradients where others sum zeros: all must decide alike.
        for gradient in (torch.ones_like, second):
            for p in factors(method):
                torch.nn.init.ones_(p)
                p.grad = gradient and gradient(p)
            method.after_step(len(states) + 1)
        states.append(method.state()["sensitivity"])
    assert torch.equal(*states)
    assert 0 < states[0].max() < 0.15


def test_scores_freeze_when_the_final_phase_begins():
    method = attach(tiny("roberta"))
    frozen = None
    for t in range(TOTAL):
        for p in factors(method):
            p.grad = torch.randn_like(p)
        method.after_step(t + 1)
        if t == TOTAL - T_F - 1:  # the last step before the final phase
            frozen = [s.clone() for s in method._scores()]
    assert all(torch.equal(a, b) for a, b in zip(frozen, method._scores(), strict=True))


def test_a_run_that_starts_at_its_budget_is_final_from_the_start():
    method = attach(tiny("roberta"), settings_of("adalora", start_factor=1.0))
    assert method.ranks_final_at == 0
    assert all(method.after_step(step) is None for step in range(1, TOTAL + 1))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta1": 1.0}, "method.beta1=1.0 must lie in [0, 1); the paper uses 0.85"),
        ({"orthogonality": -0.1}, "method.orthogonality=-0.1 must lie in [0, inf)"),
        ({"mask_interval": 2.5}, "method.mask_interval=2.5 must be a fraction of the run below 1"),
        ({"init_warmup": 0.6}, "do not fit a run of 100 steps"),
        # The two phases leave no step between them.
        ({"init_warmup": 60.0, "final_warmup": 40.0}, "do not fit a run of 100 steps"),
        ({"final_warmup": 100.0}, "do not fit a run of 100 steps"),
        ({"final_warmup": 0.01}, "the final phase at least 2 steps"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_rule(changed, said):
    (problem,) = settings_of("adalora", **changed).problems(100)
    assert said in problem
    assert settings_of("adalora").problems(100) == []
    assert settings_of("adalora", init_warmup=59.0, final_warmup=40.0).problems(100) == []
