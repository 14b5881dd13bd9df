"""Tensors as they are written: in memory of their own, and copied only where they must be."""

from __future__ import annotations

import torch

from dora.adapters.result import as_stored


def test_only_a_tensor_in_the_memory_of_another_is_copied() -> None:
    alone, shared = torch.arange(6.0), torch.arange(6.0).view(2, 3)
    given = {
        "alone": alone,
        "first": shared,
        "again": shared,
        "row": shared[1],
        "turned": shared.t(),
    }
    stored = as_stored(given)
    assert list(stored) == list(given)
    assert all(torch.equal(stored[name], t) for name, t in given.items())
    assert all(t.is_contiguous() for t in stored.values())
    assert len({t.untyped_storage().data_ptr() for t in stored.values()}) == len(given)
    # A whole model is not held twice.
    assert stored["alone"].data_ptr() == alone.data_ptr()
    assert stored["first"].data_ptr() == shared.data_ptr()
