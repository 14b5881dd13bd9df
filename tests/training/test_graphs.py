"""Recorded steps are the steps: tested with recordings that compute anew, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dora.methods.base import is_recordable
from dora.training.graphs import Graphs, Pass
from dora.training.step import Stepper
from runs import only_run, run, same_files, small


class Computed(Graphs):
    """Graphs whose recordings run the pass again, on their own inputs and gradients."""

    recordings = 0
    repetitions = 0

    def _recorded(
        self, inputs: dict[str, Tensor], gradients: list[Tensor], compute: Pass
    ) -> tuple[Any, tuple[Tensor, Tensor | None]]:
        Computed.recordings += 1
        with torch.random.fork_rng():  # a recording draws nothing yet
            found = compute(inputs)

        class Again:
            def replay(self) -> None:
                Computed.repetitions += 1
                torch._foreach_zero_(gradients)
                for held, new in zip(found, compute(inputs), strict=True):
                    if held is not None and new is not None:
                        held.copy_(new)

        return Again(), found


@pytest.fixture
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every stepper record its steps; batches are padded, since a layout is no tensor."""
    begin = Stepper.__init__

    def with_graphs(self: Stepper, *given: Any) -> None:
        begin(self, *given)
        self.forward.packs = False
        assert is_recordable(type(self.setup.method))
        self.graphs = Computed(list(self.parameters.values()))

    monkeypatch.setattr(Stepper, "__init__", with_graphs)
    monkeypatch.setattr(Computed, "recordings", 0)
    monkeypatch.setattr(Computed, "repetitions", 0)


def unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every stepper pad its batches, and record nothing."""
    begin = Stepper.__init__

    def padded(self: Stepper, *given: Any) -> None:
        begin(self, *given)
        self.forward.packs = False
        self.graphs = None

    monkeypatch.setattr(Stepper, "__init__", padded)


@pytest.mark.usefixtures("_recorded")
@pytest.mark.parametrize(
    "method", ["dora", *(pytest.param(m, marks=pytest.mark.slow) for m in ("full", "sora"))]
)
def test_a_run_of_recorded_steps_is_the_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"method={method}", "max_steps=40", "eval_every=20")
    assert run(small(tmp_path / "recorded", *words))["status"] == "done"
    assert Computed.recordings >= 2
    assert Computed.repetitions > 20
    unrecorded(monkeypatch)
    assert run(small(tmp_path / "plain", *words))["status"] == "done"
    same_files(only_run(tmp_path / "recorded"), only_run(tmp_path / "plain"))


def one_linear() -> tuple[nn.Linear, Graphs, Pass]:
    """Returns a layer, graphs of its weight, and a pass whose loss is the sum of its outputs."""
    layer = nn.Linear(3, 2)

    def compute(inputs: dict[str, Tensor]) -> tuple[Tensor, None]:
        loss = layer(inputs["x"]).sum()
        loss.backward()
        return loss.detach(), None

    Computed.recordings = Computed.repetitions = 0
    return layer, Computed([layer.weight, layer.bias, nn.Parameter(torch.ones(1))]), compute


def taken(layer: nn.Linear, graphs: Graphs, compute: Pass, rows: int, phase: object = 0) -> None:
    """Takes a pass over random rows and compares its loss and gradients with the exact ones."""
    x = torch.randn(rows, 3)
    for p in graphs.parameters:
        p.grad = None
    loss, _ = graphs.run({"x": x}, phase, compute)
    torch.testing.assert_close(loss, layer(x).sum().detach())
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(2, 3))
    # One that a pass does not reach has no gradient, as without a recording: AdamW skips it.
    assert graphs.parameters[2].grad is None


def test_the_second_batch_of_a_shape_and_phase_is_recorded() -> None:
    layer, graphs, compute = one_linear()
    for rows, phase, recordings, repetitions in [
        (4, 0, 0, 0),
        (4, 0, 1, 1),
        (4, 0, 1, 2),
        (5, 0, 1, 2),  # another shape
        (5, 0, 2, 3),
        (4, 1, 2, 3),  # another phase
        (4, 0, 2, 4),  # the first recording is still there
    ]:
        taken(layer, graphs, compute, rows, phase)
        assert (Computed.recordings, Computed.repetitions) == (recordings, repetitions)


def test_what_was_returned_stays_when_the_recording_is_repeated() -> None:
    _, graphs, compute = one_linear()
    losses = []
    for at in range(4):
        for p in graphs.parameters:
            p.grad = None
        losses.append(graphs.run({"x": torch.full((2, 3), float(at))}, 0, compute)[0])
    assert len({float(loss) for loss in losses}) == 4


def test_everything_is_recorded_anew_once_a_parameter_lies_elsewhere() -> None:
    layer, graphs, compute = one_linear()
    for _ in range(3):
        taken(layer, graphs, compute, 4)
    layer.weight.data = torch.randn(2, 3)  # as a removal of components does
    for recordings, repetitions in [(1, 2), (2, 3), (2, 4)]:
        taken(layer, graphs, compute, 4)
        assert (Computed.recordings, Computed.repetitions) == (recordings, repetitions)


def test_a_pass_that_cannot_be_recorded_runs_as_usual_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, graphs, compute = one_linear()

    def refused(inputs: dict[str, Tensor], gradients: list[Tensor], compute: Pass) -> Any:
        compute(inputs)
        raise RuntimeError("asks the GPU")

    monkeypatch.setattr(graphs, "_recorded", refused)
    taken(layer, graphs, compute, 4)
    with pytest.warns(UserWarning, match=r"asks the GPU\); cuda_graphs=false"):
        taken(layer, graphs, compute, 4)
    taken(layer, graphs, compute, 4)  # no second attempt, no second warning
