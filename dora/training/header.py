"""The beginning of a run's record: what is trained, on what, with what, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dora.configuration.rates_from import searched_with
from dora.methods.base import Method
from dora.preparing import precision
from dora.preparing.notes import embedded_note
from dora.preparing.prepare import Prepared
from dora.preparing.source_runs import Source
from dora.records.identity import arithmetic
from dora.records.provenance import processor, provenance
from dora.training.processes import World


def header(p: Prepared, world: World, words: Sequence[str] | None) -> dict[str, Any]:
    """Returns the entries of run.json that are known before the first step.

    `words`: the arguments of `python -m dora.run` that make this run alone.
    """
    return {
        "arithmetic": arithmetic(p.model_type),
        "config": p.settings,
        "method": _about(p.config.chosen.kind),
        "words": None if words is None else list(words),
        "seed": p.config.seed,
        "embedded": embedded_note(p.config),
        "note": p.config.model.note,
        "data": {
            "revision": p.revision,
            "rows": {k: len(v) for k, v in p.rows.items()},
            "train": len(p.train_rows),
        },
        "model": _model(p),
        **_tuning(p),
        "fingerprints": p.fingerprints,
        "init_from": str(p.earlier.folder) if p.earlier else None,
        **({"sources": [_source(source) for source in p.sources]} if p.sources else {}),
        "device": torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else "cpu",
        "processor": processor(),
        "world_size": world.size,
        "precision": precision.line(p.config.precision, str(world.device), p.auto),
        **({"auto_precision": True} if p.auto else {}),
        "total_steps": p.total_steps,
        **provenance(),
    }


def _tuning(p: Prepared) -> dict[str, Any]:
    """Returns the entry on the search that chose the learning rate, if there was one."""
    config, found = p.config, p.search
    if found is None:
        return {}
    effort = {"candidates": found.candidates, "seeds": len(found.seeds)}
    other: dict[str, Any] = {
        name: its
        for name in ("length", "data")
        if (its := getattr(found.key, name)) not in (None, getattr(config.search_key, name))
    }
    if unlike := found.unlike(searched_with(config)):
        other["settings"] = unlike
    return {"tuning": {"file": config.rates_from, **effort, "at_edge": found.at_edge, **other}}


def _source(source: Source) -> dict[str, str]:
    """Returns the record's entry on a finished run that the method reads."""
    return {
        "folder": str(source.folder),
        "task": source.task,
        "method": source.method,
        "sha256": source.sha256,
    }


def _about(kind: type[Method]) -> dict[str, str | None]:
    """Returns facts on the method for tools that read records and must not import its class."""
    return {
        "title": kind.title,
        "paper": kind.paper,
        "note": kind.note,
        "budget": kind.budget,
        "result": kind.result,
    }


def _model(p: Prepared) -> dict[str, Any]:
    """Returns the entry on the model: its kind, and where it was read from."""
    given = p.config.model
    # A folder is read even where the model's YAML names a repository or package too.
    hub, package = (None, None) if given.path else (given.hub, given.package)
    return {
        "type": p.model_type,
        "hub": hub,
        "revision": given.revision if hub else None,
        "path": str(p.model.path) if given.path else None,
        "package": package,
        "random_weights": p.model.random_weights,
        "segments": p.segments,
    }
