"""The fused functions compute what plain PyTorch does, forward and backward, with equal dropout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import tiny
from dora.adapters import dropout
from dora.backbones import fused


def stays(x, p):
    """Returns 1 / (1 − p) for each entry of x that the next draw keeps, 0 for the others."""
    state = torch.get_rng_state()
    scaled = dropout.zeroed(torch.full_like(x, 1 / (1 - p)), dropout.draw(x, p))
    torch.set_rng_state(state)
    return scaled


def gradients(y, inputs):
    """Returns the inputs' gradients of a weighted sum of y; the weights are always equal."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad((y * weights).sum(), inputs)


@pytest.mark.usefixtures("float64")
def test_attention_without_dropout_is_sdpa_and_with_it_on_average():
    torch.manual_seed(6)
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    # The second row has two tokens of padding. 0.3 is not 1 / √width, so a scale left out shows.
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    want = F.scaled_dot_product_attention(q, k, v, mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(fused.attention(q, k, v, mask, 0.0, 0.3), want)
    mean = torch.stack([fused.attention(q, k, v, mask, 0.2, 0.3) for _ in range(1000)]).mean(0)
    torch.testing.assert_close(mean, want, rtol=0, atol=0.15)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.usefixtures("float64")
def test_attention_has_the_output_and_the_gradients_of_plain_attention_with_equal_dropout(padded):
    torch.manual_seed(8)
    # Laid out as the backbone's heads are: (batch, length, heads, width), transposed.
    q, k, v = (torch.randn(2, 5, 3, 4, requires_grad=True) for _ in range(3))
    heads = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    mask = None
    scores = 0.3 * heads[0] @ heads[1].mT
    if padded:
        mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
        mask[1, ..., 3:] = False
        scores = scores.masked_fill(~mask, -torch.inf)
    probabilities = scores.softmax(-1)
    keep = stays(probabilities.detach().view(6, 5, 5), 0.4).view(2, 3, 5, 5)
    want = ((probabilities * keep) @ heads[2]).transpose(1, 2)
    got = fused.attention(*heads, mask, 0.4, 0.3)
    torch.testing.assert_close(got, want)
    for one, other in zip(gradients(got, (q, k, v)), gradients(want, (q, k, v)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wide", [0, 1, 2])
def test_attention_takes_one_input_in_fp32_beside_two_in_bf16_as_sdpa_does(wide):
    torch.manual_seed(7)
    given = [torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [t if i == wide else t.bfloat16() for i, t in enumerate(given)]
        q, k, v = mixed
        got = fused.attention(q, k, v, None, 0.0, 0.3)
        want = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2)
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    for one, other in zip(gradients(got, given), gradients(want, given), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("float64")
def test_a_sublayer_has_the_output_and_the_gradients_of_its_modules_with_equal_dropout():
    torch.manual_seed(9)
    modules = nn.Module()
    modules.dense, modules.dropout = nn.Linear(6, 4), nn.Dropout(0.3)
    modules.LayerNorm = nn.LayerNorm(4)
    nn.init.normal_(modules.LayerNorm.weight)
    ours = fused.Sublayer(modules)
    x = torch.randn(3, 5, 6, requires_grad=True)
    residual = torch.randn(3, 5, 4, requires_grad=True)
    inputs = (x, residual, *ours.parameters())
    dense = modules.dense(x)
    want = modules.LayerNorm(dense * stays(dense.detach(), 0.3) + residual)
    got = ours(x, residual)
    torch.testing.assert_close(got, want)
    for one, other in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(one, other)
    # Frozen weights get no gradient, and their inputs the same ones.
    before = gradients(got := ours.eval()(x, residual), (x, residual))
    ours.requires_grad_(False)
    assert torch.equal(got, ours(x, residual))
    for one, other in zip(before, gradients(ours(x, residual), (x, residual)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_sublayer_in_bf16_adds_and_normalises_in_fp32(frozen):
    torch.manual_seed(10)
    modules = nn.Module()
    modules.dense, modules.dropout = nn.Linear(64, 64), nn.Dropout(0.1)
    modules.LayerNorm = nn.LayerNorm(64)
    ours = fused.Sublayer(modules).requires_grad_(not frozen)
    x, residual = torch.randn(8, 64, requires_grad=True), torch.randn(8, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        dense = modules.dense(x)
        keep = stays(dense.detach(), 0.1)
        got = ours(x, residual)
    assert dense.dtype == torch.bfloat16
    # Its own arithmetic adds no error to that of the dense layer's rounded output.
    want = modules.LayerNorm(residual + dense.float() * keep.ne(0) / 0.9)
    torch.testing.assert_close(got, want)
    _, dresidual = gradients(got, (x, residual))
    torch.testing.assert_close(dresidual, gradients(want, (x, residual))[1])


@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
def test_both_sublayers_of_every_layer_are_fused_and_parameters_keep_their_names(architecture):
    model = tiny(architecture, layers=2, dropout=0.1)
    names = [name for name, _ in model.named_parameters()]
    fused.fuse_sublayers(model)
    assert sum(isinstance(m, fused.Sublayer) for m in model.modules()) == 4
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
