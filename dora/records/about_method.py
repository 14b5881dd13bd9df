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
    tensors that are merged into the backbone, "model" for a whole model, which is kept only with
    keep_model=true.
    """

    name: str
    title: str
    paper: str | None
    budget: str
    result: str

    @property
    def has_budget(self) -> bool:
        """Tells whether `budget=` binds this method."""
        return self.budget != NO_BUDGET


def about_method(run: Run) -> AboutMethod:
    """Returns the description of a run's method.

    A record without `method` is of one of the suite's first four methods, and is described from its
    budget: full fine-tuning alone has none and leaves a whole model.
    """
    name = run["config"]["method"]["name"]
    if (said := run.get("method")) is not None:
        return AboutMethod(name, said["title"], said["paper"], said["budget"], said["result"])
    # The budget, not the name, tells full fine-tuning apart: it holds for a renamed method too.
    if run["config"]["budget"] is None:
        return AboutMethod(name, "full fine-tuning", None, NO_BUDGET, "model")
    title = {"lora": "LoRA", "adalora": "AdaLoRA", "dora": "DoRA (dynamic rank)"}.get(name, name)
    return AboutMethod(name, title, None, "exact", "adapter")
