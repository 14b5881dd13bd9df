"""DoRA beside a NumPy reference that forms d_out x d_in matrices, and the released counts."""

import math

import numpy as np
import pytest
import torch

from conftest import (
    attach_method,
    backward_and_step,
    batches,
    linears,
    settings_of,
    tiny,
    trained,
)
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Remove
from dora.adapters.components import mask, remove
from dora.adapters.plan import Plan
from dora.methods.base import RunInfo
from dora.methods.dora import DoRA, variance

# A window from 0.15 T over 0.35 T; allocations at t' = 0, 4, 8, 12 and 14.
TOTAL, FIRST, LENGTH, INTERVAL = 40, 6, 14, 4


def attach(model, budget="r4", total_steps=TOTAL, seed=3, **settings):
    """Returns DoRA attached to the model, whose head is trained too."""
    settings = {"prune_interval": INTERVAL, **settings}
    return attach_method(model, "dora", budget, RunInfo(total_steps, seed), **settings)


def weights(method):
    """Returns copies of all layers' factors as NumPy arrays, [(A, g, B)]."""
    return [
        tuple(p.detach().numpy().copy() for p in (layer.A, layer.g, layer.B))
        for layer in method.layers.values()
    ]


def reference_shares(A, g, B):
    """Returns eq. 5's shares by explicit rank-1 matrices, (r,)."""
    parts = [g[i] * np.outer(B[:, i], A[i]) for i in range(len(g))]
    return np.array([np.linalg.norm(part) for part in parts]) / (np.linalg.norm(sum(parts)) + 1e-8)


def reference_penalty(method_weights):
    """Returns 0.1 times the mean over matrices of their vectors' mean unbiased variance."""
    per_matrix = [
        np.mean([*(np.var(row, ddof=1) for row in A), *(np.var(column, ddof=1) for column in B.T)])
        for A, _, B in method_weights
    ]
    return 0.1 * np.mean(per_matrix)


def reference_live(scores, costs, total):
    """Selects the best components first, skipping those that no longer fit; one flat bool array."""
    live = np.zeros(len(scores), dtype=bool)
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if costs[i] <= total:
            live[i], total = True, total - costs[i]
    return live


def train_one(model, method, optimizer, batch, step):
    """Takes a step up to the optimizer's, leaves gradients in place, and returns the penalty."""
    penalty = method.penalty(step)
    loss = model(**batch).loss
    backward_and_step(loss if penalty is None else loss + penalty, optimizer)
    return None if penalty is None else penalty.detach()  # no graph may outlive a removal


@pytest.mark.usefixtures("float64")
def test_the_variance_and_its_gradient_are_pytorch_s():
    torch.manual_seed(4)
    x, weights = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3)
    torch.testing.assert_close(variance(x), x.var(-1))
    (got,) = torch.autograd.grad((variance(x) * weights).sum(), x)
    (want,) = torch.autograd.grad((x.var(-1) * weights).sum(), x)
    torch.testing.assert_close(got, want)


# r4 and a budget in parameters: components of one cost, and of two.
@pytest.mark.parametrize("budget", ["r4", "3500"])
@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
@pytest.mark.usefixtures("float64")
def test_shares_averages_masks_and_penalty_equal_a_reference_over_a_whole_run(architecture, budget):
    model = tiny(architecture)
    method = attach(model, budget)
    optimizer = torch.optim.AdamW(trained(model), lr=2e-2, weight_decay=0.01)
    matrices, r0 = method.budget_plan.matrices, 6
    each = [(1 if budget == "r4" else m.d_in + m.d_out) for m in matrices for _ in range(r0)]
    end = 4 * len(matrices) if budget == "r4" else 3500
    smoothed, allocations = np.zeros(r0 * len(matrices)), []
    for step, batch in enumerate(batches(TOTAL), 1):
        before = weights(method)  # the penalty belongs to the forward, the shares to after the step
        penalty = train_one(model, method, optimizer, batch, step)
        if step <= FIRST + LENGTH:
            assert penalty.item() == pytest.approx(reference_penalty(before), rel=1e-10)
            shares = np.concatenate([reference_shares(*w) for w in weights(method)])
            smoothed = 0.9 * smoothed + 0.1 * shares
        else:
            assert penalty is None

        decision = method.after_step(step)
        optimizer.zero_grad()
        if step <= FIRST + LENGTH:
            np.testing.assert_allclose(
                torch.cat(method._scores()).numpy(), smoothed, rtol=1e-10, atol=0
            )
        into = step - FIRST
        if 0 <= into <= LENGTH and (into % INTERVAL == 0 or into == LENGTH):
            # The released schedule: a share (t' / T')³ of the surplus is gone, rounded down.
            live = sum(each) - (sum(each) - end) * into**3 // LENGTH**3
            np.testing.assert_array_equal(
                torch.cat(list(decision.keep)), reference_live(smoothed, each, live)
            )
            allocations.append(int(torch.cat(list(decision.keep)).sum()))
            assert isinstance(decision, Remove) == (into == LENGTH)
            if isinstance(decision, Remove):
                remove(method.layers.values(), decision.keep, optimizer)
            else:
                mask(method.layers.values(), decision.keep)
        else:
            assert decision is None
    assert allocations[0] == len(each)  # nothing goes at t' = 0
    assert allocations == sorted(allocations, reverse=True)
    assert len(set(allocations)) >= 4
    assert sum(layer.rank for layer in method.layers.values()) == allocations[-1]


@pytest.mark.usefixtures("float64")
def test_matrices_of_unequal_ranks_count_alike_in_the_penalty_each_by_its_own_vectors():
    # As of a run that starts from another one's pruned adapter.
    model = tiny("roberta")
    matrices = linears(model)
    ranks = tuple((i + 2) % 4 for i in range(len(matrices)))  # neither first nor last is largest
    plan = Plan(Budget(rank=1), matrices, ranks, None, len(matrices))
    method = DoRA(settings_of("dora", dem=0.1), model, plan, RunInfo(TOTAL, 3))
    held = [(A, g, B) for A, g, B in weights(method) if len(g)]
    assert {len(g) for _, g, _ in held} == {1, 2, 3}
    assert method.penalty(1).item() == pytest.approx(reference_penalty(held), rel=1e-10)
    assert {layer.scale for layer in method.layers.values()} == {8 / 3}  # alpha / largest rank


def test_a_run_that_starts_at_its_budget_has_no_window_and_so_no_penalty():
    method = attach(tiny("roberta"), start_factor=1.0)
    assert method.ranks_final_at == 0
    assert all(method.penalty(step) is None for step in (1, FIRST, FIRST + LENGTH))
    assert all(method.after_step(step) is None for step in (1, FIRST, FIRST + LENGTH, TOTAL))


def test_golden_counts_of_72_matrices_from_12_to_8():
    model = tiny("roberta", hidden=16, layers=12)
    method = attach(model, "r8", total_steps=1000, prune_interval=100)
    masked = {}
    # Steps before the window, at its begin, at allocations, between them, and at its end.
    for step in (50, 149, 150, 200, 250, 350, 450, 499, 500):
        for layer in method.layers.values():
            torch.nn.init.normal_(layer.g)  # with g = 0 all scores would be ties
        if (decision := method.after_step(step)) is not None:
            masked[step] = 864 - int(torch.cat(list(decision.keep)).sum())
    assert masked == {150: 0, 250: 6, 350: 53, 450: 181, 500: 288}


# 288 spare components at u = 0, 2/7, 4/7, 6/7 and 1: u³, or 1 − (1 − u)³, rounded down.
@pytest.mark.parametrize(
    ("shape", "gone"),
    [("cubic_late", [0, 6, 53, 181, 288]), ("cubic_early", [0, 183, 265, 287, 288])],
)
def test_components_go_in_the_shape_of_the_setting(shape, gone):
    method = attach(tiny("roberta"), total_steps=1000, shape=shape)
    many = tuple(Matrix(f"m{i}", 768, 768) for i in range(72))
    method.budget_plan = DoRA.plan(settings_of("dora"), Budget(rank=8), many, RunInfo(100, 3))
    assert [864 - method._budget_at(step) for step in (150, 250, 350, 450, 500)] == gone


@pytest.mark.parametrize("matrices", [12, 24, 72, 144])
def test_the_end_is_the_budget_to_the_component_at_every_rank(matrices):
    """Checks every rank from 1 to 64 for exact counts at the window's begin and end."""
    # The released code's floats prune 503 of 504 surplus components at r13 on 72 matrices: 937 live
    # then, not 936.
    method = attach(tiny("roberta"), total_steps=1000)
    many = tuple(Matrix(f"m{i}", 768, 768) for i in range(matrices))
    for rank in range(1, 65):
        method.budget_plan = DoRA.plan(
            settings_of("dora"), Budget(rank=rank), many, RunInfo(100, 3)
        )
        assert method.budget_plan.start_total == math.ceil(rank * 3 / 2) * matrices
        assert method._budget_at(150) == method.budget_plan.start_total
        assert method._budget_at(500) == rank * matrices


@pytest.mark.parametrize("total_steps", [7, 130, 180, 1000, 8025])
def test_the_window_begins_at_15_percent_rounded_up_and_spans_35_percent_rounded_toward_zero(
    total_steps,
):
    method = attach(tiny("roberta"), total_steps=total_steps)
    start, length = -(-total_steps * 15 // 100), total_steps * 35 // 100
    assert (method.start, method.length, method.ranks_final_at) == (start, length, start + length)


def test_colas_window_is_the_released_codes():
    # 0.15 T = 1,203.75 is rounded up, 0.35 T = 2,808.75 down.
    assert settings_of("dora").window(8025) == (1204, 4012 - 1204)


@pytest.mark.parametrize(
    ("start", "end", "window"),
    [(100.0, 400.0, (100, 300)), (0.15, 400.0, (151, 249)), (100.0, 0.5, (100, 402))],
)
def test_a_window_may_begin_and_end_at_whole_steps(start, end, window):
    # Of 1,005 steps: 150.75 is rounded up, 502.5 down.
    assert settings_of("dora", prune_start=start, prune_end=end).window(1005) == window


def test_start_values_are_uniform_within_sqrt_6_over_fan_in_and_g_zero():
    method = attach(tiny("roberta", hidden=64), "r8")
    for layer in method.layers.values():
        # B's fan-in is the rank at the start, 12.
        bound_a, bound_b = math.sqrt(6 / layer.base.in_features), math.sqrt(6 / 12)
        for p, bound in ((layer.A, bound_a), (layer.B, bound_b)):
            assert 0.97 * bound < p.abs().max() <= bound
            # U(±b) has deviation b / √3.
            assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert layer.g.eq(0).all()
        assert layer.scale == 8 / 12


def test_training_starts_at_the_backbone_itself():
    model, batch = tiny("deberta-v2").eval(), batches(1)[0]
    want = model(**batch).logits
    attach(model)
    # To the bit: g starts at 0, so nothing is added that would be rounded.
    torch.testing.assert_close(model(**batch).logits, want, rtol=0, atol=0)


def test_a_masked_component_revives_where_its_gradient_says_so():
    model = tiny("roberta")
    method = attach(model, prune_interval=1)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    for step, batch in enumerate(batches(FIRST + LENGTH - 1), 1):
        train_one(model, method, optimizer, batch, step)
        # The optimizer's step has moved every masked g away from 0.
        assert all(layer.live().all() for layer in method.layers.values())
        decision = method.after_step(step)
        if decision is not None:
            mask(method.layers.values(), decision.keep)
        optimizer.zero_grad()
    assert sum(int(layer.live().sum()) for layer in method.layers.values()) < 6 * 12


def test_a_component_removed_at_the_end_leaves_weights_and_moments():
    model = tiny("roberta")
    method = attach(model)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    for step, batch in enumerate(batches(FIRST + LENGTH), 1):
        train_one(model, method, optimizer, batch, step)
        decision = method.after_step(step)
    assert isinstance(decision, Remove)
    layers = list(method.layers.values())

    def everything(keep_rows):
        """Returns {(layer, factor, what): tensor}, cut to the components of `keep_rows`."""
        # "step" is a scalar, which no removal touches.
        return {
            (i, name, what): (t[:, k] if name == "B" else t[k]).clone()
            for i, (layer, k) in enumerate(zip(layers, keep_rows, strict=True))
            for name, p in layer.factors().items()
            for what, t in [("p", p.detach()), *optimizer.state[p].items()]
            if what != "step"
        }

    want = everything([k.numpy() for k in decision.keep])
    remove(layers, decision.keep, optimizer)
    got = everything([slice(None)] * len(layers))
    assert {what for _, _, what in got} == {"p", "exp_avg", "exp_avg_sq"}
    moments_of_g = [t for (_, name, what), t in got.items() if (name, what) == ("g", "exp_avg")]
    assert sum(map(len, moments_of_g)) == 4 * 12
    for key, tensor in want.items():
        torch.testing.assert_close(got[key], tensor, rtol=0, atol=0)


def test_random_importance_keeps_what_the_seeds_draw_is_highest_for():
    def kept(seed, noise):
        model = tiny("roberta")
        method = attach(model, seed=seed, importance="random")
        drawn = torch.cat(method._scores()).clone()
        for layer in method.layers.values():
            layer.g.data += noise * torch.rand(layer.g.shape)  # which no share is asked for
        for step in range(1, FIRST + LENGTH + 1):
            decision = method.after_step(step)
        assert torch.equal(torch.cat(method._scores()), drawn)
        keep = torch.cat(decision.keep)
        # A rank counts components, whatever they cost: the highest 48 of 72 draws stay.
        assert keep.sum() == 4 * 12
        assert drawn[keep].min() > drawn[~keep].max()
        return keep

    assert torch.equal(kept(1, 0.0), kept(1, 1.0))
    assert not torch.equal(kept(1, 0.0), kept(2, 0.0))


def test_random_importance_is_drawn_alike_whatever_the_programs_default_device_is():
    found = []
    for device in ("cpu", "meta"):
        model = tiny("roberta")
        with torch.device(device):
            found.append(torch.cat(attach(model, importance="random")._scores()))
    assert torch.equal(*found)
    assert found[0].unique().numel() > 60


def test_kept_masked_components_stay_masked_to_the_end():
    model = tiny("roberta")
    method = attach(model, remove=False)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    for step, batch in enumerate(batches(TOTAL), 1):
        train_one(model, method, optimizer, batch, step)
        if (decision := method.after_step(step)) is not None:
            mask(method.layers.values(), decision.keep)
        optimizer.zero_grad()
        # The final mask is applied after every step, or each step would revive all.
        if step >= FIRST + LENGTH:
            assert sum(int(layer.live().sum()) for layer in method.layers.values()) == 4 * 12
            # The first of these alone is a line of ranks.jsonl.
            assert decision.new == (step == FIRST + LENGTH)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": 1.5}, "method.beta=1.5 must lie in [0, 1); the paper uses 0.9"),
        ({"dem": -1.0}, "method.dem=-1.0 must lie in [0, inf); the paper uses 0.1 to 0.5"),
        (
            {"importance": "size"},
            "method.importance=size must be one of share, random; the paper's",
        ),
        ({"shape": "linear"}, "method.shape=linear must be one of cubic_late, cubic_early"),
        ({"prune_end": 1.5}, "method.prune_end=1.5 must be a fraction of the run below 1"),
        ({"prune_end": 1.0}, "method.prune_end=1 would be one step: write 2 or more"),
        ({"prune_end": 0.1}, "leave no pruning window in a run of 100 steps"),
        ({"prune_end": 200.0}, "leave no pruning window in a run of 100 steps"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_rule(changed, said):
    (problem,) = settings_of("dora", **changed).problems(100)
    assert said in problem
    assert settings_of("dora").problems(100) == []
    assert settings_of("dora", prune_end=100.0).problems(100) == []  # the last step is still inside
