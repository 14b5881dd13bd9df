"""A run's method as its record describes it, for tools that must not import the method itself."""

from __future__ import annotations

from dataclasses import dataclass

from dora.records.schema import Run

NO_BUDGET = "none"  # the budget's folder, and its name in tables, of a method without one


@dataclass(frozen=True)
class AboutMethod:
    """One method as a record describes it.

    `budget`: how the budget binds the stored parameters: "exact", "at_most" or "none". `result`:
    what the run leaves: "adapter" for low-rank factors that PEFT reads, "weights" for trained
    tensors that are merged into the backbone, "modules" for modules added to it, "model" for a
    whole model, which is kept only with keep_model=true.
    """

    name: str
    title: str
    paper: str | None
    budget: str
    result: str
    note: str | None = None  # what a reader of the model card must not confuse the method with

    @property
    def has_budget(self) -> bool:
        """Tells whether `budget=` binds this method."""
        return self.budget != NO_BUDGET


def about_method(run: Run) -> AboutMethod:
    """Returns the description of a run's method."""
    name, said = run["config"]["method"]["name"], run["method"]
    kind = said["budget"], said["result"]
    return AboutMethod(name, said["title"], said["paper"], *kind, said.get("note"))


def trains_all(run: Run) -> bool:
    """Tells whether the run leaves a whole model, which stores no adapter."""
    return about_method(run).result == "model"


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
