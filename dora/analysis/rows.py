"""Rows of a table, each a method and a budget: their names, and the order in which they stand.

`dora.status` uses this module too, so it needs neither NumPy nor anything larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dora.adapters import budget
from dora.records.about_method import NO_BUDGET
from dora.records.place import Row

# Every method is compared with this one unless a view names another. A choice of comparison: the
# papers compare with LoRA. Nothing else in the analysis depends on this method's properties.
BASELINE = "lora"


def has_budget(row: Row) -> bool:
    """Returns whether a budget binds the row's method.

    The budget's folder says so, not the method's name: full fine-tuning is not the only method
    without a budget.
    """
    return row.budget != NO_BUDGET


def budget_in_words(text: str) -> str:
    """Returns a row's budget as tables print it: `0.3M`, `13,824`, `r8`, a dash for none."""
    return "–" if text == NO_BUDGET else budget.in_words(text)


def budget_starts(rows: Sequence[Row]) -> set[int]:
    """Returns the indices of rows at which another budget begins; tables have a rule above them."""
    return {i for i, (before, row) in enumerate(pairwise(rows), 1) if before.budget != row.budget}


def budget_order(text: str) -> tuple[int, int, str]:
    """Returns a key that sorts budgets by kind and then by size.

    First no budget, then average ranks, then numbers of parameters, each from the smallest.
    """
    if text == NO_BUDGET:
        return 0, 0, ""
    try:
        parsed = budget.Budget.parse(text)
    except ValueError:
        # A folder that no run named: status shows it as it is, after all others.
        return 3, 0, text
    return (1, parsed.rank, "") if parsed.rank is not None else (2, parsed.params or 0, "")


def length_order(text: str) -> tuple[int, str]:
    """Returns a key that sorts runs' lengths by number: `600 steps` before `1800 steps`."""
    number, _, unit = text.partition(" ")
    return (int(number) if number.isdigit() else 0), unit


def row_order(row: Row) -> tuple[tuple[int, int, str], bool, str]:
    """Returns a key that sorts rows by budget, `BASELINE` first in each, then by method."""
    method, spent = row
    return budget_order(spent), method != BASELINE, method
