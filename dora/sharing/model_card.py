"""The model card of an exported run: results, budget, ranks and how it was made, from run.json alone."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from dora.adapters.peft_config import hub_name, hub_revision
from dora.analysis.layout import in_markdown
from dora.backbones.architectures import KINDS, place
from dora.data.tasks import TASKS, Task
from dora.plain import printable
from dora.records.provenance import commits
from dora.records.schema import Run

# The hub's names of metrics, where they are not GLUE's.
_HUB_METRICS = {"pearson": "pearsonr"}
# Keys whose values are places on the machine of training.
_PLACES = (
    "model.path=",
    "data.dir=",
    "results=",
    "init_from=",
    "hydra.searchpath=",
    "--config-dir=",
    "hydra.run.dir=",
)


def model_card(run: Run, config: Mapping[str, Any] | None, merged: bool = False) -> str:
    """README.md. `config`: adapter_config.json as exported, None for full fine-tuning."""
    command, run = run["command"], _in_markdown(run)
    c, task = run["config"], TASKS[run["config"]["task"]]
    # Records made before the hub's name was in them have it in the adapter's configuration alone.
    recorded = config["base_model_name_or_path"] if config and run["model"]["revision"] else None
    hub = hub_name(run["model"].get("hub", recorded))
    data = (
        f"generated sentences in the shape of GLUE's {task.folder}"
        if c["data"] == "mini"
        else f"GLUE {task.folder}"
    )
    adapter = config is not None and not merged
    spent = "every weight trained" if config is None else f"budget {c['budget']}"
    parts = [
        _front_matter(run, task, hub, adapter),
        f"# {c['model']} on {data}: {_method(run)}, {spent}",
        _what(run, task, adapter, merged),
        *(f"**{text[0].upper()}{text[1:]}.**" for text in (run["embedded"], run["note"]) if text),
        _results(run),
        _parameters(run),
        _ranks(run["ranks"]["end"]),
        _usage(run, task, hub, adapter),
        _made(run, command),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _in_markdown(value: Any) -> Any:
    """A record with each of its texts as Markdown shows it: it may be somebody else's."""
    if isinstance(value, dict):
        return {in_markdown(key): _in_markdown(v) for key, v in value.items()}
    if isinstance(value, list):
        return list(map(_in_markdown, value))
    return in_markdown(value) if isinstance(value, str) else value


def _method(run: Run) -> str:
    name: str = run["config"]["method"]["name"]
    names = {
        "lora": "LoRA",
        "adalora": "AdaLoRA",
        "dora": "DoRA (dynamic rank)",
        "full": "full fine-tuning",
    }
    return names.get(name, name)


def _front_matter(run: Run, task: Task, hub: str | None, adapter: bool) -> str:
    """YAML for the hub. Strings from the run are written as JSON, which YAML reads."""
    real = run["config"]["data"] != "mini"
    lines = [
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-classification",
    ]
    if hub is not None:  # a local folder's name would link to a stranger's model
        lines += [
            f"base_model: {json.dumps(hub)}",
            f"base_model_relation: {'adapter' if adapter else 'finetune'}",
        ]
    lines += ["tags:", f"- {_yaml(run['config']['method']['name'])}"]
    lines += [f"- {task.name}", "- glue", "datasets:", "- nyu-mll/glue"] if real else []
    lines += ["metrics:", *(f"- {_HUB_METRICS.get(name, name)}" for name in task.metrics)]
    return "\n".join(["---", *lines, "---"])


def _yaml(text: str) -> str:
    """A text as YAML reads it: bare where that is one word, else as JSON."""
    return text if re.fullmatch("[a-z][a-z0-9_]*", text) else json.dumps(text)


def _what(run: Run, task: Task, adapter: bool, merged: bool) -> str:
    form = (
        "A LoRA adapter in PEFT's format, the trained head included"
        if adapter
        else (
            "The whole model, the trained adapter added to its weights"
            if merged
            else "The whole fine-tuned model"
        )
    )
    labels = ", ".join(f"{i} = {label}" for i, label in enumerate(task.labels))
    says = f"Classes: {labels}." if labels else "One output, a score from 0 to 5."
    dora = run["config"]["method"]["name"] == "dora"
    which = (
        " DoRA is dynamic rank distribution (Mao et al., ACL 2024, arXiv 2405.17357), not weight-decomposed DoRA: "
        "PEFT's `use_dora` is off."
    )
    return f"{form}: the weights of the best evaluation, step {run['results']['best']['step']}. {says}{which if dora else ''}"


def _results(run: Run) -> str:
    """Best and last on the development set, as fractions."""
    best, last = run["results"]["best"], run["results"]["last"]
    metrics = [name for name, value in {**last, **best}.items() if isinstance(value, float)]
    rows = [
        [which, str(found["step"]), *(f"{found[m]:.4f}" if m in found else "–" for m in metrics)]
        for which, found in (("best", best), ("last", last))
    ]
    n = run["evaluations"]["counted"]
    chosen = (
        "on a held-out part of the training set"
        if run["config"]["select"] == "heldout"
        else "on this set"
    )
    text = (
        f"`best`, exported here, is the best of {n} evaluation{'s' if n > 1 else ''} in the second half of the run, chosen {chosen}; "
        "`last` is the final one. Fractions of 1; one run, one seed."
    )
    why = "".join(
        f"\n\nDegenerate ({which}): {found['degenerate']}."
        for which, found in (("best", best), ("last", last))
        if found["degenerate"]
    )
    heading = f"## Results on the development set ({run['data']['rows']['dev']:,} rows)"
    return f"{heading}\n\n{_table([['', 'step', *metrics], *rows])}\n\n{text}{why}"


def _parameters(run: Run) -> str:
    p = run["params"]
    lines = [
        ["", "parameters"],
        ["trained", f"{p['trainable']:,}"],
        ["of these the head, in no budget", f"{p['head']:,}"],
    ]
    if p["budget"] is not None:
        lines += [
            ["adapter at the start", f"{p['adapter_start']:,}"],
            ["adapter as stored", f"{p['adapter_end']:,}"],
        ]
    budget = (
        ""
        if p["budget"] is None
        else (
            f"\n\nBudget: {p['budget']}. A component stores d_in + d_out parameters; its gate is folded in."
        )
    )
    return f"## Parameters\n\n{_table(lines)}{budget}"


def _ranks(ranks: Mapping[str, int]) -> str:
    """Components of each matrix, a row a layer and a column a kind of matrix; empty for full fine-tuning."""
    cells = {place(name): rank for name, rank in ranks.items()}
    if not cells:
        return ""
    kinds = [kind for kind in KINDS if any(kind == k for _, k in cells)]
    rows = [
        [str(i), *(str(cells.get((i, k), "–")) for k in kinds)]
        for i in sorted({i for i, _ in cells})
    ]
    return f"## Ranks\n\n{_table([['layer', *kinds], *rows])}"


def _usage(run: Run, task: Task, hub: str | None, adapter: bool) -> str:
    """Python that loads what was exported, from inside its folder, and for an adapter where its base model is."""
    pair = '"One sentence.", "Another."' if len(task.text) == 2 else '"One sentence."'
    length = repr(run["config"]["max_length"])  # whatever it is, it is no code
    lines = (
        _load_adapter(run, task, hub)
        if adapter
        else [
            "import torch",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained(".")  # this folder',
            'model = AutoModelForSequenceClassification.from_pretrained(".", dtype=torch.float32).eval()',
        ]
    )
    lines += [
        f'batch = tokenizer({pair}, truncation=True, max_length={length}, return_tensors="pt")',
        "with torch.no_grad():",
        "    logits = model(**batch).logits",
    ]
    where = [_base(run), ""] if adapter and hub is None else []
    return "\n".join(["## Use", "", *where, "```python", *lines, "```"])


def _base(run: Run) -> str:
    """What the base model is where no hub has it. A path on the machine of training would help nobody."""
    return (
        f"The base model is `{run['config']['model']}`, a local folder whose configuration, tokenizer and weights have "
        f"the fingerprint `{run['fingerprints']['model']}`. adapter_config.json names where it lay in training; "
        'elsewhere, set `base = "FOLDER"` to your copy of it.'
    )


def _load_adapter(run: Run, task: Task, hub: str | None) -> list[str]:
    """Python that loads the base model and puts the adapter on it. The base's own head, if any, gives way to ours."""
    named = hub_revision(run["model"]["revision"])
    revision = f", revision={named!r}" if named else ""
    own = 'PeftConfig.from_pretrained(".").base_model_name_or_path'
    return [
        "import torch",
        f"from peft import {'PeftModel' if hub else 'PeftConfig, PeftModel'}",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        f"base = {repr(hub) if hub else own}",
        f"tokenizer = AutoTokenizer.from_pretrained(base{revision})",
        "model = AutoModelForSequenceClassification.from_pretrained(",
        f"    base{revision}, num_labels={task.outputs}, dtype=torch.float32, ignore_mismatched_sizes=True",
        ")",
        'model = PeftModel.from_pretrained(model, ".").eval()  # this folder, its head included',
    ]


def _made(run: Run, typed: str) -> str:
    c, marks = run["config"], run["fingerprints"]
    revision = f", revision {run['data']['revision']}" if run["data"]["revision"] else ""
    facts = [
        f"{run['total_steps']:,} steps of {c['batch_size']}, learning rate {c['lr']:g}, seed {c['seed']}, "
        f"{c['precision']}, {run['train_s']:.0f} s on {run['device']}",
        f"data: {c['data']}{revision}, {run['data']['train']:,} training rows, fingerprint `{marks['data']}`",
        f"base model: {c['model']}, fingerprint of configuration, tokenizer and weights `{marks['model']}`",
        *(
            [f"started from another run's weights, sha256 `{marks['init_from']}`"]
            if marks["init_from"]
            else []
        ),
        f"commit: {commits(run)}",
        "versions: " + ", ".join(f"{k} {v}" for k, v in run["versions"].items() if v),
    ]
    command = "\n".join(f"    {printable(line)}" for line in _without_paths(typed).splitlines())
    return "\n".join(["## How it was made", "", command, "", *(f"- {fact}" for fact in facts)])


def _without_paths(command: str) -> str:
    """A command with FOLDER for the value of every key that names one, and scripts by their names alone."""
    try:
        words = shlex.split(command)
    except ValueError:  # a command that somebody has edited
        words = command.split()
    if not any("/" in word or "~" in word or word.startswith(_PLACES) for word in words):
        return command
    return " ".join(map(_without_path, words))


def _without_path(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and (word.startswith(_PLACES) or value.strip("'\"").startswith(("/", "~", "."))):
        return f"{key}=FOLDER"
    return PurePath(word).name if word.startswith(("/", "~")) else shlex.quote(word)


def _table(lines: Sequence[Sequence[str]]) -> str:
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(lines[0]), *text[1:]])
