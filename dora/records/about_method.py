"""A run's method as its record describes it, for tools that must not import the method itself."""

from __future__ import annotations

from dataclasses import dataclass

from dora.records.schema import Run

NO_BUDGET = "none"  # the budget's folder, and its name in tables, of a method without one

# For records made before a record described its method.
_OLD_NOTES = {
    "dora": "DoRA is dynamic rank distribution (Mao et al., ACL 2024, arXiv 2405.17357), not "
    "weight-decomposed DoRA: PEFT's use_dora is off."
}


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
    """Returns the description of a run's method.

    A record without `method` is of one of the suite's first four methods, and is described from its
    budget: full fine-tuning alone has none and leaves a whole model.
    """
    name = run["config"]["method"]["name"]
    if (said := run.get("method")) is not None:
        kind, note = (said["budget"], said["result"]), said.get("note")
        return AboutMethod(name, said["title"], said["paper"], *kind, note)
    if run["config"]["budget"] is None:
        return AboutMethod(name, "full fine-tuning", None, NO_BUDGET, "model")
    title = {"lora": "LoRA", "adalora": "AdaLoRA", "dora": "DoRA (dynamic rank)"}.get(name, name)
    return AboutMethod(name, title, None, "exact", "adapter", _OLD_NOTES.get(name))


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
    return int(params.get("adapter_last", best) if score == "last" else best)


def ranks_of(run: Run, score: str) -> dict[str, int]:
    """Returns the number of components of each matrix at the "best" or "last" evaluation."""
    ranks = run["ranks"]
    # Older records have no ranks of the last evaluation.
    found: dict[str, int] = ranks.get("last", ranks["end"]) if score == "last" else ranks["end"]
    return found
