"""Forward and backward of a training step as CUDA graphs, one for each shape of batch.

A step of a base-size model launches some 1,700 kernels, and for a small batch the host takes far
longer to launch them than the GPU to run them. A graph records the launches once and repeats them
in one call, on the same memory: a batch is copied to where the recording read it, and gradients
appear where it wrote them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dora.process.imports import uncollected

# Takes the inputs by name, returns (loss, penalty or None) of a forward, and runs its backward.
Pass = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None]]


@dataclass
class _Graph:
    """One recording. `inputs`: what it reads, to be overwritten. `found`: what it returns."""

    graph: Any
    inputs: dict[str, Tensor]
    found: tuple[Tensor, Tensor | None]
    trained: list[tuple[Tensor, Tensor]]  # parameters with a gradient, and where it appears


class Graphs:
    """Runs a pass over one batch after the other, and repeats it as a graph where it can.

    The first batch of a shape runs as usual, the second one is recorded. Everything is recorded
    anew once a parameter lies elsewhere, as after a removal of components. If a pass cannot be
    recorded, for example because it asks the GPU for a value, all passes run as usual from then on,
    with a warning.

    `parameters`: what a pass trains. Whatever else it reads must stay where it is, and a pass may
    draw random numbers from PyTorch's default generator alone.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.able = True
        self._stream: Any = None
        self._forget()

    def _forget(self) -> None:
        self._places = [p.data_ptr() for p in self.parameters]
        # A shape's parameters that have a gradient; then its recording.
        self._seen: dict[object, list[Tensor]] = {}
        self._graphs: dict[object, _Graph] = {}
        # All recordings write gradients to the same memory: only one runs at a time.
        self._gradients: dict[Tensor, Tensor] = {}
        self._pool: Any = None

    def run(
        self, inputs: dict[str, Tensor], phase: object, compute: Pass
    ) -> tuple[Tensor, Tensor | None]:
        """Returns what `compute` returns for these inputs, and leaves gradients in `.grad`.

        No parameter may have a gradient before. `phase`: whatever else `compute` depends on.
        """
        if not self.able:
            return compute(inputs)
        if [p.data_ptr() for p in self.parameters] != self._places:
            self._forget()
        key = (phase, *((name, x.shape, x.dtype) for name, x in inputs.items()))
        if key not in self._seen:
            found = compute(inputs)
            self._seen[key] = [p for p in self.parameters if p.grad is not None]
            return found
        if key not in self._graphs:
            try:
                self._graphs[key] = self._record(inputs, self._seen[key], compute)
            except RuntimeError as e:
                self._give_up(e)
                return compute(inputs)
        recorded = self._graphs[key]
        for name, x in inputs.items():
            recorded.inputs[name].copy_(x, non_blocking=True)
        for p, gradient in recorded.trained:
            p.grad = gradient
        recorded.graph.replay()
        loss, penalty = recorded.found
        # Copies: the next repetition overwrites these.
        return loss.clone(), None if penalty is None else penalty.clone()

    def _give_up(self, error: RuntimeError) -> None:
        warnings.warn(
            f"the steps of this run cannot be recorded as CUDA graphs, and are launched one by one "
            f"({error}); cuda_graphs=false leaves the attempt out",
            stacklevel=2,
        )
        self.able = False
        self._forget()
        if torch.cuda.is_available():
            # A recording that broke off may leave the generator believing that it still goes on.
            generator = torch.cuda.default_generators[self.parameters[0].device.index]
            generator.graphsafe_set_state(generator.clone_state())
        for p in self.parameters:  # what the recording has left there
            p.grad = None

    def _record(self, inputs: dict[str, Tensor], trained: list[Tensor], compute: Pass) -> _Graph:
        held = {name: x.clone() for name, x in inputs.items()}
        for p in trained:
            if p not in self._gradients:
                # Made outside the recording, which must not own what outlives it.
                self._gradients[p] = torch.zeros_like(p)
            p.grad = self._gradients[p]
        gradients = [self._gradients[p] for p in trained]
        graph, found = self._recorded(held, gradients, compute)
        return _Graph(graph, held, found, list(zip(trained, gradients, strict=True)))

    def _recorded(
        self, inputs: dict[str, Tensor], gradients: list[Tensor], compute: Pass
    ) -> tuple[Any, tuple[Tensor, Tensor | None]]:
        """Records a pass that begins by clearing the gradients, which backward then adds to."""
        graph = torch.cuda.CUDAGraph()
        # Uncollected: a garbage collection that freed an earlier run's recordings would invalidate
        # this one. On the parameters' device, which need be neither the current one nor that of the
        # stream that PyTorch keeps for recordings. All recordings share one pool of memory.
        device = self.parameters[0].device
        self._stream = self._stream or torch.cuda.Stream(device)
        with (
            uncollected(),
            torch.cuda.device(device),
            torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
        ):
            torch._foreach_zero_(gradients)
            found = compute(inputs)
        self._pool = graph.pool()
        return graph, found
