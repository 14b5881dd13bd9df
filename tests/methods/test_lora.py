"""LoRA beside PEFT's."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import (
    ARCHITECTURES,
    attach_method,
    backward_and_step,
    batches,
    tiny,
    train_head_only,
    trained,
)
from dora.methods.lora import average_rank

# PEFT reads an attribute that Transformers deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def attach(model, budget="r4", **settings):
    """Returns LoRA attached to the model, whose head is trained too."""
    return attach_method(model, "lora", budget, **settings)


def attach_pefts(model, method):
    """Returns PEFT's LoRA with A and B of `method`, and {PEFT's name: (our factor, PEFT's)}."""
    train_head_only(model)
    head = [p for p in model.parameters() if p.requires_grad]
    peft = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules=list(method.layers))
    )
    # PEFT freezes everything but its own tensors.
    for p in head:
        p.requires_grad_(True)
    theirs = dict(peft.named_parameters())
    pairs = {}
    for name, layer in method.layers.items():
        for factor, p in layer.factors().items():
            key = f"base_model.model.{name}.lora_{factor}.default.weight"
            theirs[key].data.copy_(p.detach())
            pairs[key] = (p, theirs[key])
    return peft, pairs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.usefixtures("float64")
def test_forward_and_gradients_equal_pefts_lora(architecture):
    ours, theirs, batch = tiny(architecture), tiny(architecture), batches(1)[0]
    method = attach(ours)
    for layer in method.layers.values():
        torch.nn.init.normal_(layer.B, std=0.1)  # with B = 0, A would have no gradient
    peft, pairs = attach_pefts(theirs, method)
    got, want = ours(**batch), peft(**batch)
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-6, atol=1e-9)
    got.loss.backward()
    want.loss.backward()
    for p, reference in pairs.values():
        assert p.grad.abs().max() > 0
        torch.testing.assert_close(p.grad, reference.grad, rtol=1e-6, atol=1e-9)
    assert len(pairs) == 2 * 12  # A and B of 6 linears in each of 2 layers
    assert sum(p.numel() for p in trained(ours)) == sum(p.numel() for p in trained(peft))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.usefixtures("float64")
def test_ten_training_steps_give_pefts_losses(architecture):
    ours, theirs = tiny(architecture), tiny(architecture)
    peft, _ = attach_pefts(theirs, attach(ours))
    losses = []
    for model in (ours, peft):
        optimizer = torch.optim.AdamW(trained(model), lr=1e-2, weight_decay=0.01)
        losses.append([])
        for batch in batches(10):
            losses[-1].append(backward_and_step(model(**batch).loss, optimizer))
            optimizer.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert max(losses[0]) - min(losses[0]) > 0.1  # it did train


def test_start_values_are_pefts_in_distribution_and_b_zero():
    method = attach(tiny("roberta", hidden=64), "r8")
    for layer in method.layers.values():
        bound = 1 / math.sqrt(layer.base.in_features)  # kaiming_uniform with a = sqrt 5
        # The largest of 512 and more uniform values falls short of the bound by 3 % with
        # probability 0.97^512, about 2e-7.
        assert 0.97 * bound < layer.A.abs().max() <= bound
        assert layer.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert layer.B.eq(0).all()
        assert layer.scale == 16 / 8


# From one component for the whole model to several for each matrix.
@pytest.mark.parametrize("params", [96, 500, 3_584, 4_000, 10_000])
def test_with_a_parameter_budget_the_scale_is_alpha_over_the_average_rank_but_at_most_alpha(params):
    method = attach(tiny("roberta"), f"{params / 1000}k", alpha=8.0)
    ranks = [layer.rank for layer in method.layers.values()]
    trained_params = [p for layer in method.layers.values() for p in layer.factors().values()]
    assert sum(p.numel() for p in trained_params) <= params
    (scale,) = {layer.scale for layer in method.layers.values()}
    assert scale == pytest.approx(8 / max(1, sum(ranks) / 12), rel=1e-12)
    assert average_rank((4, 0)) == 2  # over all matrices, those without a component too
    # Equal ranks but for the rest, which goes to cheap matrices where the dear ones don't fit.
    assert max(ranks) - min(ranks) <= 2


def test_a_matrix_without_a_component_leaves_the_model_trainable():
    model = tiny("deberta-v2")
    method = attach(model, "0.2k")
    assert sorted(layer.rank for layer in method.layers.values())[:8] == [0] * 8
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    assert math.isfinite(backward_and_step(model(**batches(1)[0]).loss, optimizer))
