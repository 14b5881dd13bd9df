"""Adapters beside the golden flow and a plain reference, and plans beside golden counts."""

from functools import partial
from types import SimpleNamespace

import encoders
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import linears, tiny, tokens
from dora.adapters.bottleneck import (
    AdaptedAttention,
    AdaptedSublayer,
    Bottleneck,
    adapter_at,
    bottleneck_plan,
    insert,
)
from dora.adapters.budget import Budget, Matrix
from dora.backbones.architectures import ARCHITECTURES, end_of, layer_and_kind
from dora.backbones.attention import packs, speed_up
from dora.backbones.packing import Layout, with_layout

ROWS = np.array([3, 1, 7, 9, 11])  # rows of 6 to 12 tokens, not in the order of their lengths
HOULSBY = {"kinds": ("o", "ffn2"), "activation": "swish", "norm_first": False}
PFEIFFER = {"kinds": ("ffn2",), "activation": "relu", "norm_first": True}


def places(width: int, number: int) -> tuple[Matrix, ...]:
    """Returns the places of adapters in a model of this width."""
    return tuple(adapter_at(Matrix(f"dense{i}", width, width)) for i in range(number))


# --- the module ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("activation", "norm_first", "down", "out"),
    [
        ("swish", False, -3.5, [-0.562264, 3.809830, -1.421326]),
        ("relu", True, -6.666186, [-0.462909, 3.777455, -1.462909]),
    ],
)
def test_the_flow_of_three_numbers_is_that_of_both_libraries(activation, norm_first, down, out):
    """h, residual, norm and adapter are those with which two libraries gave these outputs."""
    norm = nn.LayerNorm(3, eps=1e-5)
    adapter = Bottleneck(3, 1, activation, 0.0)
    with torch.no_grad():
        for p, values in [
            (norm.weight, [1, 2, 0.5]),
            (norm.bias, [0, 1, -1]),
            (adapter.down.weight, [[1, -1, 2]]),
            (adapter.down.bias, [0.5]),
            (adapter.up.weight, [[2], [1], [-1]]),
            (adapter.up.bias, [0, -1, 0.25]),
        ]:
            p.copy_(torch.tensor(values))
    nothing = nn.Identity()
    sublayer = AdaptedSublayer(
        SimpleNamespace(dense=nothing, dropout=nothing, LayerNorm=norm, _forward_pre_hooks={}),
        adapter,
        norm_first,
    )
    seen = []
    adapter.down.register_forward_hook(lambda module, args, y: seen.append(y.item()))
    got = sublayer(torch.tensor([1.0, 3, -1]), torch.tensor([0.0, 2, 1]))
    assert seen == [pytest.approx(down, abs=1e-6)]
    torch.testing.assert_close(got, torch.tensor(out), rtol=0, atol=1e-6)


class Reference(nn.Module):
    """The end of a half layer with an adapter, written out; parameters under the names of ours."""

    def __init__(self, ours, activation, norm_first):
        super().__init__()
        self.LayerNorm, self.adapter = ours.LayerNorm, ours.adapter
        self.inside = "attn" if isinstance(ours, AdaptedAttention) else "dense"
        setattr(self, self.inside, getattr(ours, self.inside))
        self.activation = {"swish": lambda a: a * torch.sigmoid(a), "relu": F.relu}[activation]
        self.norm_first = norm_first

    def forward(self, x, *args, **kwargs):
        if self.inside == "attn":
            return (self.end(self.attn(x, *args, **kwargs)[0], x),)
        return self.end(x @ self.dense.weight.T + self.dense.bias, *args)

    def end(self, h, residual):
        z = self.norm(h + residual) if self.norm_first else h
        down, up = self.adapter.down, self.adapter.up
        f = self.activation(z @ down.weight.T + down.bias) @ up.weight.T + up.bias
        return self.norm(h + f + residual)

    def norm(self, x):
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.LayerNorm.eps).sqrt()
        return centred / deviation * self.LayerNorm.weight + self.LayerNorm.bias


def adapted(model, form, first):
    """Puts adapters of 5 and 3 units into a model, before or after `speed_up`."""
    dense = [m for m in linears(model) if layer_and_kind(m.name)[1] in form["kinds"]]
    sizes = [5 if i % 2 else 3 for i in range(len(dense))]
    if not first:
        speed_up(model, torch.device("cpu"))
    own = [adapter_at(m) for m in dense], [end_of(m.name) for m in dense], sizes
    kept = insert(model, *own, form["activation"], 0.0, form["norm_first"])
    torch.manual_seed(1)
    for adapter in kept.values():
        for p in adapter.parameters():
            nn.init.normal_(p, std=0.3)
    assert [adapter.size for adapter in kept.values()] == sizes
    return model


def inputs(batch):
    return {name: torch.from_numpy(values) for name, values in batch.items()}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("first", [True, False], ids=["before speed_up", "after speed_up"])
@pytest.mark.parametrize("form", [HOULSBY, PFEIFFER], ids=["houlsby", "pfeiffer"])
@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2", "mpnet"])
def test_a_packed_batch_has_the_logits_and_gradients_of_a_plain_reference(
    architecture, form, first
):
    make = (
        partial(encoders.tiny, "mpnet", num_hidden_layers=2)
        if architecture == "mpnet"
        else partial(tiny, architecture)
    )
    ours, data = adapted(make(), form, first).eval(), tokens(20)
    plain = adapted(make(), form, True).eval()
    for name, module in list(plain.named_modules()):
        if isinstance(module, AdaptedSublayer | AdaptedAttention):
            parent, _, attribute = name.rpartition(".")
            reference = Reference(module, form["activation"], form["norm_first"])
            setattr(plain.get_submodule(parent), attribute, reference)
    if first:
        speed_up(ours, torch.device("cpu"))
        ours.eval()  # the faster model's dropout modules are new
    want = plain(**inputs(data.batch(ROWS))).logits
    alone = adapted(make(), form, True).eval()  # as on a GPU, without the faster parts
    torch.testing.assert_close(alone(**inputs(data.batch(ROWS))).logits, want)
    if packs(ours):
        batch = inputs(data.packed(ROWS))
        batch["position_ids"] += ARCHITECTURES[architecture].first_position(ours.config.to_dict())
        with with_layout(Layout(data.lengths[ROWS])):
            got = ours(**batch).logits
    else:  # DeBERTa's own attention takes padded batches
        got = ours(**inputs(data.batch(ROWS))).logits
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    got.square().sum().backward()
    want.square().sum().backward()
    found, own = dict(ours.named_parameters()), 0
    for name, p in plain.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name].grad, p.grad, rtol=1e-8, atol=1e-12, msg=name)
            own += ".adapter." in name and bool(p.grad.abs().max() > 0)
    assert own == 4 * 2 * len(form["kinds"])


def test_dropout_falls_on_the_adapters_output_in_training_alone():
    adapter = Bottleneck(64, 8, "relu", 0.5)
    nn.init.constant_(adapter.up.bias, 1.0)
    z = torch.randn(7, 64)
    dropped = adapter(z)
    kept = adapter.eval()(z)
    zero = dropped == 0
    assert 0.4 < zero.float().mean() < 0.6
    torch.testing.assert_close(dropped[~zero], 2 * kept[~zero])


# --- plans ---


@pytest.mark.parametrize(
    ("number", "units", "budget", "sizes", "stored"),
    [
        # 300,000 and 1,327,104 parameters on a model of base size, 24 or 12 adapters.
        (24, 4, "300k", [8] * 15 + [7] * 9, 299_703),
        (12, 8, "300k", [16] * 9 + [15] * 3, 299_709),
        (24, 4, "1327104", [36] * 11 + [35] * 13, 1_326_419),
        (12, 8, "1327104", [72] * 5 + [71] * 7, 1_326_425),
        # The papers' pairing with ranks: 4 r and 8 r units.
        (24, 4, "r1", [4] * 24, 165_984),
        (24, 4, "r2", [8] * 24, 313_536),
        (24, 4, "r4", [16] * 24, 608_640),
        (24, 4, "r8", [32] * 24, 1_198_848),
        (12, 8, "r2", [16] * 12, 304_320),
        (12, 8, "r4", [32] * 12, 599_424),
        (12, 8, "r8", [64] * 12, 1_189_632),
    ],
)
def test_plans_of_base_models_have_the_golden_bottlenecks_and_counts(
    number, units, budget, sizes, stored
):
    plan = bottleneck_plan(Budget.parse(budget), places(768, number), units)
    assert list(plan.start) == list(plan.end) == sizes
    assert plan.start_params == plan.end_range()[1][1] == stored
    assert plan.missed(plan.end) is None


@pytest.mark.parametrize(
    ("number", "units", "rank", "stored"),
    [
        (48, 4, 2, 835_968),  # bottleneck 8
        (48, 4, 16, 6_343_680),  # 64; printed as 6.0M
        (24, 8, 2, 811_392),  # 16
        (24, 8, 8, 3_171_840),  # 64; printed as 3.0M
    ],
)
def test_plans_of_large_models_have_the_published_counts(number, units, rank, stored):
    plan = bottleneck_plan(Budget(rank=rank), places(1024, number), units)
    assert plan.start_params == stored


@pytest.mark.parametrize("norms", [0, 1_536])
def test_a_number_of_parameters_is_never_exceeded_and_missed_by_less_than_a_unit(norms):
    adapters = (adapter_at(Matrix("first", 32, 32), norms), *places(32, 5))
    for params in range(2_200, 9_000, 37):
        plan = bottleneck_plan(Budget(params=params), adapters, 4)
        assert 0 <= params - plan.start_params < 65  # a unit costs 2 · 32 + 1
        assert plan.start_total == plan.start_params
        assert max(plan.start) - min(plan.start) <= 1
        modules = [Bottleneck(32, size, "relu", 0.0) for size in plan.start]
        held = sum(p.numel() for module in modules for p in module.parameters())
        assert held + norms == plan.start_params


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        # 6 · (3 · 100 + 1), and 6 · (2 · 100² + 2 · 100).
        ("1k", r"is less than 6 adapters with a bottleneck of 1, .* \(1,806 parameters\)"),
        ("r26", "a bottleneck of 104, and the model is 100 wide; at most r25 or 121,200 param"),
        ("121201", None),
        ("121401", "it gives adapters a bottleneck of 101, and the model is 100 wide"),
        ("0.2M", "it gives adapters a bottleneck of 166, and the model is 100 wide"),
    ],
)
def test_a_budget_that_does_not_fit_says_what_would(budget, said):
    if said is None:
        assert bottleneck_plan(Budget.parse(budget), places(100, 6), 4).start_params == 121_200
        return
    with pytest.raises(ValueError, match=said):
        bottleneck_plan(Budget.parse(budget), places(100, 6), 4)


def test_a_plan_describes_adapters_in_their_own_words():
    plan = bottleneck_plan(Budget.parse("300k"), places(768, 24), 4)
    assert plan.describe() == [
        "adapters: 15 of bottleneck 8 and 9 of bottleneck 7",
        "stored:   299,703 parameters (budget 300000)",
    ]
    with_norms = (adapter_at(Matrix("first", 768, 768), 38_400), *places(768, 23))
    assert bottleneck_plan(Budget(rank=2), with_norms, 4).describe() == [
        "adapters: 24 of bottleneck 8",
        "stored:   351,936 parameters, 38,400 of them LayerNorms' (budget r2)",
    ]
