"""Re-exports what authors of methods import; docs/adding-a-method.md explains it.

These names stay when the modules behind them are moved: a method outside this package imports from
here alone. The module defines nothing itself.
"""

from dora.adapters.allocation import allocate
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Mask, Remove, Renew
from dora.adapters.lowrank import LowRankLinear, adapt
from dora.adapters.plan import Plan, equal_plan, equal_ranks, pruning_plan, start_ranks
from dora.adapters.residual import ResidualLinear
from dora.backbones import packing
from dora.backbones.architectures import layer_and_kind
from dora.errors import UserError
from dora.methods.base import FirstRows, Method, ParameterGroup, RunInfo, Settings
from dora.methods.rules import fraction_or_steps, in_range, interval, one_of

__all__ = [
    "Budget",
    "FirstRows",
    "LowRankLinear",
    "Mask",
    "Matrix",
    "Method",
    "ParameterGroup",
    "Plan",
    "Remove",
    "Renew",
    "ResidualLinear",
    "RunInfo",
    "Settings",
    "UserError",
    "adapt",
    "allocate",
    "equal_plan",
    "equal_ranks",
    "fraction_or_steps",
    "in_range",
    "interval",
    "layer_and_kind",
    "one_of",
    "packing",
    "pruning_plan",
    "start_ranks",
]
