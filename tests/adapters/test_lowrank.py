"""The low-rank layer against hand-worked numbers and explicit d_out x d_in matrices."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dora.adapters import arithmetic
from dora.adapters.budget import Matrix
from dora.adapters.lowrank import (
    LowRankLinear,
    Siblings,
    adapt,
    component_norms,
    in_order,
    mask,
    remove,
    stacks,
    update_norm,
)
from dora.adapters.result import restore


def layer_of(d_in, d_out, rank, scale=1.0, dropout=0.0, gated=True, seed=0):
    """A layer whose A, B and g are drawn from N(0, 1)."""
    torch.manual_seed(seed)
    layer = LowRankLinear(nn.Linear(d_in, d_out), rank, scale, dropout, gated)
    for p in layer.factors().values():
        nn.init.normal_(p)
    return layer


def test_forward_of_a_hand_worked_two_by_two_case():
    """W0 x + b0 = (1 + 2 + 10, 3 + 4 + 20) = (13, 27); A x = (1 + 1, 1 - 1) = (2, 0); g scales to (6, 0);
    B gives (6, 12); s = 0.5 gives (3, 6)."""
    layer = LowRankLinear(nn.Linear(2, 2), 2, 0.5, 0.0, gated=True)
    layer.base.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer.base.bias.data = torch.tensor([10.0, 20.0])
    layer.A.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    layer.g.data = torch.tensor([3.0, 7.0])
    layer.B.data = torch.tensor([[1.0, 5.0], [2.0, 9.0]])
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [13 + 3, 27 + 6]
    assert layer.delta().tolist() == [
        [0.5 * (3 + 35), 0.5 * (3 - 35)],
        [0.5 * (6 + 63), 0.5 * (6 - 63)],
    ]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gated", [False, True])
def test_forward_equals_the_merged_weight(gated):
    layer = layer_of(5, 7, 3, scale=0.7, gated=gated)
    x = torch.randn(2, 4, 5)
    merged = x @ (layer.base.weight + layer.delta()).T + layer.base.bias
    torch.testing.assert_close(layer(x), merged, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
@settings(max_examples=60, deadline=None)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    rank=st.integers(1, 5),
    d_in=st.integers(1, 6),
    d_out=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_norms_equal_those_of_explicit_matrices(lead, rank, d_in, d_out, seed):
    random = torch.Generator().manual_seed(seed)
    A = torch.randn(*lead, rank, d_in, generator=random)
    g = torch.randn(*lead, rank, generator=random)
    B = torch.randn(*lead, d_out, rank, generator=random)
    parts = torch.einsum("...or,...r,...ri->...roi", B, g, A)
    norms = parts.pow(2).sum((-2, -1)).sqrt()
    whole = parts.sum(-3).pow(2).sum((-2, -1)).sqrt()
    torch.testing.assert_close(component_norms(A, g, B), norms, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(update_norm(A, g, B), whole, rtol=1e-7, atol=1e-7)


def test_components_that_cancel_have_norm_zero_rather_than_nan():
    A, B = torch.randn(1, 50).repeat(2, 1), torch.randn(50, 1).repeat(1, 2)
    norm = update_norm(A, torch.tensor([1.0, -1.0]), B)
    assert 0 <= norm.item() < 0.05


def test_a_layer_of_rank_0_returns_its_base():
    layer = layer_of(4, 3, 0, dropout=0.5)
    x = torch.randn(6, 4)
    assert torch.equal(layer(x), layer.base(x))
    assert layer.rank == 0
    assert layer.delta().eq(0).all()
    assert layer.live().shape == (0,)


def test_only_the_factors_are_trained_and_the_base_is_untouched():
    base = nn.Linear(4, 3)
    before = copy.deepcopy(base.state_dict())
    layer = LowRankLinear(base, 2, 1.0, 0.0, gated=True)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B", "g"}
    assert layer.base is base
    assert all(torch.equal(before[k], v) for k, v in layer.base.state_dict().items())


def test_dropout_acts_on_the_adapters_input_in_training_only():
    layer = layer_of(4, 3, 2, dropout=0.999_999)
    x = torch.randn(6, 4)
    assert torch.equal(layer.train()(x), layer.base(x))
    assert not torch.allclose(layer.eval()(x), layer.base(x))


@pytest.mark.usefixtures("float64")
def test_two_calls_with_different_batch_sizes_have_the_gradients_of_both():
    """DeBERTa calls query and key on the hidden states, then on the relative positions with batch 1."""
    layer = layer_of(4, 3, 2, scale=0.7)
    hidden, positions = torch.randn(5, 6, 4), torch.randn(1, 9, 4)
    weigh_hidden, weigh_positions = torch.randn(5, 6, 3), torch.randn(1, 9, 3)
    ((layer(hidden) * weigh_hidden).sum() + (layer(positions) * weigh_positions).sum()).backward()

    # dL/dΔW = Σ over both calls of (dL/dy)ᵀ x, from which each factor's gradient follows by the product rule.
    G = weigh_hidden.reshape(-1, 3).T @ hidden.reshape(-1, 4)
    G = 0.7 * (G + weigh_positions.reshape(-1, 3).T @ positions.reshape(-1, 4))
    A, B, g = (p.detach() for p in (layer.A, layer.B, layer.g))
    torch.testing.assert_close(layer.A.grad, g[:, None] * (B.T @ G), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.B.grad, (G @ A.T) * g, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.g.grad, ((B.T @ G) * A).sum(1), rtol=1e-10, atol=1e-10)


def reference(x, layer, dropped):
    """The layer's output by plain differentiable operations; `dropped` (like x) is 1 where x stays."""
    gate = layer.scale if layer.g is None else layer.scale * layer.g
    inside = x * dropped / (1 - layer.dropout)
    return (
        F.linear(x, layer.base.weight, layer.base.bias) + ((inside @ layer.A.T) * gate) @ layer.B.T
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_equal_plain_autograds_and_finite_differences(
    gated, dropout, monkeypatch
):
    layer = layer_of(4, 3, 2, scale=0.7, dropout=dropout, gated=gated).train()
    x = torch.randn(5, 2, 4, requires_grad=True)
    stays = torch.ones(5, 2, 4)
    if dropout:
        positions = torch.tensor([0, 3, 7, 8, 30, 39])
        stays.view(-1)[positions] = 0
        monkeypatch.setattr(arithmetic, "draw", lambda x, p: positions)
    inputs = (x, *layer.factors().values())
    weight = torch.randn(5, 2, 3)
    got, want = layer(x), reference(x, layer, stays)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad((y * weight).sum(), inputs) for y in (got, want)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), inputs)


class Trio(nn.Module):
    """Attention's projections, as RoBERTa and as DeBERTa call them."""

    def __init__(self, d):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d, d) for _ in range(3))

    def forward(self, x, positions=None):
        parts = [self.q(x), self.k(x), self.v(x)]
        if positions is not None:
            parts += [self.q(positions), self.k(positions)]
        return torch.cat([p.flatten() for p in parts])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "dropout", [0.0, 1e-300]
)  # the second goes the way of dropout and drops nothing
@pytest.mark.parametrize("ranks", [(2, 2, 2), (2, 0, 1), (0, 0, 3), (0, 0, 0)])
def test_q_k_and_v_together_have_the_outputs_and_gradients_of_each_alone(ranks, dropout):
    torch.manual_seed(0)
    model = nn.Sequential(Trio(4))
    matrices = [Matrix(f"0.{name}", 4, 4) for name in "qkv"]
    layers = adapt(model, matrices, ranks, 0.7, dropout, gated=True)
    for layer in layers.values():
        for p in layer.factors().values():
            nn.init.normal_(p)
    alone = copy.deepcopy(model)
    alone[0]._forward_pre_hooks.clear()
    together = copy.deepcopy(model)  # a copy's hook must be about the copy's layers
    results = []
    for one in (alone, together):
        x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        positions = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(2))
        for inputs in ((x,), (x, positions)):
            y = one[0](*inputs)
            weight = torch.linspace(-1, 1, len(y))
            (y * weight).sum().backward()
            results.append(y.detach())
        results += [x.grad, *(p.grad for p in one.parameters() if p.requires_grad and p.numel())]
    half = len(results) // 2
    for a, b in zip(results[:half], results[half:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(
        layer.ready is None for layer in together.modules() if isinstance(layer, LowRankLinear)
    )
    assert half == 3 + 3 * sum(r > 0 for r in ranks)


def test_outputs_made_for_another_input_are_not_handed_out():
    model = nn.Sequential(Trio(4))
    layers = list(
        adapt(model, [Matrix(f"0.{n}", 4, 4) for n in "qkv"], (2,) * 3, 1.0, 0.0, False).values()
    )
    for layer in layers:
        nn.init.normal_(layer.B)
    x, other = torch.randn(3, 4), torch.randn(3, 4)
    Siblings(layers)(model[0], (x,))
    torch.testing.assert_close(layers[1](other), reference(other, layers[1], 1))
    torch.testing.assert_close(layers[1](x), reference(x, layers[1], 1))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_under_bfloat16_autocast_factors_get_float32_gradients_close_to_float32s(dropout):
    layer = layer_of(64, 48, 4, scale=0.5, dropout=dropout).train()
    x, weight = torch.randn(32, 64, requires_grad=True), torch.randn(32, 48)
    grads = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        grads.append(torch.autograd.grad((y * weight).sum(), (x, *layer.factors().values())))
    for full, half in zip(*grads, strict=True):
        assert half.dtype == torch.float32
        assert (full - half).norm() < 0.02 * full.norm()


@pytest.mark.usefixtures("float64")
def test_stacked_factors_are_the_layers_padded_and_in_their_order():
    layers = [
        layer_of(4, 3, 2, seed=1),
        layer_of(5, 3, 2, seed=2),
        layer_of(4, 3, 0),
        layer_of(4, 3, 5, seed=3),
    ]
    one, two = stacks(layers)
    assert (one.layers, two.layers) == ([layers[0], layers[3]], [layers[1]])
    assert one.real.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(one.of("B")[0, :2], layers[0].B.T)
    assert one.of("A")[0, 2:].eq(0).all()
    one.of("A").sum().backward()
    assert torch.equal(layers[0].A.grad, torch.ones(2, 4))
    assert torch.equal(one.gradient_of("A")[0, :2], layers[0].A.grad)
    assert one.gradient_of("g").eq(0).all()
    back = in_order(layers, [(one, one.of("g")), (two, two.of("g"))])
    for g, layer in zip(back, layers, strict=True):
        assert torch.equal(g, layer.g)


def test_adapt_replaces_the_named_linears_and_no_other():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)))
    layers = adapt(model, [Matrix("1.0", 5, 6), Matrix("0", 4, 5)], [3, 1], 2.0, 0.0, gated=False)
    assert list(layers) == ["1.0", "0"]
    assert [layer.rank for layer in layers.values()] == [3, 1]
    assert model[0] is layers["0"]
    assert model[1][0] is layers["1.0"]
    assert type(model[1][1]) is nn.Linear


def trained_layer():
    """A layer after two AdamW steps, whose moments are therefore not zero, with its optimizer."""
    layer = layer_of(4, 3, 5)
    optimizer = torch.optim.AdamW(layer.factors().values(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(6, 4)).pow(2).sum().backward()
        optimizer.step()
    return layer, optimizer


def test_masking_sets_g_to_zero_and_leaves_everything_else():
    layer, optimizer = trained_layer()
    before = {n: p.detach().clone() for n, p in layer.factors().items()}
    state = copy.deepcopy(optimizer.state_dict()["state"])
    grads = {n: p.grad.clone() for n, p in layer.factors().items()}
    keep = torch.tensor([True, False, True, True, False])
    mask([layer], [keep])
    assert torch.equal(layer.A, before["A"])
    assert torch.equal(layer.B, before["B"])
    assert torch.equal(layer.g, before["g"].where(keep, torch.zeros(())))
    assert all(torch.equal(p.grad, grads[n]) for n, p in layer.factors().items())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][k], state[i][k]) for i in state for k in state[i])
    assert torch.equal(layer.live(), keep)


def test_a_masked_component_gets_a_gradient_and_revives():
    layer, optimizer = trained_layer()
    mask([layer], [torch.zeros(5, dtype=torch.bool)])
    optimizer.zero_grad()
    layer(torch.randn(6, 4)).pow(2).sum().backward()
    assert layer.g.grad.ne(0).all()
    optimizer.step()
    assert layer.live().all()


def test_a_layer_without_g_cannot_be_masked():
    with pytest.raises(ValueError, match="without g"):
        mask([layer_of(4, 3, 2, gated=False)], [torch.ones(2, dtype=torch.bool)])


def test_removing_keeps_the_right_rows_and_columns_of_weights_and_moments():
    layer, optimizer = trained_layer()
    parameters = layer.factors()
    rows = [0, 2, 3]

    def cut(name, t):
        return t[:, rows] if name == "B" else t[rows]

    want = {n: cut(n, p.detach()).clone() for n, p in parameters.items()}
    moments = {
        (n, k): cut(n, optimizer.state[p][k]).clone()
        for n, p in parameters.items()
        for k in ("exp_avg", "exp_avg_sq")
    }
    remove([layer], [torch.tensor([True, False, True, True, False])], optimizer)
    assert layer.rank == 3
    for name, p in layer.factors().items():
        assert p is parameters[name]  # the optimizer's groups still hold it
        assert p.grad is None
        assert torch.equal(p, want[name])
        assert optimizer.state[p]["step"] == 2
        for k in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[p][k], moments[name, k])


def test_removing_a_masked_component_changes_neither_output_nor_the_next_step_of_the_others():
    layer, optimizer = trained_layer()
    keep = torch.tensor([True, False, True, True, False])
    mask([layer], [keep])
    x = torch.randn(6, 4)
    masked, masked_optimizer = copy.deepcopy((layer, optimizer))
    remove([layer], [keep], optimizer)
    torch.testing.assert_close(layer(x), masked(x), rtol=1e-6, atol=1e-6)
    for one, its in ((layer, optimizer), (masked, masked_optimizer)):
        its.zero_grad()
        one(x).pow(2).sum().backward()
        its.step()
    torch.testing.assert_close(layer.A, masked.A[keep], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.B, masked.B[:, keep], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.g, masked.g[keep], rtol=1e-5, atol=1e-6)


def test_removing_every_component_leaves_a_layer_that_still_trains_beside_others():
    layer, optimizer = trained_layer()
    remove([layer], [torch.zeros(5, dtype=torch.bool)], optimizer)
    x = torch.randn(6, 4, requires_grad=True)
    layer(x).sum().backward()
    optimizer.step()
    assert torch.equal(layer(x), layer.base(x))


def test_restoring_takes_on_a_smaller_rank_and_copies():
    small, large = layer_of(4, 3, 2, seed=1), layer_of(4, 3, 5, seed=1)
    large.base.load_state_dict(small.base.state_dict())
    stored = {n: p.detach().clone() for n, p in small.factors().items()}
    restore(large, {}, stored)
    x = torch.randn(6, 4)
    assert large.rank == 2
    assert torch.equal(large(x), small(x))
    stored["A"].zero_()
    assert torch.equal(large(x), small(x))


def test_folded_factors_hold_g_and_scale_in_b():
    layer = layer_of(4, 3, 2, scale=0.5)
    A, B = layer.folded()
    assert torch.equal(A, layer.A)
    explicit = sum(0.5 * layer.g[i] * torch.outer(layer.B[:, i], layer.A[i]) for i in range(2))
    torch.testing.assert_close(B @ A, explicit, rtol=1e-6, atol=1e-6)
