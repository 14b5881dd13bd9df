"""PEFT's file format: the head's modules, merged weights, and the components that a file holds."""

from __future__ import annotations

import torch

from conftest import layer_of
from dora.adapters.components import mask, stored_ranks
from dora.adapters.peft import adapter_tensors, head_modules, merged, ranks_in_file


def test_a_head_is_named_by_its_modules_and_a_pooler_within_the_backbone_one_level_deeper() -> None:
    head = ["classifier.dense.weight", "classifier.dense.bias", "pooler.dense.weight"]
    assert head_modules(head, "deberta") == ["classifier", "pooler"]
    inside = ["bert.pooler.dense.weight", "bert_classifier.weight"]
    assert head_modules(inside, "bert") == ["bert.pooler", "bert_classifier"]


def test_a_merged_weight_is_a_sum_in_64_bits_with_rows_as_long_as_asked() -> None:
    W, A, B = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(1, 2), torch.zeros(2, 1)
    B[0] = 1e-9  # lost beside 1 in 32 bits
    assert merged(W, A, B, None).tolist() == [[1 + float(B[0])] * 2, [0, 0]]
    lengths = torch.tensor([2.0, 0.0])  # 2 / √2 for each of two equal entries; zeros stay zeros
    wanted = torch.tensor([[2**0.5, 2**0.5], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(merged(W, A, B, lengths), wanted)


def test_a_file_holds_live_components_and_no_matrix_without_any() -> None:
    layers = {"a": layer_of(4, 3, 5), "b": layer_of(4, 3, 2), "c": layer_of(4, 3, 0)}
    keep = [torch.tensor([True, False, True, True, False]), torch.zeros(2, dtype=torch.bool)]
    mask([layers["a"], layers["b"]], keep)
    assert stored_ranks(layers) == ranks_in_file(layers) == {"a": 3, "b": 0, "c": 0}
    named = adapter_tensors(layers, {"head": torch.ones(1)}, ["head"])
    assert {name: tuple(t.shape) for name, t in named.items()} == {
        "base_model.model.a.lora_A.weight": (3, 4),
        "base_model.model.a.lora_B.weight": (3, 3),
        "base_model.model.head": (1,),
    }
