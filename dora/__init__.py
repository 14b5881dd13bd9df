"""A GLUE benchmark suite for methods such as LoRA, AdaLoRA and DoRA at equal parameter budgets.

DoRA here is *dynamic rank distribution* (Mao et al., ACL 2024, arXiv 2405.17357), not the
weight-decomposed DoRA of Liu et al. (arXiv 2402.09353) that PEFT calls `use_dora`, which is the
method `weight_decomposed` here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dora.package import ASSETS as ASSETS
from dora.package import __version__ as __version__

if TYPE_CHECKING:
    from dora.attaching.adapter import Adapter as Adapter
    from dora.attaching.attach import attach as attach
    from dora.attaching.trainer import TrainerCallback as TrainerCallback
    from dora.python.load import load as load
    from dora.python.train import Trained as Trained
    from dora.python.train import train as train

# The names for Python, and where they stand. Loaded at their first use: PyTorch takes seconds.
_PLACES = {
    "Adapter": "dora.attaching.adapter",
    "TrainerCallback": "dora.attaching.trainer",
    "Trained": "dora.python.train",
    "attach": "dora.attaching.attach",
    "load": "dora.python.load",
    "train": "dora.python.train",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dora' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
