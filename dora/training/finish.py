"""The end of a trained run: final scores, predictions, kept weights, and the rest of its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from dora.adapters import components
from dora.adapters.peft import ranks_in_file, save_adapter
from dora.adapters.peft_config import stored_params
from dora.adapters.plan import Plan
from dora.adapters.result import as_stored
from dora.backbones import backbone
from dora.checked_files import tensor_shapes
from dora.data.predictions import save, text_sums
from dora.data.tokens import Tokens
from dora.errors import RunFailed
from dora.files import plainly, write_atomic
from dora.guarding.counted import miscounted, uncounted
from dora.methods.base import Method
from dora.plain import counted
from dora.preparing.prepare import Prepared
from dora.process import memory
from dora.records import artefacts, journals
from dora.records.record import Record, scores_in_words
from dora.training.evaluation import losses
from dora.training.lines import Lines
from dora.training.loop import Loop


def finish(p: Prepared, loop: Loop, record: Record, say: Lines) -> None:
    """Scores the last and the best weights, checks both against the budget, and ends the record.

    The best weights are saved. Ranks and counts in the record belong to the weights that they stand
    beside: "last" or "best". Raises RunFailed if a budget is missed, or if the best weights don't
    predict as they did in training, and UserError if the method has changed the backbone.
    """
    s, plan, best = loop.setup, p.plan, loop.selection.best
    assert best is not None  # the last step is always evaluated and counts
    unreached = s.guard.ended(loop.stepper.optimizer)
    # The last step's evaluation has predicted the development set with equal weights.
    last, last_logits = loop.evaluate(s.reported, loop.known(loop.step))
    ranks = {"last": s.method.ranks()}
    # Counted in the last weights: the best ones may come from before a renewal.
    in_all = _trained_in_all(s.method)
    _check_budget(plan, ranks["last"], "at the end")
    loop.put(loop.selection.tensors)  # nothing below needs the last weights
    if best["step"] == loop.step:  # the weights are equal: no second evaluation
        scores, best_logits = last, last_logits
    else:  # predicted anew, for `_check_restored`
        scores, best_logits = loop.evaluate(s.reported)
    # The ranks of the best weights, which may come from a step before the last pruning.
    ranks["end"] = s.method.ranks()
    in_file = ranks_in_file(s.method.layers)
    if in_file and in_file != ranks["end"]:
        ranks["in_peft_file"] = in_file
    # The last weights have met it: components changed after the best evaluation.
    after = f"{type(s.method).__name__}.ranks_final_at={s.method.ranks_final_at} lets it count"
    _check_budget(plan, ranks["end"], f"in the best evaluation ({after})")
    _check_restored(loop, best, best_logits)
    # All processes share the evaluations above; only the main one writes.
    if not s.world.main:
        return
    counts = _save_weights(p, loop, record)
    arrays = _arrays(s.reported, last_logits, best_logits)
    # The data's fingerprint does not cover AX: by these sums a mended AX.tsv is told from this one.
    added = {k: rows for k, rows in p.rows.items() if k not in s.task.splits}
    arrays |= {f"{split}/texts": text_sums(rows) for split, rows in added.items()}
    save(record.folder / artefacts.PREDICTIONS, arrays)
    if plan is not None:
        counts["adapter_last"] = plan.params(list(ranks["last"].values()))
    params = {**record.data["params"], **counts}
    params["trained_in_all"] = max(params["trained_at_once"], in_all)
    heldout = {k: v for k, v in best["metrics"].items() if k.endswith("_heldout")}
    # The checksums come last, when every file they cover is whole.
    record.update(
        results={
            "last": {"step": loop.step, **last},
            "best": {"step": best["step"], **scores, **heldout},
        },
        params=params,
        ranks={**record.data["ranks"], **ranks},
        evaluations={
            "counted": loop.selection.evaluations,
            "from_step": loop.selection.counts_from,
        },
        warnings=[
            *_warnings(record, plan, ranks["last"], counts, s.guard.own),
            *unreached,
        ],
        # `patience` may have ended the run before its last round.
        **loop.about_rounds(loop.step),
        train_s=round(loop.seconds, 2),
        peak_memory_bytes=memory.peak(s.world.device),
        files={**artefacts.sums(record.folder, artefacts.left(record.folder)), **record.sync()},
    )
    record.finish()
    _say_end(loop, record, plan, say)


def _trained_in_all(method: Method) -> int:
    """Returns the number of factors' entries that are trained now, or were before a renewal."""
    total = 0
    for layer in method.layers.values():
        factors = {name: p for name, p in layer.factors().items() if p.requires_grad}
        total += sum(p.numel() for name, p in factors.items() if name != "g")
        # Kept factors that are no components of their own are the start values of the trained ones.
        if layer.kept_rank:
            total += sum(t.numel() for t in layer.kept().values())
    return total


def _warnings(
    record: Record, plan: Plan | None, last: dict[str, int], counts: dict[str, Any], own: bool
) -> list[str]:
    """Returns the sentences that the run's user should read.

    `last`: the ranks when training ended. `counts`: those of the best weights. `own`: the method is
    one of the user's own.
    """
    # From the journal, which a resumed run cuts back to its checkpoint: none is there twice.
    lines = journals.events(record.folder, journals.RANKS)
    found = [line["warning"] for line in lines if "warning" in line]
    if plan is None:
        return found
    if not counts["adapter_end"]:
        found.append("no component is live: the result is the backbone with a trained head")
    # A method that has warned in training has said so, with its own way out.
    elif not found and plan.falls_short(list(last.values())):
        spent = plan.budget.spent(list(last.values()), plan.matrices)
        found.append(
            f"training ended with {spent:,} of the {plan.target:,} {plan.budget.unit}s of "
            f"budget={plan.budget}: compare the run at that size, or let its method take less away"
        )
    # Where component_cost() is LoRA's still, and frozen factors that are drawn again are in no result.
    if own and counts["stored"] < counts["adapter_end"] == counts["in_peft_file"]:
        found.append(
            f"the budget counts the {counts['adapter_end']:,} numbers of the adapter for PEFT; the "
            f"run's own weights are {counts['stored']:,}: if the budget is to bind these, let "
            "component_cost() or plan() say what a component adds to them"
        )
    return found


def _say_end(loop: Loop, record: Record, plan: Plan | None, say: Lines) -> None:
    """Says scores, size and place of a finished run, and what an upper bound left unused."""
    params, result = record.data["params"], loop.setup.method.result
    number = params["trainable" if result == "model" else "adapter_end"]
    trained = result in ("model", "weights")
    size = f"{number:,} trained parameters" if trained else f"adapter {number:,} parameters"
    scores = scores_in_words(record.data)
    say(f"done in {loop.seconds:.1f} s of training: {scores}; {size}; {record.folder}")
    for warning in record.data["warnings"]:
        say(f"warning: {warning}")
    if plan is not None and plan.at_most:
        ranks = list(record.data["ranks"]["end"].values())
        left = plan.target - plan.budget.spent(ranks, plan.matrices)
        if left:
            unused = counted(left, plan.budget.unit)
            say(f"{unused} of budget={plan.budget} left unused, as the method allows")
    if note := record.data["embedded"]:
        say.unless_in_sweep(note)


def _check_restored(loop: Loop, best: dict[str, Any], reported: dict[str, np.ndarray]) -> None:
    """Raises RunFailed unless the restored best weights predict as they did in training.

    `reported`: their logits by split. A small difference is allowed, because a run may be resumed
    on another device or by another number of processes.
    """
    s = loop.setup
    known = loop.known(best["step"]) | reported
    logits = {k: known[k] if k in known else loop.predict(rows) for k, rows in s.scored.items()}
    # By losses, which move as little as the logits do. A score may jump: if a model predicts nearly
    # one class, a single row that changes moves CoLA's by 4 points.
    now, then = losses(s.task, logits, s.scored), best["losses"]
    # A method of one's own may set such a number for one step, and evaluations find it there.
    perhaps = (
        " (a layer's scale that changes in training is no part of them)" if s.guard.own else ""
    )
    for name in now.keys() & then.keys():
        if abs(now[name] - then[name]) > 0.005 * max(1.0, then[name]):
            raise RunFailed(
                f"the best evaluation's weights give {name} {now[name]:.4f}, in training it was "
                f"{then[name]:.4f}: they are not those that were evaluated{perhaps}"
            )


def _arrays(
    splits: Mapping[str, Tokens], last: Mapping[str, np.ndarray], best: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the arrays of predictions.npz: `last` and `best` logits, ids and labels by split."""
    arrays = {}
    for split, tokens in splits.items():
        arrays[f"last/{split}/logits"] = last[split]
        arrays[f"{split}/ids"] = tokens.idx
        if tokens.label is not None:
            arrays[f"{split}/labels"] = tokens.label
    return arrays | {f"best/{split}/logits": logits for split, logits in best.items()}


def _check_budget(plan: Plan | None, ranks: dict[str, int], where: str) -> None:
    """Raises RunFailed if these ranks miss the plan's budget; `where`: names the weights."""
    if plan is not None and (missed := plan.missed(list(ranks.values()))):
        raise RunFailed(f"the budget was missed {where}: {missed}")


def _save_weights(p: Prepared, loop: Loop, record: Record) -> dict[str, Any]:
    """Writes the present weights in the form of the method's result; returns parameter counts.

    "model" leaves the whole model if keep_model=true; the others leave best.safetensors, "adapter"
    also adapter/ for PEFT. Raises RunFailed if the count in the file is not the plan's, or if a
    layer of one's own stores another update than it adds.
    """
    s = loop.setup
    form = p.config.chosen.kind.result
    if form == "model":
        if p.config.keep_model:
            place = record.folder / "model"
            with plainly(place):
                s.model.save_pretrained(place)  # type: ignore[operator]
            backbone.load_tokenizer(p.model).save_pretrained(place)
        planned = p.plan.params(list(s.method.ranks().values())) if p.plan is not None else 0
        return {"adapter_end": planned, "stored": 0, "in_peft_file": None}
    # A masked component adds nothing to the output, so the file need not hold it.
    components.drop_masked(s.method.layers.values())
    tensors = as_stored(dict(sorted(loop.result().items())))
    file = record.folder / artefacts.WEIGHTS
    write_atomic(file, safetensors.torch.save(tensors, {"format": "pt"}))
    held = _held_params(file, uncounted(s.method, s.head))
    exported = None
    if form == "adapter":
        s.guard.stored()
        base = record.data["model"]["hub"] or str(p.model.path)
        save_adapter(record.folder / "adapter", s.model, s.method.layers, s.head, base)
        exported = stored_params(record.folder / artefacts.ADAPTER_WEIGHTS)
    planned = exported or held
    if p.plan is not None:
        planned = p.plan.params(list(s.method.ranks().values()))
        # Counted in the files, not in the model: a method whose components cost more than it says
        # would otherwise pass its budget's check.
        if problem := miscounted(s.method, p.plan, file.name, held, exported):
            raise RunFailed(problem)
    return {"adapter_end": planned, "stored": held, "in_peft_file": exported}


def _held_params(file: Path, left_out: set[str]) -> int:
    """Counts the parameters of a safetensors file, by its header, without the tensors `left_out`."""
    shapes = tensor_shapes(file)
    return sum(math.prod(shape) for name, shape in shapes.items() if name not in left_out)
