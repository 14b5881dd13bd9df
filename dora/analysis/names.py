"""The names that papers print: of methods, models, tasks, data, and numbers of parameters.

The words that commands take (`lora`, `roberta_base`, `331776`) stay in CSV files, which other
programs read.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from dora.adapters import budget
from dora.data.tasks import TASKS
from dora.methods.released import RELEASED

# Models of this suite whose name is not their title.
_MODELS = {
    "roberta_base": "RoBERTa-base",
    "roberta_large": "RoBERTa-large",
    "bert_base": "BERT-base",
    "deberta_v3_xsmall": "DeBERTaV3-xsmall",
    "deberta_v3_small": "DeBERTaV3-small",
    "deberta_v3_base": "DeBERTaV3-base",
    "deberta_v3_large": "DeBERTaV3-large",
    "electra_base": "ELECTRA-base",
    "modernbert_base": "ModernBERT-base",
    "mpnet_base": "MPNet-base",
    "minilm": "MiniLM",
}

# The suite's methods, and others of published rows. A run's record has its method's own title, which
# `Table.title` prefers.
_METHODS = RELEASED | {
    "adapter_drop": "AdapterDrop",
    "aflora": "AFLoRA",
    "loraplus": "LoRA+",
    "pissa": "PiSSA",
    "rslora": "rsLoRA",
}

# Sources of data, by the names that commands take.
_DATA = {
    "hub": "GLUE (Hugging Face hub)",
    "dir": "GLUE (official files)",
    "mini": "generated sentences (mini)",
}


def method_title(name: str) -> str:
    """Returns a method's title, or its name where none is known."""
    return _METHODS.get(name, name)


def model_title(name: str) -> str:
    """Returns a model's title, or its name where none is known."""
    return _MODELS.get(name, name)


def task_titles(tasks: Container[str]) -> str:
    """Returns tasks as tables name them, in GLUE's order."""
    return ", ".join(TASKS[task].folder for task in TASKS if task in tasks)


def data_title(name: str, is_glue: bool) -> str:
    """Returns a data source's title, as captions have it, or its name where no title is known.

    `is_glue`: whether the rows are GLUE's own by their number; files in its format may hold others.
    """
    if name in ("dir", "hub") and not is_glue:
        return f"rows in GLUE's format ({name})"
    return _DATA.get(name, f"data {name}")


def size(parameters: int) -> str:
    """Returns a number of parameters in three digits: 770, 13.8k, 0.332M, 1.33M."""
    return budget.in_words(str(parameters))


def size_range(parameters: Sequence[int]) -> str:
    """Returns `0.332M`, or `0.294M to 0.332M` where the numbers differ in three digits."""
    low, high = size(min(parameters)), size(max(parameters))
    return low if low == high else f"{low} to {high}"
