"""Masking, removing and restoring components: their effect on weights, gradients and moments."""

import copy

import pytest
import torch

from conftest import layer_of
from dora.adapters.components import drop_masked, mask, remove, stored_ranks
from dora.adapters.result import restore


def trained_layer():
    """Returns a layer after two AdamW steps, whose moments are not zero, and its optimizer."""
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
    # Gradients and moments belong to components that may revive, so masking must not touch them.
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
    assert stored_ranks({"w": layer}) == {"w": 3}


def test_a_masked_component_gets_a_gradient_and_revives():
    layer, optimizer = trained_layer()
    mask([layer], [torch.zeros(5, dtype=torch.bool)])
    optimizer.zero_grad()
    layer(torch.randn(6, 4)).pow(2).sum().backward()
    # dL/dg does not depend on g, so a masked component learns that it would help.
    assert layer.g.grad.ne(0).all()
    optimizer.step()
    assert layer.live().all()  # by AdamW's step from 0


def test_a_layer_without_g_cannot_be_masked():
    with pytest.raises(ValueError, match="without g"):
        mask([layer_of(4, 3, 2, gated=False)], [torch.ones(2, dtype=torch.bool)])


def test_removing_keeps_the_right_rows_and_columns_of_weights_and_moments():
    layer, optimizer = trained_layer()
    parameters = layer.factors()
    rows = [0, 2, 3]

    def cut(name, t):
        """Returns the entries of a factor that belong to `rows`; B holds components as columns."""
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
    # AdamW treats every entry apart, so the others' moments are all that their next step needs.
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
    # Empty parameters: neither backward nor the optimizer may stumble over them.
    layer(x).sum().backward()
    optimizer.step()
    assert torch.equal(layer(x), layer.base(x))


def test_masked_components_are_dropped_after_training_and_layers_without_g_keep_theirs():
    gated, plain = layer_of(4, 3, 5), layer_of(4, 3, 2, gated=False)
    mask([gated], [torch.tensor([True, False, True, True, False])])
    before = [layer.delta() for layer in (gated, plain)]
    drop_masked([gated, plain])
    assert (gated.rank, plain.rank) == (3, 2)
    for layer, update in zip((gated, plain), before, strict=True):
        assert torch.equal(layer.delta(), update)


def test_restoring_takes_on_a_smaller_rank_and_copies():
    small, large = layer_of(4, 3, 2, seed=1), layer_of(4, 3, 5, seed=1)
    large.base.load_state_dict(small.base.state_dict())
    # As the best weights of a step after the pruning, put in place of ones before it.
    stored = {n: p.detach().clone() for n, p in small.factors().items()}
    restore(large, {}, stored)
    x = torch.randn(6, 4)
    assert large.rank == 2
    assert torch.equal(large(x), small(x))
    stored[
        "A"
    ].zero_()  # the stored tensors are the best weights, kept apart from those in training
    assert torch.equal(large(x), small(x))
