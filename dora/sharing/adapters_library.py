"""Bottleneck adapters in the layout of the `adapters` library (AdapterHub).

The library at its version 1.2.0 needs Transformers 4, so that it cannot be installed beside this
suite: the layout is written from its sources, and tested by names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dora.backbones import tensors
from dora.checked_files import Shape, tensor_shapes
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.files import to_json, write_atomic
from dora.plain import cut
from dora.records import artefacts
from dora.records.schema import Run

# Without a version the library takes "gelu" for a tanh approximation, as older ones wrote it.
_VERSION = "adapters.1.2.0"
# Its DoubleSeqBnConfig and SeqBnConfig; the rest of a configuration has BnConfig's defaults.
_FORMS: dict[str, dict[str, Any]] = {
    "houlsby": {"mh_adapter": True, "output_adapter": True, "original_ln_before": False},
    "pfeiffer": {"mh_adapter": False, "output_adapter": True, "original_ln_before": True},
}
# The architectures whose layers have places for these adapters, and their classes' names.
_CLASSES = {
    "roberta": "Roberta",
    "bert": "Bert",
    "deberta-v2": "DebertaV2",
    "xlm-roberta": "XLMRoberta",
    "electra": "Electra",
}
# A tensor's name: the module after which the adapter stands, its layer, which part of it.
_NAME = re.compile(
    r"(\w+\.encoder\.layer\.(\d+)\.(attention\.output|output))\.adapter\.(down|up)\.(weight|bias)",
    re.ASCII,
)
_PARTS = {"down": "adapter_down.0", "up": "adapter_up"}


def unfit(run: Run, merge: bool) -> list[str]:
    """Returns every reason in a run's record why the library could not hold its result."""
    method = run["config"]["method"]
    if method["name"] not in _FORMS:
        return [
            f"method={method['name']} leaves modules of its own, which no other library reads: "
            f"{artefacts.WEIGHTS} in the run's directory holds them by name"
        ]
    problems = []
    kind = run["model"].get("type")
    if kind is not None and kind not in _CLASSES:
        problems.append(
            f"the adapters library has no adapters for {cut(kind)}; {artefacts.WEIGHTS} in the "
            "run's directory holds these by name"
        )
    if merge:
        problems.append(
            "--merge: adapters are not linear in their input, so that no weight can take them in; "
            "export without --merge, for the adapters library"
        )
    if method.get("layer_norm"):
        problems.append(
            "method.layer_norm=true has trained the backbone's LayerNorms, for which the adapters "
            f"library has no place: {artefacts.WEIGHTS} in the run's directory holds them; "
            "train with method.layer_norm=false to export adapters"
        )
    return problems


def file_problems(folder: Path) -> list[str]:
    """Returns messages on tensors in a run's weights that are of no adapter and of no head."""
    shapes = tensor_shapes(folder / artefacts.WEIGHTS)
    kind = _model_type(shapes)
    strange = [n for n in shapes if not _NAME.fullmatch(n) and (kind is None or _backbone(n, kind))]
    return [f"{artefacts.WEIGHTS} holds {cut(n)}, which is no part of an adapter" for n in strange]


def _backbone(name: str, kind: str) -> bool:
    """Tells whether a tensor belongs to no head; a pooler that was drawn anew is part of one."""
    return not tensors.in_head(name, kind) and tensors.bare(name, kind) not in tensors.POOLER


def _model_type(names: Mapping[str, Any], recorded: object = None) -> str | None:
    """Returns the architecture that the adapters' names tell of, or None if none does.

    `recorded`: the one of run.json, which decides where two have equal names.
    """
    prefixes = {name.split(".", 1)[0] + "." for name in names if _NAME.fullmatch(name)}
    fitting = [kind for kind in _CLASSES if {tensors.prefix(kind)} == prefixes]
    return str(recorded) if recorded in fitting else next(iter(fitting), None)


def config_of(run: Run, shapes: Mapping[str, Shape], base: str) -> dict[str, Any]:
    """Returns the content of adapter_config.json.

    `shapes`: of the run's tensors by name. `base`: the base model's name or folder.
    """
    method = run["config"]["method"]
    sizes: dict[str, dict[str, int]] = {"attention.output": {}, "output": {}}
    width = 0
    for name, shape in shapes.items():
        found = _NAME.fullmatch(name)
        if found is not None and name.endswith("down.weight"):
            sizes[found[3]][found[2]], width = shape[0], shape[1]
    about = {
        "non_linearity": method["activation"],
        "dropout": method["dropout"],
        **_FORMS[method["name"]],
        "original_ln_after": True,
        "residual_before_ln": True,
        "init_weights": "bert",
        "scaling": 1.0,  # the library takes a number for a scaling only with a point
    }
    if not about["mh_adapter"] or sizes["attention.output"] == sizes["output"]:
        config = {**about, "reduction_factor": _factors(width, sizes["output"])}
    else:
        # One configuration has one bottleneck for a layer; a union of two has one for each place.
        config = {
            "architecture": "union",
            "configs": [
                {
                    **about,
                    "mh_adapter": at == "attention.output",
                    "output_adapter": at == "output",
                    "reduction_factor": _factors(width, of),
                }
                for at, of in sizes.items()
            ],
        }
    kind = _model_type(shapes, run["model"].get("type"))
    return {**_full(kind, width, base), "name": adapter_name(run), "config": config}


def _full(kind: str | None, width: int, base: str) -> dict[str, Any]:
    """Returns the entries that the configurations of adapters and heads have in common."""
    return {
        "hidden_size": width,
        "model_class": f"{_CLASSES[str(kind)]}ForSequenceClassification",
        "model_name": base,
        "model_type": kind,
        "version": _VERSION,
    }


def adapter_name(run: Run) -> str:
    """Returns the name under which the library knows the adapter: its task's."""
    return str(run["config"]["task"])


def _factors(width: int, sizes: Mapping[str, int]) -> float | dict[str, float]:
    """Returns the library's reduction factor: one number, or one for each layer.

    The library makes a bottleneck of ⌊width / factor⌋.
    """
    # Half a unit more: a quotient that is a little too small would lose a whole one.
    factors = {
        layer: width / m if width % m == 0 else width / (m + 0.5) for layer, m in sizes.items()
    }
    first, *others = factors.values()
    return first if all(factor == first for factor in others) else factors


def renamed(name: str, adapter: str) -> str | None:
    """Returns the library's name of an adapter's tensor; None for any other tensor."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return f"{found[1]}.adapters.{adapter}.{_PARTS[found[4]]}.{found[5]}"


def save(run: Run, folder: Path, to: Path, base: str) -> dict[str, Any]:
    """Writes adapter, head and their configurations; returns that of the adapter.

    Raises UserError where the file of the run in `folder` holds no adapter.
    """
    import safetensors.torch  # late: mistakes are told without PyTorch

    held = safetensors.torch.load_file(folder / artefacts.WEIGHTS)
    shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
    kind = _model_type(shapes, run["model"].get("type"))
    if kind is None:
        raise UserError(f"{folder / artefacts.WEIGHTS} holds no adapters of one model")
    config = config_of(run, shapes, base)
    named = {name: renamed(name, adapter_name(run)) for name in sorted(held)}
    files = {
        "adapter.safetensors": {new: held[old] for old, new in named.items() if new},
        "model_head.safetensors": {old: held[old] for old, new in named.items() if not new},
    }
    for name, content in files.items():
        write_atomic(to / name, safetensors.torch.save(content, {"format": "pt"}))
    labels = TASKS[run["config"]["task"]].labels or ("score",)
    head = {
        **_full(kind, config["hidden_size"], base),
        "name": None,
        "config": None,
        "num_labels": len(labels),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    write_atomic(to / "adapter_config.json", to_json(config))
    write_atomic(to / "head_config.json", to_json(head))
    return config
