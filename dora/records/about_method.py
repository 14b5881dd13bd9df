"""A run's method as its record describes it, for tools that must not import the method itself."""

from __future__ import annotations

from dora.records.schema import Run

NO_BUDGET = "none"  # the budget's folder, and its name in tables, of a method without one


def has_budget(run: Run) -> bool:
    """Tells whether `budget=` binds the run's method."""
    return bool(run["method"]["budget"] != NO_BUDGET)


def trains_all(run: Run) -> bool:
    """Tells whether the run leaves a whole model, which stores no adapter."""
    return bool(run["method"]["result"] == "model")


def adapter_parameters(run: Run, score: str) -> int:
    """Returns the number of parameters that the budget counts, without the head; all, if all train.

    `score`: the evaluation whose weights are counted, "best" or "last": a method that grows, or
    prunes to the end, has another number at each. A method may store more: NoRA's frozen outer
    factors are not counted.
    """
    params = run["params"]
    if trains_all(run):
        return int(params["trainable"] - params["head"])
    best = params["adapter_end"]
    # A method without a budget has no count of its last weights.
    return int(params.get("adapter_last", best) if score == "last" else best)


def ranks_of(run: Run, score: str) -> dict[str, int]:
    """Returns the number of components of each matrix at the "best" or "last" evaluation."""
    found: dict[str, int] = run["ranks"]["last" if score == "last" else "end"]
    return found
