"""Shows and records, before the first step, which run this is and how many parameters it trains."""

from __future__ import annotations

from typing import Any

from dora.preparing import precision
from dora.preparing.notes import clients_notes, notes_on
from dora.preparing.prepare import Prepared
from dora.training.lines import Lines
from dora.training.loop import Loop


def announce(p: Prepared, loop: Loop, say: Lines) -> None:
    """Shows the run, its plan and its parameter counts before training, and records the counts."""
    s, c, parameters = loop.setup, p.config, loop.stepper.parameters
    trained = sum(q.numel() for q in parameters.values())
    in_head = sum(parameters[n].numel() for n in s.head)
    # A sweep has shown these notes once for all of its runs.
    for note in notes_on(p):
        say.unless_in_sweep(note)
    say.unless_in_sweep(precision.line(c.precision, str(s.world.device), p.auto))
    first = " in the first step" if s.method.trained_later() else ""
    every = "every weight is trained; " if s.method.result == "model" else ""
    unbound = f"{every}budget and target do not apply"
    for line in [
        f"{c.method_name} on {c.model_name}, {c.task.name} ({c.data_name}, {len(p.train_rows):,} "
        f"rows), seed {c.seed}: {p.total_steps} steps of {c.batch_size}, lr {s.lr:g}",
        *(p.plan.describe() if p.plan else [unbound]),
        *([p.federation.describe()] if p.federation else []),
        *clients_notes(c, p.federation),
        f"trained{first}: {trained:,} parameters, {in_head:,} of them the head, which no budget counts",
    ]:
        say(line)
    if loop.record is not None:
        loop.record.update(**_counts_before(p, loop, trained, in_head))


def _counts_before(p: Prepared, loop: Loop, trained: int, in_head: int) -> dict[str, Any]:
    """Returns the entries of run.json on parameters, plan and ranks before training.

    `trained_at_once` counts the most parameters that one step trains, without head and gates.
    """
    method = loop.setup.method
    layers = method.layers
    # Gates g are counted apart: an export folds them into B, so they cost the budget nothing.
    names = {f"{name}.g" for name in layers}  # a module of one's own may call anything g
    gates = sum(q.numel() for n, q in loop.stepper.parameters.items() if n in names)
    plan = None
    if p.plan:
        components, params = p.plan.end_range()
        plan = {
            "start_components": sum(p.plan.start),
            "start_params": p.plan.start_params,
            "end_components": components,
            "end_params": params,
        }
    return {
        "params": {
            "trainable": trained,
            "head": in_head,
            "gates": gates,
            "trained_at_once": max(trained - in_head - gates, method.trained_later()),
            "adapter_start": p.plan.start_params if p.plan else 0,
            "budget": str(p.plan.budget) if p.plan else None,
        },
        "plan": plan,
        **loop.about_rounds(loop.setup.total_steps),
        "scale": next((layer.scale for layer in layers.values()), None),
        "counts_from": loop.selection.counts_from,
        # Gates start at 0, so that `ranks` would count no component of a gated layer.
        "ranks": {"start": {name: layer.rank for name, layer in layers.items()} or method.ranks()},
    }
