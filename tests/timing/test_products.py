"""The products that a step needs are counted as worked out by hand, and are those that are run."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dora.backbones.attention import speed_up
from dora.backbones.first_token import read_first_tokens
from dora.timing import setting
from dora.timing.candidates import contender, loop_of
from dora.timing.products import flops
from dora.timing.setting import Setting

# Batch 4 x 8 = 32 tokens; one layer of width 32, feed-forward width 64, 2 heads of 16.
SMALL = Setting("small", 0.0, batch=4, length=8, threads=1)
# k and v of 32 x 32 for 32 tokens: 2,048 weights, 2 operations a token for each. q and o of 32 x 32,
# ffn1 and ffn2 of 32 x 64: 6,144 weights, in this last layer for the first tokens of 4 rows.
LINEARS = 2 * 32 * 2_048 + 2 * 4 * 6_144
# The low-rank products beside them: d_in + d_out is 2 x 64 for all tokens, 2 x 64 + 2 x 96 for 4.
LOW_RANK = 2 * 32 * 128 + 2 * 4 * 320
# Two products forward, four backward: 8 pairs (rows x heads) of 1 x 8 scores over width 16.
ATTENTION = 2 * 8 * 1 * 8 * 16


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch):
    monkeypatch.setitem(setting.SIZES, "small", ("roberta", 1, 32, 64, 2, 60))
    monkeypatch.setitem(setting.SIZES, "deberta", ("deberta-v2", 2, 32, 64, 2, 60))


def plain_attention(query, key, value, **rest):
    """Returns attention without a mask, by the products of its definition."""
    return (query @ key.mT * rest["scale"]).softmax(-1) @ value


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("floor", 0),
        ("our floor, bf16", 0),
        ("full", LINEARS),  # the weights' gradients
        ("lora", 3 * 12 * LOW_RANK),  # forward and twice that backward, of 12 components
        ("PEFT AdaLoRA", 3 * 12 * LOW_RANK),
        ("dora before, bf16", 3 * 12 * LOW_RANK),
        ("melora", 3 * 12 * LOW_RANK),
        ("bitfit", 0),
        # Down and up, 32 x m each, of 4 rows: m is 48 in two adapters, or 96 in one.
        ("houlsby", 3 * 2 * 2 * 4 * 2 * 32 * 48),
        ("pfeiffer", 3 * 2 * 4 * 2 * 32 * 96),
        ("dora after", 3 * 8 * LOW_RANK),  # 8 components a matrix are left of 12
    ],
)
def test_a_step_needs_the_operations_counted_by_hand(name, beside):
    assert flops(SMALL, name) == 2 * LINEARS + 6 * ATTENTION + beside


def test_an_evaluation_needs_a_forward_pass():
    assert flops(SMALL, "evaluation") == flops(SMALL, "forward") == LINEARS + 2 * ATTENTION


@pytest.mark.parametrize("size", ["small", "deberta"])
def test_the_products_that_are_run_are_those_that_are_counted(size):
    s = Setting(size, 0.0, batch=4, length=8, threads=1)
    with FlopCounterMode(display=False) as counter:
        contender(s, "products")(1)
    assert counter.get_total_flops() == flops(s, "products")


@pytest.mark.parametrize("size", ["small", "deberta"])
def test_a_backbone_that_reads_first_tokens_does_the_products_that_are_counted_and_its_head_s(
    size, monkeypatch
):
    # PyTorch's own count of a step; the head's products are the 32 x 32 and 32 x 2 of 4 rows.
    s = Setting(size, 0.0, batch=4, length=8, threads=1, backbone_dropout=0)
    loop, at = loop_of(s, "floor")
    if size == "deberta":
        speed_up(loop.setup.model, torch.device("cpu"))
    else:
        read_first_tokens(loop.setup.model)
    # The fused attention's backward is counted with the scores computed again.
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", plain_attention)
    with FlopCounterMode(display=False) as counter:
        loop.train_step(at + 1)
    head = 2 * 4 * (32 * 32 + 32 * 2)
    assert counter.get_total_flops() - flops(s, "floor") == 3 * head


def test_the_products_are_of_the_setting_s_precision():
    made = []
    original = torch.randn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *a, **k: made.append(k["dtype"]) or original(*a, **k))
        contender(SMALL, "products")
        contender(SMALL, "products, bf16")
    assert set(made[: len(made) // 2]) == {torch.float32}
    assert set(made[len(made) // 2 :]) == {torch.bfloat16}
