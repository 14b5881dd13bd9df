"""adapter_config.json, by which PEFT reads an adapter.

It is made from a run's ranks, never copied from a file, since PEFT follows whatever stands in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dora.checked_files import tensor_shapes
from dora.errors import UserError
from dora.plain import cut

Run = dict[str, Any]
MAGNITUDE = "lora_magnitude_vector"  # the end of PEFT's name of the norms of a matrix's rows
_MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
# A repository and a commit or branch of the hub. Anything else might name a place on the disk, or
# become code in a model card.
_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*){0,3}", re.ASCII)


def adapter_config(
    ranks: Mapping[str, int],
    base_model: str | None,
    modules_to_save: Sequence[str],
    use_dora: bool = False,
) -> dict[str, Any]:
    """Returns the content of adapter_config.json for these ranks.

    `modules_to_save`: the head's modules, see `head_modules`. `use_dora`: the file holds the norms
    of rows, too.
    """
    # PEFT refuses a rank of 0; a matrix without components is no target.
    held = {name: r for name, r in ranks.items() if r}
    pattern = {re.escape(name): r for name, r in held.items()}
    # Patterns are regular expressions: unescaped dots would match other modules. `r` only fills a
    # required field, since every matrix has a pattern.
    most = max(held.values(), default=0)
    return {
        "alpha_pattern": pattern,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules_to_save),
        "peft_type": "LORA",
        "r": most,
        "rank_pattern": pattern,
        "target_modules": list(held),
        "task_type": "SEQ_CLS",
        **({"use_dora": True} if use_dora else {}),
    }


def rebuilt(run: Run, found: Any, use_dora: bool = False) -> dict[str, Any]:
    """Returns the run's configuration made anew from its ranks.

    `found`: the configuration in the run's directory. Only the base model and the head's modules
    are read from it, since run.json does not have both. `use_dora`: as the tensors beside it say.
    Raises UserError where one of the two is none that this run would write.
    """
    if not isinstance(found, dict):
        raise UserError(f"it holds {cut(found)}, no object")
    base, head = found.get("base_model_name_or_path"), found.get("modules_to_save")
    problems = [] if isinstance(base, str) else [f"its base model is {cut(base)}"]
    if not (
        isinstance(head, list) and all(isinstance(m, str) and _MODULE.fullmatch(m) for m in head)
    ):
        problems.append(f"its modules_to_save are {cut(head)}")
    if not problems:
        problems = list(filter(None, [_other_base(run["model"], str(base))]))
        revision = run["model"]["revision"]
        if revision is not None and hub_revision(revision) is None:
            problems.append(
                f"run.json has the base model's revision {cut(revision)}, which is none of the hub"
            )
    if problems:
        raise UserError(*problems)
    ranks = run["ranks"].get("in_peft_file", run["ranks"]["end"])
    return adapter_config(ranks, str(base), head or [], use_dora)


def _other_base(model: Mapping[str, Any], base: str) -> str | None:
    """Returns a message if `base` is not the model that the run trained on, else None."""
    recorded = model.get("hub") or model.get("path")
    if recorded is not None and base != recorded:
        return f"its base model is {cut(base)}, run.json says {cut(recorded)}"
    # Whatever the record says, PEFT must find the model where the run did: in a folder named by its
    # whole path, or in the hub at the recorded revision.
    from_hub = model.get("revision") is not None and hub_name(base)
    if from_hub or (base.isprintable() and base.startswith("/")):
        return None
    return (
        f"its base model is {cut(base)}, which is neither a folder's whole path "
        "nor the repository of run.json's revision"
    )


def hub_name(name: Any) -> str | None:
    """Returns `name` if it can be a repository of the hub, `owner/name` or `name`; else None."""
    # The hub allows neither `..` nor `--` in a name.
    fits = isinstance(name, str) and _HUB.fullmatch(name) and ".." not in name and "--" not in name
    return name if fits else None


def hub_revision(revision: Any) -> str | None:
    """Returns `revision` if it can be a commit, branch or tag of the hub; else None."""
    fits = isinstance(revision, str) and len(revision) <= 200 and _REVISION.fullmatch(revision)
    return revision if fits and ".." not in revision else None


def holds_magnitudes(file: Path) -> bool:
    """Tells whether an adapter file holds norms of rows, which is PEFT's `use_dora`."""
    return any(name.endswith(f".{MAGNITUDE}") for name in tensor_shapes(file))


def stored_params(file: Path) -> int:
    """Counts the parameters of an adapter file's `lora_` tensors: of components and row norms.

    Only the file's header is read.
    """
    shapes = tensor_shapes(file)
    return sum(math.prod(shape) for name, shape in shapes.items() if ".lora_" in name)
