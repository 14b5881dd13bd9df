"""The low-rank layer beside hand-worked numbers and explicit d_out x d_in matrices."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import layer_of
from dora.adapters import arithmetic
from dora.adapters.budget import Matrix
from dora.adapters.lowrank import LowRankLinear, Siblings, adapt
from dora.adapters.norms import component_norms, update_norm
from dora.adapters.stack import gram, in_order, stacks
from dora.errors import UserError


def test_forward_of_a_hand_worked_two_by_two_case():
    """Checks numbers worked out by hand."""
    # W0 x + b0 = (1 + 2 + 10, 3 + 4 + 20) = (13, 27). A x = (1 + 1, 1 - 1) = (2, 0); g scales it to
    # (6, 0), B gives (6, 12), and s = 0.5 gives (3, 6).
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
@pytest.mark.parametrize("gated", [False, True])
def test_merging_and_the_update_beside_the_weight_give_equal_outputs_and_gradients(
    gated, monkeypatch
):
    layers = [layer_of(5, d_out, 3, scale=0.7, gated=gated) for d_out in (7, 4)]
    values = [v for q in layers for v in (q.base.weight, q.base.bias, q.A, q.B, q.g, q.scale)]
    x = torch.randn(2, 4, 5, requires_grad=True)
    inputs = [x, *(p for q in layers for p in q.factors().values())]
    found = []
    for enough in (0, 9):  # x has 8 rows
        monkeypatch.setattr(arithmetic, "_enough_rows", lambda d_out, d_in, enough=enough: enough)
        ys = arithmetic.update(x, 0.0, values)
        name = type(ys[0].grad_fn).__name__
        assert ("Merged" in name) == (enough == 0), name
        found.append([*ys, *torch.autograd.grad(sum(y.square().sum() for y in ys), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


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
    # Every rank-1 matrix formed, (..., r, d_out, d_in), which the layer never does.
    parts = torch.einsum("...or,...r,...ri->...roi", B, g, A)
    norms = parts.pow(2).sum((-2, -1)).sqrt()
    whole = parts.sum(-3).pow(2).sum((-2, -1)).sqrt()
    torch.testing.assert_close(component_norms(A, g, B), norms, rtol=1e-10, atol=1e-10)
    # Half the digits: the norm is the root of a sum in which components may cancel.
    torch.testing.assert_close(update_norm(A, g, B), whole, rtol=1e-7, atol=1e-7)


def test_components_that_cancel_have_norm_zero_rather_than_nan():
    # Two components less their sum: in many of the matrices rounding leaves a negative number, whose
    # root would be NaN.
    random = torch.Generator().manual_seed(0)
    A, B = torch.randn(100, 2, 7, generator=random), torch.randn(100, 5, 1, generator=random)
    whole = torch.cat([A, A.sum(1, keepdim=True)], 1)
    norms = update_norm(whole, torch.tensor([1.0, 1.0, -1.0]), B.repeat(1, 1, 3))
    assert norms.ge(0).all()
    assert norms.max() < 0.05


def test_a_layer_of_rank_0_returns_its_base():
    layer = layer_of(4, 3, 0, dropout=0.5)
    x = torch.randn(6, 4)
    assert torch.equal(layer(x), layer.base(x))
    assert layer.rank == 0
    assert layer.delta().eq(0).all()
    assert layer.live().shape == (0,)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4)])
def test_an_empty_input_has_an_empty_output_as_a_linear_s(shape, dropout):
    # Such as an expert that no token was sent to.
    layer = layer_of(4, 3, 2, dropout=dropout)
    x = torch.randn(*shape, requires_grad=True)
    y = layer.train()(x)
    assert y.shape == (*shape[:-1], 3)
    y.sum().backward()
    assert x.grad.shape == shape
    assert layer.B.grad.eq(0).all()


def test_only_the_factors_are_trained_and_the_base_is_untouched():
    base = nn.Linear(4, 3)
    before = copy.deepcopy(base.state_dict())
    layer = LowRankLinear(base, 2, 1.0, 0.0, gated=True)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B", "g"}
    assert layer.base is base
    assert all(torch.equal(before[k], v) for k, v in layer.base.state_dict().items())


def test_dropout_acts_on_the_adapters_input_in_training_only():
    # All 24 entries of the adapter's input are dropped, and the base's input is not.
    layer = layer_of(4, 3, 2, dropout=0.999_999)
    x = torch.randn(6, 4)
    assert torch.equal(layer.train()(x), layer.base(x))
    assert not torch.allclose(layer.eval()(x), layer.base(x))


def test_beside_a_packed_weight_dropout_is_of_the_updates_input_in_training_alone():
    class Packed(nn.Linear):
        """A linear whose weight is not read, as a quantised one's."""

    torch.manual_seed(0)
    layer = LowRankLinear(Packed(4, 3), 2, 0.5, 0.999_999, gated=True)
    for p in layer.factors().values():
        nn.init.normal_(p)
    layer.kept_A, layer.kept_B = torch.randn(2, 4), torch.randn(3, 2)
    x = torch.randn(6, 4)
    kept = layer.base(x) + x @ layer.kept_A.T @ layer.kept_B.T
    torch.testing.assert_close(layer.train()(x), kept)  # all 24 entries are dropped
    want = kept + 0.5 * ((x @ layer.A.T) * layer.g) @ layer.B.T
    torch.testing.assert_close(layer.eval()(x), want)


@pytest.mark.usefixtures("float64")
def test_two_calls_with_different_batch_sizes_have_the_gradients_of_both():
    """Checks two calls of one layer before one backward."""
    # As DeBERTa calls query and key: on hidden states, then on relative positions with batch 1.
    layer = layer_of(4, 3, 2, scale=0.7)
    hidden, positions = torch.randn(5, 6, 4), torch.randn(1, 9, 4)
    weigh_hidden, weigh_positions = torch.randn(5, 6, 3), torch.randn(1, 9, 3)
    ((layer(hidden) * weigh_hidden).sum() + (layer(positions) * weigh_positions).sum()).backward()

    # dL/dΔW = Σ over both calls of (dL/dy)ᵀ x. Each factor's gradient follows by the product rule.
    G = weigh_hidden.reshape(-1, 3).T @ hidden.reshape(-1, 4)
    G = 0.7 * (G + weigh_positions.reshape(-1, 3).T @ positions.reshape(-1, 4))
    A, B, g = (p.detach() for p in (layer.A, layer.B, layer.g))
    torch.testing.assert_close(layer.A.grad, g[:, None] * (B.T @ G), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.B.grad, (G @ A.T) * g, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.g.grad, ((B.T @ G) * A).sum(1), rtol=1e-10, atol=1e-10)


def reference(x, layer, dropped):
    """Returns the layer's output by plain operations; `dropped`, like x, is 1 where x stays."""
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
        # Fixed, since gradcheck calls the layer many times and must meet one function.
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
# The second takes the path with dropout, and drops nothing.
@pytest.mark.parametrize("dropout", [0.0, 1e-300])
@pytest.mark.parametrize("ranks", [(2, 2, 2), (2, 0, 1), (0, 0, 3), (0, 0, 0)])
def test_q_k_and_v_together_have_the_outputs_and_gradients_of_each_alone(ranks, dropout):
    torch.manual_seed(0)
    model = nn.Sequential(Trio(4))
    matrices = [Matrix(f"0.{name}", 4, 4, input_of="0") for name in "qkv"]
    layers = adapt(model, matrices, ranks, 0.7, dropout, gated=True)
    for layer in layers.values():
        for p in layer.factors().values():
            nn.init.normal_(p)
    # Without the hook each layer computes for itself.
    alone = copy.deepcopy(model)
    assert len(alone[0]._forward_pre_hooks) == 1
    alone[0]._forward_pre_hooks.clear()
    together = copy.deepcopy(model)  # a copy's hook must be about the copy's layers
    results = []
    for one in (alone, together):
        x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        positions = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(2))
        # Gradients add up over both forms, RoBERTa's and DeBERTa's.
        for inputs in ((x,), (x, positions)):
            y = one[0](*inputs)
            weight = torch.linspace(-1, 1, len(y))
            (y * weight).sum().backward()
            results.append(y.detach())
        results += [x.grad, *(p.grad for p in one.parameters() if p.requires_grad and p.numel())]
    half = len(results) // 2
    for a, b in zip(results[:half], results[half:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    # No output is left over, which would keep its graph alive.
    ready = [m.ready for m in together.modules() if isinstance(m, LowRankLinear)]
    assert ready == [None] * 3
    assert half == 3 + 3 * sum(r > 0 for r in ranks)


def test_outputs_made_for_another_input_are_not_handed_out():
    model = nn.Sequential(Trio(4))
    matrices = [Matrix(f"0.{name}", 4, 4) for name in "qkv"]
    layers = list(adapt(model, matrices, (2,) * 3, 1.0, 0.0, False).values())
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
        # bfloat16 has 8 bits: a relative error of 0.4 % an operation.
        assert (full - half).norm() < 0.02 * full.norm()


@pytest.mark.parametrize("rank", [0, 2])
def test_kept_components_are_added_beside_a_weight_of_16_bits_alone_and_among_siblings(rank):
    layers = [layer_of(4, 3, rank, scale=0.5, seed=seed) for seed in (0, 1)]
    x = torch.randn(5, 4)
    for layer in layers:
        layer.base.to(torch.bfloat16)
        layer.kept_A, layer.kept_B = torch.randn(2, 4), torch.randn(3, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        alone = [layer(x) for layer in layers]
        Siblings(layers)(nn.Identity(), (x,))
        together = [layer(x) for layer in layers]
    for layer, *ys in zip(layers, alone, together, strict=True):
        whole = layer.base.weight.float() + layer.delta()
        want = F.linear(x, whole, layer.base.bias.float())
        for y in ys:
            # bfloat16 has 8 bits: a relative error of 0.4 % an operation.
            assert (y.float() - want).norm() < 0.02 * want.norm()


@pytest.mark.usefixtures("float64")
def test_stacked_factors_are_the_layers_padded_and_in_their_order():
    layers = [
        layer_of(4, 3, 2, seed=1),
        layer_of(5, 3, 2, seed=2),
        layer_of(4, 3, 0),
        layer_of(4, 3, 5, seed=3),
    ]
    # By shape: the first and the last are one stack, and rank 0 is in none.
    one, two = stacks(layers)
    assert (one.layers, two.layers) == ([layers[0], layers[3]], [layers[1]])
    assert one.real.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(one.of("B")[0, :2], layers[0].B.T)
    assert one.of("A")[0, 2:].eq(0).all()  # the padding of rank 2 to rank 5
    one.of("A").sum().backward()
    assert torch.equal(layers[0].A.grad, torch.ones(2, 4))
    assert torch.equal(one.gradient_of("A")[0, :2], layers[0].A.grad)
    assert one.gradient_of("g").eq(0).all()
    back = in_order(layers, [(one, one.of("g")), (two, two.of("g"))])
    for g, layer in zip(back, layers, strict=True):
        assert torch.equal(g, layer.g)


@pytest.mark.usefixtures("float64")
def test_a_gram_matrix_has_the_gradient_that_autograd_finds_in_either_memory_order():
    torch.manual_seed(12)
    weights = torch.randn(2, 3, 3)  # not symmetric
    for X in (torch.randn(2, 3, 5), torch.randn(2, 5, 3).mT):
        X.requires_grad_()
        assert torch.equal(gram(X), X @ X.mT)
        (got,) = torch.autograd.grad((gram(X) * weights).sum(), X)
        (want,) = torch.autograd.grad((X @ X.mT * weights).sum(), X)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("rows", [3, 40])  # the update beside the weight, and merged into it
@pytest.mark.usefixtures("float64")
def test_training_reads_the_perturbed_weight_and_evaluation_the_base_s(rows):
    class Own(LowRankLinear):
        """A layer of another class."""

    model = nn.Sequential(nn.Linear(6, 4))
    base = model[0]
    (layer,) = adapt(model, [Matrix("0", 6, 4)], [2], 0.5, 0.0, False, Own).values()
    assert isinstance(layer, Own)
    torch.manual_seed(3)
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    x = torch.randn(rows, 6, requires_grad=True)
    before = base.weight.clone()
    clean = layer.eval()(x)
    layer.perturbed = base.weight + torch.randn(4, 6)
    assert torch.equal(layer(x), clean)
    y = layer.train()(x)
    W = layer.perturbed + layer.delta()
    torch.testing.assert_close(y, x @ W.T + base.bias)
    y.sum().backward()
    torch.testing.assert_close(x.grad, W.sum(0).expand(rows, 6))
    assert torch.equal(base.weight, before)


def test_a_linear_that_reads_something_else_is_no_sibling():
    class Owner(nn.Module):
        own_input = ("q",)

        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.q(x[:1]), self.k(x), self.v(x)

    model = nn.Sequential(Owner())
    matrices = [Matrix(f"0.{name}", 4, 4, input_of="0") for name in "qkv"]
    layers = adapt(model, matrices, [2, 2, 2], 1.0, 0.0, gated=False)
    model(torch.randn(3, 4))
    # An output computed for q before it is called would still be here, and on 3 rows.
    assert [layer.ready for layer in layers.values()] == [None, None, None]


def test_adapt_replaces_the_named_linears_and_no_other():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)))
    layers = adapt(model, [Matrix("1.0", 5, 6), Matrix("0", 4, 5)], [3, 1], 2.0, 0.0, gated=False)
    assert list(layers) == ["1.0", "0"]  # in the order given, not in the model's
    assert [layer.rank for layer in layers.values()] == [3, 1]
    assert model[0] is layers["0"]
    assert model[1][0] is layers["1.0"]
    assert type(model[1][1]) is nn.Linear


def test_folded_factors_hold_g_and_scale_in_b():
    layer = layer_of(4, 3, 2, scale=0.5)
    A, B = layer.folded()
    assert torch.equal(A, layer.A)
    explicit = sum(0.5 * layer.g[i] * torch.outer(layer.B[:, i], layer.A[i]) for i in range(2))
    torch.testing.assert_close(B @ A, explicit, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("at", "name"), [(0, "weight"), (1, "bias"), (5, "scale")])
@pytest.mark.parametrize("rows", [4, 400])  # the update beside the weight, and merged into it
def test_what_would_get_no_gradient_is_refused_if_it_requires_one(at, name, rows):
    layer, x = layer_of(8, 6, 2), torch.randn(rows, 8)
    given = list(layer.operands())
    given[at] = torch.as_tensor(given[at]).detach().clone().requires_grad_()
    with pytest.raises(UserError, match=f"a {name} that a low-rank layer multiplies with requires"):
        arithmetic.update(x, 0.0, given)
    with torch.no_grad():  # as in an evaluation
        arithmetic.update(x, 0.0, given)
