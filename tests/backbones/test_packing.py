"""A packed batch, and a last layer of first tokens alone, give what the plain model gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import tiny, tokens
from dora.backbones import fused, packing
from dora.backbones.attention import packs, speed_up
from dora.backbones.first_token import read_first_tokens
from dora.backbones.packing import Layout, with_layout

# Rows of 6 to 12 tokens, not in the order of their lengths.
ROWS = np.array([3, 1, 7, 9, 11])


def prepared(architecture):
    """Returns a model as a run on a CPU has it."""
    model = tiny(architecture)
    speed_up(model, torch.device("cpu"))
    return model


def inputs(batch):
    return {name: torch.from_numpy(values) for name, values in batch.items()}


@pytest.fixture(params=["one group", "many groups"])
def _groups(request, monkeypatch):
    # 0: rows of every length are a group of their own.
    monkeypatch.setattr(packing, "SPARED", 10**9 if request.param == "one group" else 0)


@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
@pytest.mark.usefixtures("float64", "_groups")
def test_a_packed_batch_has_the_logits_and_gradients_of_the_padded_one(architecture):
    plain, ours, data = tiny(architecture), prepared(architecture), tokens(20)
    assert packs(ours)
    assert not packs(plain)
    want = plain(**inputs(data.batch(ROWS))).logits
    batch = inputs(data.packed(ROWS))
    assert batch["input_ids"].shape == (1, data.lengths[ROWS].sum())
    if architecture == "roberta":
        batch["position_ids"] += 2  # behind the padding's id, 1
    with with_layout(Layout(data.lengths[ROWS])):
        got = ours(**batch).logits
        with torch.no_grad():  # an evaluation attends by another kernel
            torch.testing.assert_close(ours(**batch).logits, want)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    found = dict(ours.named_parameters())
    for name, p in plain.named_parameters():
        assert (p.grad is None) == (found[name].grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(found[name].grad, p.grad, msg=name)


@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
@pytest.mark.usefixtures("float64")
def test_the_first_tokens_alone_give_the_logits_and_gradients_of_all(architecture):
    plain, ours = tiny(architecture), tiny(architecture)
    read_first_tokens(ours)
    batch, seen = inputs(tokens(20).batch(ROWS)), []
    last = getattr(ours, ours.base_model_prefix).encoder.layer[-1]
    for module in [
        last.output,
        *(() if architecture == "deberta-v2" else [last.attention.self.query]),
    ]:
        module.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    want, got = plain(**batch).logits, ours(**batch).logits
    assert set(seen) == {(5, 1, 32)}
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    found = dict(ours.named_parameters())
    for name, p in plain.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name].grad, p.grad, msg=name)


@pytest.mark.usefixtures("float64", "_groups")
def test_attention_of_a_packed_batch_is_that_of_each_row_by_itself(monkeypatch):
    monkeypatch.setattr(fused, "draw", lambda P, p: torch.empty(0, dtype=torch.int64))
    torch.manual_seed(0)
    lengths = np.array([4, 7, 4, 2])
    shape = (1, int(lengths.sum()), 3, 5)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    heads = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    got = fused.attention(*heads, None, 0.3, 0.5, Layout(lengths))
    rows = [
        F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in row), scale=0.5)
        for row in zip(*(t.split(lengths.tolist(), 1) for t in (q, k, v)), strict=True)
    ]
    # Nothing is dropped, and what stays is scaled up.
    want = torch.cat([row.transpose(1, 2) for row in rows], 1) / 0.7
    torch.testing.assert_close(got, want)
    weights = torch.randn(shape)
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), (q, k, v)),
        torch.autograd.grad((want * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_rows_are_grouped_where_that_spares_padding():
    lengths = np.array([20, 128, 19, 120, 20, 126])
    groups = [group.longest for group in Layout(lengths).groups]
    assert groups == [128, 20]  # 3 x (128² − 20²) entries are spared by the second
    # 31 x (16² − 12²) entries would be: less than a group's calls cost.
    assert len(Layout(np.array([16] + 31 * [12])).groups) == 1
    assert Layout(np.full(8, 9)).groups[0].inside is None


def test_a_layout_ends_with_its_batch_also_after_an_error():
    layout, seen = Layout(np.array([3])), []

    def fail():
        with with_layout(layout):
            seen.append(packing.current())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [layout]
    assert packing.current() is None
