"""Tests for a GPU: nothing in a step waits for it, and it computes what the CPU does.

python -m pytest -m gpu

A machine without a GPU can run those that do not ask who waits:

DORA_TEST_DEVICE=cpu python -m pytest -m gpu tests/test_gpu.py
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tokens
from dora.adapters.dropout import Dropout
from dora.adapters.lowrank import LowRankLinear, Siblings
from dora.timing.candidates import Setting, loop_of
from dora.training.loop import Loop
from runs import only_run, run, same_files, small

# Before CUDA starts, as `dora.run` does: cuBLAS needs it to be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
DEVICE = os.environ.get("DORA_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device here"
    ),
    # The mode that tells who waits begins with a warning itself.
    pytest.mark.filterwarnings("default"),
]
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="only CUDA can tell who waits for it")
BATCH = 8


class Notes:
    """A record that keeps nothing, so that allocations are noted as in a real run."""

    def log(self, journal: str, event: dict[str, Any]) -> None:
        """Checks the event, whose numbers have come from the device."""
        assert event["total"] == sum(event["ranks"].values())


def warm_loop(name: str, precision: str) -> tuple[Loop, int]:
    """Returns a candidate of the bench on rows of unequal length, and its next step.

    The first few steps are done: they allocate memory, which waits for the device.
    """
    # Dropout in 16 bits and none in 32, so that both forms of the layer are met.
    dropout = 0.1 if precision == "bf16" else 0.0
    loop, at = loop_of(Setting("tiny", dropout, BATCH, 16, DEVICE, precision, threads=1), name)
    loop.setup.train = tokens(4 * BATCH)
    loop.record = Notes()  # type: ignore[assignment]
    for step in range(at + 1, at + 4):
        loop.train_step(step)
    return loop, at + 4


@pytest.fixture
def _as_in_a_run() -> Iterator[None]:
    """Sets deterministic algorithms as `dora.training.one_run` does, and resets all modes after."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)


# Steps without an allocation; "before" and "after" the pruning window.
PLAIN = ["full", "lora", "adalora before", "adalora after", "dora before", "dora after"]


@needs_cuda
@pytest.mark.usefixtures("_as_in_a_run")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_step_never_waits_for_the_gpu(name: str, precision: str) -> None:
    loop, at = warm_loop(name, precision)
    # CUDA's own mode: any call of PyTorch's that waits for the device raises.
    torch.cuda.set_sync_debug_mode("error")
    for step in range(at, at + 4):
        loop.train_step(step)  # raises where the host waits


@needs_cuda
@pytest.mark.usefixtures("_as_in_a_run")
@pytest.mark.parametrize("name", ["adalora allocating", "dora allocating"])
def test_an_allocating_step_waits_once_at_most(name: str) -> None:
    loop, at = warm_loop(name, "bf16")
    loop.stepper.graphs = None  # recording a new shape waits, too
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(at, at + 4):
            loop.train_step(step)
    torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    places = sorted({f"{w.filename}:{w.lineno}" for w in waits})
    assert len(waits) <= 4, places  # one for each of the four steps: the scores go to the host


@pytest.mark.parametrize("name", [*PLAIN, "adalora allocating", "dora allocating"])
def test_the_first_steps_of_every_phase_have_finite_losses(name: str) -> None:
    loop, at = warm_loop(name, "bf16")
    loss, penalty = loop.train_step(at)
    assert loss.device.type == DEVICE
    assert torch.isfinite(loss)
    assert penalty is None or torch.isfinite(penalty)


def linear(gated: bool, rank: int, d_in: int, d_out: int, dropout: float = 0.0) -> LowRankLinear:
    """Returns a layer of random float64 numbers."""
    layer = LowRankLinear(nn.Linear(d_in, d_out), rank, 0.7, dropout, gated).double()
    for p in layer.factors().values():
        nn.init.normal_(p)
    return layer


def passed(layers: list[LowRankLinear], x: Tensor, device: str) -> list[Tensor]:
    """Runs these layers beside each other on `device`; returns outputs and gradients on the CPU."""
    owner = nn.ModuleList(layers).to(device)
    owner.zero_grad()
    x = x.detach().to(device).requires_grad_()
    Siblings(layers)(owner, (x,))
    ys = [layer(x) for layer in layers]
    # Any loss whose gradient differs from entry to entry.
    torch.stack([(y * y.detach().cos()).sum() for y in ys]).sum().backward()
    grads = [p.grad for layer in layers for p in layer.factors().values()]
    assert x.grad is not None
    return [t.detach().cpu() for t in (*ys, x.grad, *grads) if t is not None]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("ranks", [(3,), (2, 5, 1)])
def test_a_layer_gives_what_it_gives_on_the_cpu(gated: bool, ranks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layers = [linear(gated, rank, 12, 20) for rank in ranks]
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    here, there = passed(layers, x, "cpu"), passed(layers, x, DEVICE)
    assert len(here) == len(ranks) * (4 if gated else 3) + 1
    # float64, so that another order of sums shows in the last digits alone.
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_its_share_and_the_gradient_where_it_dropped(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1_000, 400, device=DEVICE, requires_grad=True)
    y = Dropout(p)(x)
    (3 * y).sum().backward()
    share = float((y == 0).double().mean())
    # Five standard deviations of a mean of 400,000 draws.
    assert abs(share - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)))
    torch.testing.assert_close(x.grad, 3 * y.detach())


def test_the_adapters_dropout_is_the_same_in_both_directions() -> None:
    torch.manual_seed(0)
    n, p = 400, 0.25
    layer = linear(False, n, n, n, dropout=p).to(DEVICE)
    # y = 0.7 dropped(x): an entry of y shows whether the same entry of x was dropped.
    with torch.no_grad():
        layer.base.weight.zero_()
        assert layer.base.bias is not None
        layer.base.bias.zero_()
        layer.A.copy_(torch.eye(n))
        layer.B.copy_(torch.eye(n))
    x = torch.ones(300, n, dtype=torch.float64, device=DEVICE, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    share = float((y == 0).double().mean())
    assert abs(share - p) < 5 * (p * (1 - p) / y.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 0.7 / (1 - p)))
    torch.testing.assert_close(x.grad, y.detach())


@pytest.mark.parametrize("method", ["adalora", "dora"])
def test_the_same_seed_gives_the_same_weights(method: str, tmp_path: Path) -> None:
    words = (f"device={DEVICE}", f"method={method}", "precision=bf16")
    for name in ("one", "two"):
        assert run(small(tmp_path / name, *words))["status"] == "done"
    same_files(only_run(tmp_path / "one"), only_run(tmp_path / "two"))


@pytest.mark.parametrize(
    "method", ["full", "lora", "adalora", "dora", "sora", "melora", "houlsby", "lora_pro"]
)
def test_recorded_steps_are_the_steps(method: str, tmp_path: Path) -> None:
    words = (f"device={DEVICE}", f"method={method}", "precision=bf16")
    for graphs in ("true", "false"):
        assert run(small(tmp_path / graphs, *words, f"cuda_graphs={graphs}"))["status"] == "done"
    same_files(only_run(tmp_path / "true"), only_run(tmp_path / "false"))
