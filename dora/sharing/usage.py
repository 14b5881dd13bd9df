"""The section of a model card that shows how to load and use what was exported.

The Python in it is this suite's alone: a record's text enters it only as a repository or revision
that the hub could have, or as `repr` writes it.
"""

from __future__ import annotations

from dora.adapters.peft_config import hub_name, hub_revision
from dora.data.tasks import Task
from dora.records.schema import Run
from dora.sharing.form import Form

# {here} and {text} are filled in for each export.
_BY_PIPELINE = [
    "",
    "{here}",
    'classify = pipeline("text-classification", model=here, truncation=True)  # as long as in training',
    "print(classify({text}))  # labels by name",
    "",
    "tokenizer = AutoTokenizer.from_pretrained(here)",
]
# float32, since Transformers would take the file's dtype. The logits that a run in bf16 stored have 8
# bits of mantissa, and these agree with them up to that rounding.
_WHOLE = [
    "import torch",
    "from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline",
    *_BY_PIPELINE,
    "model = AutoModelForSequenceClassification.from_pretrained(here, dtype=torch.float32).eval()",
]
# PEFT, which the pipeline needs as well, knows the dtype from the folder's config.json.
_COMPLETE = [
    "import torch",
    "from peft import AutoPeftModelForSequenceClassification",
    "from transformers import AutoTokenizer, pipeline",
    *_BY_PIPELINE,
    "model = AutoPeftModelForSequenceClassification.from_pretrained(here).eval()",
]
_MOVED = (
    "The pipeline, and Transformers' `AutoModelForSequenceClassification`, find the base model "
    "beside the adapter wherever this folder lies. PEFT's classes go by `base_model_name_or_path` "
    "in adapter_config.json: if the folder has moved, write its new place there."
)


def usage(run: Run, task: Task, hub: str | None, library: str, form: Form) -> str:
    """Shows Python that loads the export from inside its folder, or from its repository.

    `hub`: the base model's repository. `library`: the hub's name of the library that loads the
    export. A paragraph before the Python says what it cannot.
    """
    pair = len(task.text) == 2
    given = '"One sentence.", "Another."' if pair else '"One sentence."'
    text = '{"text": "One sentence.", "text_pair": "Another."}' if pair else given
    repository = hub_name(form.repository)
    here = f'here = "{repository}"' if repository else 'here = "."  # this folder'
    before = also = ""
    if library == "transformers":
        lines = _WHOLE
    elif library == "peft" and not form.alone:
        lines, before = _COMPLETE, "" if repository else _MOVED
    else:
        lines, before = _adapter(run, task, hub, library), "" if hub else _base(run)
        # The base's own tokenizer may give none by itself; an exported one does.
        also = ", return_token_type_ids=True" if pair and run["model"].get("segments") else ""
    lines = [line.replace("{here}", here).replace("{text}", text) for line in lines]
    # repr: whatever the record holds, it is no code.
    length = repr(run["config"]["max_length"])
    lines += [
        f"batch = tokenizer({given}, truncation=True, max_length={length}{also}, "
        'return_tensors="pt")',
        "with torch.no_grad():",
        "    logits = model(**batch).logits",
    ]
    code = "\n".join(["```python", *lines, "```"])
    return "\n\n".join(part for part in ("## Use", before, code) if part)


def _base(run: Run) -> str:
    """Says by name and fingerprint which local folder the base model is.

    Its path is left out: a place on the machine of training helps nobody.
    """
    return (
        f"The base model is `{run['config']['model']}`, a local folder whose configuration, "
        f"tokenizer and weights have the fingerprint `{run['fingerprints']['model']}`. "
        "adapter_config.json names where it lay in training; "
        'elsewhere, set `base = "FOLDER"` to your copy of it.'
    )


def _adapter(run: Run, task: Task, hub: str | None, library: str) -> list[str]:
    """Returns Python that loads the base model and puts the adapter and the head on it."""
    named = hub_revision(run["model"]["revision"])
    revision = f", revision={named!r}" if named else ""
    if library == "peft":
        own = 'PeftConfig.from_pretrained(".").base_model_name_or_path'
        imports = [
            "import torch",
            f"from peft import {'PeftModel' if hub else 'PeftConfig, PeftModel'}",
        ]
        add = [
            'model = PeftModel.from_pretrained(model, ".").eval()  # this folder, its head included'
        ]
    else:
        own = 'json.load(open("adapter_config.json"))["model_name"]'
        imports = [*([] if hub else ["import json", ""]), "import adapters", "import torch"]
        add = [
            "adapters.init(model)  # adapters 1.2, which needs Transformers 4",
            'model.load_adapter(".", set_active=True, use_safetensors=True)  # this folder',
            'model.load_head(".", use_safetensors=True)',
            "model.eval()",
        ]
    # ignore_mismatched_sizes: a head of the base's own, of any width, gives way to ours.
    return [
        *imports,
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        f"base = {repr(hub) if hub else own}",
        f"tokenizer = AutoTokenizer.from_pretrained(base{revision})",
        "model = AutoModelForSequenceClassification.from_pretrained(",
        f"    base{revision}, num_labels={task.outputs}, dtype=torch.float32, "
        "ignore_mismatched_sizes=True",
        ")",
        *add,
    ]
