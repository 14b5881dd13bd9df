"""How a run that is trained ends: what it scored and predicts, its weights, and the rest of its record."""

from __future__ import annotations

from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from dora.adapters.budget import Plan
from dora.adapters.peft import save_adapter
from dora.backbones import backbone
from dora.data.predictions import save
from dora.errors import RunFailed
from dora.files import write_atomic
from dora.methods.protocol import Method
from dora.process import memory
from dora.records import artefacts
from dora.records.record import Record, scores
from dora.training.lines import Lines
from dora.training.loop import Loop
from dora.training.prepare import Prepared


def finish(p: Prepared, loop: Loop, record: Record, say: Lines) -> None:
    """Scores and predictions of the last and of the best evaluation, the budget's check, weights, the record's end.

    Raises RunFailed where the budget was missed, or the kept weights don't score as they did in training.
    """
    s, plan = loop.setup, p.plan
    assert loop.best is not None  # the last step is always evaluated and counts
    arrays: dict[str, np.ndarray] = {}
    results = {"last": _report(loop, "last", loop.step, arrays)}
    _check_budget(plan, s.method, "at the end")
    with loop.weights(loop.best_tensors):
        if loop.best["step"] == loop.step:  # the same weights: nothing to compute again
            results["best"] = {**results["last"]}
            arrays |= {
                k.replace("last/", "best/"): v for k, v in arrays.items() if k.startswith("last/")
            }
        else:
            results["best"] = _report(loop, "best", loop.best["step"], arrays)
        _check_budget(plan, s.method, "in the best evaluation")
        rows = min(len(s.reported[k]) for k in p.config.kind.dev_splits)
        _compare(results["best"], loop.best["metrics"], rows)
        results["best"] |= {k: v for k, v in loop.best["metrics"].items() if k.endswith("_heldout")}
        if not s.world.main:
            return
        _save_weights(p, loop, record)
    save(record.folder / "predictions.npz", arrays)
    ranks = live_ranks(s.method)
    params = {
        **record.data["params"],
        "adapter_end": plan.params(list(ranks.values())) if plan else 0,
    }
    record.update(
        results=results,
        params=params,
        ranks={**record.data["ranks"], "end": ranks},
        evaluations={"counted": loop.evaluations, "from_step": loop.counts_from},
        train_s=round(loop.seconds, 2),
        peak_memory_bytes=memory.peak(s.world.device),
        files={**artefacts.sums(p.folder, artefacts.left(p.folder)), **record.sync()},
    )
    record.finish()
    say(
        f"done in {loop.seconds:.1f} s of training: {scores(record.data)}; "
        f"adapter {params['adapter_end']:,} parameters; {record.folder}"
    )
    if note := record.data["embedded"]:
        say.once(note)


def _compare(now: dict[str, Any], then: dict[str, Any], rows: int) -> None:
    """The restored best weights must score as they did in training, up to a device's last bits.

    These may turn a prediction or two of the `rows`, where another device or another number of processes resumed.
    """
    for name in now.keys() & then.keys() - {"degenerate"}:
        if abs(now[name] - then[name]) > max(0.005, 2.5 / rows):
            raise RunFailed(
                f"the best evaluation's weights give {name} {now[name]}, in training it was {then[name]}"
            )


def _report(loop: Loop, which: str, step: int, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Metrics of the weights in place on the development splits; logits, labels and ids of all into `arrays`."""
    metrics, logits = loop.evaluate(loop.setup.reported)
    for split, tokens in loop.setup.reported.items():
        arrays[f"{which}/{split}/logits"] = logits[split]
        if which == "last":
            arrays[f"{split}/ids"] = tokens.idx
            if tokens.label is not None:
                arrays[f"{split}/labels"] = tokens.label
    return {"step": step, **metrics}


def _check_budget(plan: Plan | None, method: Method, where: str) -> None:
    if plan is not None and (missed := plan.missed(list(live_ranks(method).values()))):
        raise RunFailed(f"the budget was missed {where}: {missed}")


def _save_weights(p: Prepared, loop: Loop, record: Record) -> None:
    """best.safetensors (for init_from) and adapter/ (PEFT), or, for full with keep_model, the model."""
    s = loop.setup
    if not s.method.layers:
        if p.config.keep_model:
            s.model.save_pretrained(record.folder / "model")  # type: ignore[operator]
            backbone.load_tokenizer(p.model).save_pretrained(record.folder / "model")
        return
    parameters = dict(s.model.named_parameters())
    tensors: dict[str, Tensor] = {name: parameters[name] for name in s.head}
    for name, layer in s.method.layers.items():
        live = layer.live()
        tensors |= {
            f"{name}.{k}": (t[:, live] if k == "B" else t[live]) for k, t in layer.factors().items()
        }
    tensors = {k: t.detach().cpu().contiguous() for k, t in sorted(tensors.items())}
    write_atomic(
        record.folder / "best.safetensors", safetensors.torch.save(tensors, {"format": "pt"})
    )
    base = record.data["model"]["hub"] or str(p.model.path)
    save_adapter(record.folder / "adapter", s.model, s.method.layers, s.head, base)


def live_ranks(method: Method) -> dict[str, int]:
    """Components that are not masked, by matrix."""
    return {name: int(layer.live().sum()) for name, layer in method.layers.items()}
