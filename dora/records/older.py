"""Makes records of earlier versions new, so that no reader has to know of their forms.

To be deleted, with its call in `run_json`, when no record of arithmetic 1, 2 or 3 is left in
results/.
"""

from __future__ import annotations

from typing import Any

from dora.records.schema import Run

# Today's `batching` by the values of `group_by_length`.
_BATCHING = {"true": "length", "false": "random"}
_TITLES = {"lora": "LoRA", "adalora": "AdaLoRA", "dora": "DoRA (dynamic rank)"}
_NOTES = {
    "dora": "DoRA is dynamic rank distribution (Mao et al., ACL 2024, arXiv 2405.17357), not "
    "weight-decomposed DoRA: PEFT's use_dora is off."
}


def upgraded(run: Run) -> Run:
    """Fills in keys of today that follow from the others of a believed record; returns the record.

    Earlier versions wrote:
    - `group_by_length`, true or false, in `config` and `words`: now `batching`;
    - no `starts`: the only known start is described at the top level;
    - no `method`: of the suite's first four, lora, adalora, dora and full;
    - no `ranks.last`: these four end with the ranks of their best weights;
    - no `arithmetic`: the first, before there were numbers.

    What cannot be known stays absent: checksums, counts of parameters, the model's source. Settings
    that a method got later do too, since a configuration's identity is of those that it had
    (`identity.LATER`).
    """
    if run.get("words"):
        run["words"] = list(map(_word, run["words"]))
    config = run.get("config", {})
    if isinstance(by_length := config.get("group_by_length"), bool):
        del config["group_by_length"]
        config["batching"] = "length" if by_length else "random"
    if run["status"] == "done":
        run.setdefault("arithmetic", 1)
        run.setdefault("method", _method(config))
        run["ranks"].setdefault("last", run["ranks"]["end"])
        if not run.get("starts"):
            begun = run["times"].get("started", run["times"]["updated"])
            keys = ("host", "device", "processor", "world_size", "git")
            known = {key: run[key] for key in keys if key in run}
            run["starts"] = [{"step": 0, "time": begun, "world_size": 1, **known}]
    return run


def _word(word: str) -> str:
    key, _, value = word.partition("=")
    old = key == "group_by_length" and value.lower() in _BATCHING
    return f"batching={_BATCHING[value.lower()]}" if old else word


def _method(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the description of a method: full fine-tuning alone has no budget."""
    if config["budget"] is None:
        return {"title": "full fine-tuning", "paper": None, "budget": "none", "result": "model"}
    name = config["method"]["name"]
    title, note = _TITLES.get(name, name), _NOTES.get(name)
    return {"title": title, "paper": None, "note": note, "budget": "exact", "result": "adapter"}
