"""DeBERTa's attention here equals Transformers', padded and packed, and computes fewer distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from conftest import DEBERTA_V3, VOCABULARY
from dora.backbones import packing
from dora.backbones.attention import packs, speed_up
from dora.backbones.packing import Layout, with_layout

LENGTHS = np.array([12, 3, 7, 7, 2])
INSIDE = torch.from_numpy(np.arange(12) < LENGTHS[:, None])


def deberta(**changes: Any) -> tuple[Any, Any]:
    """Returns one model of DeBERTa-v3's settings, but for `changes`, plain and as a run has it."""
    settings = {
        **DEBERTA_V3,
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **changes,
    }
    models = [DebertaV2ForSequenceClassification(DebertaV2Config(**settings)) for _ in range(2)]
    plain, ours = models
    torch.manual_seed(0)
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.3)  # distances have next to no effect at the usual 0.02
    ours.load_state_dict(plain.state_dict())
    speed_up(ours, torch.device("cpu"))
    return plain, ours


def batch() -> tuple[Tensor, Tensor]:
    """Returns ids and mask of five rows, (5, 12) each."""
    ids = torch.randint(5, VOCABULARY, INSIDE.shape, generator=torch.Generator().manual_seed(1))
    return ids, INSIDE.long()


def gradients(model: Any, logits: Tensor) -> dict[str, Tensor]:
    """Returns the gradients of a sum of the logits with unequal weights, by parameter."""
    weights = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits)
    return dict(
        zip(
            (name for name, _ in model.named_parameters()),
            torch.autograd.grad((logits * weights).sum(), list(model.parameters())),
            strict=True,
        )
    )


# 4: far distances share embeddings, of which the longest row reaches all; 32: each has its own; -1:
# no buckets. DeBERTa-v2 may add positions to its input beside.
@pytest.mark.parametrize("buckets", [4, 32, -1])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("spared", [0, 10**9])
@pytest.mark.usefixtures("float64")
def test_logits_and_gradients_are_those_of_transformers(
    buckets: int, absolute: bool, spared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SPARED", spared)  # a group for each length, or one
    plain, ours = deberta(position_buckets=buckets, position_biased_input=absolute)
    ids, mask = batch()
    want = plain(input_ids=ids, attention_mask=mask).logits
    padded = ours(input_ids=ids, attention_mask=mask).logits
    places = torch.arange(12).expand(5, 12)[INSIDE][None]
    with with_layout(Layout(LENGTHS)):
        packed = ours(input_ids=ids[INSIDE][None], position_ids=places).logits
    truth = gradients(plain, want)
    for got in (padded, packed):
        # Transformers takes the root of the scale in 32 bits.
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
        for name, gradient in gradients(ours, got).items():
            torch.testing.assert_close(gradient, truth[name], rtol=1e-6, atol=1e-6, msg=name)


def test_only_the_distances_of_the_batch_are_computed() -> None:
    _, ours = deberta(position_buckets=32)
    seen: list[int] = []
    for layer in ours.deberta.encoder.layer:
        for linear in (layer.attention.self.query_proj, layer.attention.self.key_proj):
            linear.register_forward_hook(
                lambda module, given, out: seen.append(out.shape[0]) if out.dim() == 2 else None
            )
    ids, mask = batch()
    ours(input_ids=ids, attention_mask=mask)
    assert seen == 4 * [23]  # −11 to 11 of the 64 that the model knows


def test_distances_are_dropped_in_training_alone() -> None:
    plain, ours = deberta(hidden_dropout_prob=0.5)
    for module in ours.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    ids, mask = batch()
    want = plain.eval()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours.train()(input_ids=ids, attention_mask=mask).logits, want)
    for layer in ours.deberta.encoder.layer:
        layer.attention.self.pos_dropout.p = 0.5
    one, two = (ours(input_ids=ids, attention_mask=mask).logits for _ in range(2))
    assert not torch.allclose(one, two)
    torch.testing.assert_close(ours.eval()(input_ids=ids, attention_mask=mask).logits, want)


@pytest.mark.parametrize(
    "changes",
    [
        {"share_att_key": False},
        {"pos_att_type": ["c2p"]},
        {"relative_attention": False, "pos_att_type": [], "position_biased_input": True},
        {"conv_kernel_size": 3},
    ],
)
def test_other_settings_than_those_of_v3_keep_transformers_attention(changes: Any) -> None:
    plain, ours = deberta(**changes)
    assert not packs(ours)
    ids, mask = batch()
    torch.testing.assert_close(
        ours(input_ids=ids, attention_mask=mask).logits,
        plain(input_ids=ids, attention_mask=mask).logits,
    )
