"""The model card of an exported run: results, budget, ranks and how it was made.

Everything is from run.json and the adapter's configuration, which may be somebody else's: every
text of theirs is escaped before it enters the card, and none becomes code in the Python shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from dora.adapters.peft_config import hub_name
from dora.analysis.tables.layout import in_markdown, pipe_table
from dora.backbones.architectures import KINDS, layer_and_kind
from dora.configuration.config import PATHS
from dora.data.tasks import TASKS, Task
from dora.plain import counted, number_range, printable
from dora.records.about_data import is_glue
from dora.records.about_method import has_budget, trains_all
from dora.records.about_starts import commits
from dora.records.schema import Run
from dora.records.words import key_of
from dora.sharing.form import Form
from dora.sharing.front_matter import front_matter
from dora.sharing.usage import usage

# Keys whose values are places on the machine of training.
_PLACES = {*PATHS, "method.runs", "hydra.searchpath", "--config-dir", "hydra.run.dir"}
# A value, or one of a list, that begins as a path does.
_PATH = re.compile(r"""(^|[\[,])\s*['"]*(/|~|\.\.?/)""")

# The hub's name of the library that loads each kind of result; transformers loads whole models.
_LIBRARIES = {"adapter": "peft", "modules": "adapter-transformers"}


def model_card(run: Run, config: Mapping[str, Any] | None, form: Form) -> str:
    """Writes README.md.

    `config`: adapter_config.json as the run wrote it; None for a method that leaves no adapter.
    """
    # Escaped once, here, so that no part of the card can forget to.
    raw, run = run, _in_markdown(run)
    c, task, method = run["config"], TASKS[run["config"]["task"]], run["method"]
    # Records made before the hub's name was in them have it in the adapter's configuration alone.
    recorded = config["base_model_name_or_path"] if config and run["model"]["revision"] else None
    # None for a name that no hub can have: the card links to nothing else.
    hub = hub_name(run["model"].get("hub", recorded))
    data = f"GLUE {task.folder}"
    if not is_glue(run):
        what = "generated sentences" if c["data"] == "mini" else "other rows"
        data = f"{what} in the shape of GLUE's {task.folder}"
    library = "transformers" if form.merge else _LIBRARIES.get(method["result"], "transformers")
    parts = [
        front_matter(raw, task, hub, library, form.license),
        f"# {c['model']} on {data}: {method['title']}, {_spent(run)}",
        _contents(run, task, form),
        *(f"**{text[0].upper()}{text[1:]}.**" for text in (run["embedded"], run["note"]) if text),
        _results(run),
        _parameters(run, bool(config and config.get("use_dora"))),
        _ranks(run["ranks"]["end"], "Bottlenecks" if method["result"] == "modules" else "Ranks"),
        usage(run, task, hub, library, form),
        _made(run, raw["command"]),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _in_markdown(value: Any) -> Any:
    """Returns a record with each of its texts, keys included, as Markdown that only shows it."""
    if isinstance(value, dict):
        return {in_markdown(key): _in_markdown(v) for key, v in value.items()}
    if isinstance(value, list):
        return list(map(_in_markdown, value))
    return in_markdown(value) if isinstance(value, str) else value


def _spent(run: Run) -> str:
    """Returns the budget as the heading names it."""
    if has_budget(run):
        return f"budget {run['config']['budget']}"
    if trains_all(run):
        return "every weight trained"
    return f"{run['params']['trainable']:,} parameters trained"


def _contents(run: Run, task: Task, form: Form) -> str:
    """Says in a paragraph which weights the folder holds and how to read the outputs."""
    result, title, note = (run["method"].get(key) for key in ("result", "title", "note"))
    if result == "model":
        held = "The whole fine-tuned model"
    elif result == "weights":
        held = (
            f"The whole model, with the weights that {title} trained in the place of the "
            "base model's, the trained head included (there is no adapter: an export with and "
            "without --merge is the same)"
        )
    elif result == "modules":
        held = (
            "Adapters in the layout of the `adapters` library, the trained head included (they are "
            "not linear in their input, so that no weight of the base model can take them in)"
        )
    elif form.merge:
        held = "The whole model, the trained adapter added to its weights"
    else:
        held = "A LoRA adapter in PEFT's format, the trained head included"
        if not form.alone:
            held += ", and beside it the base model, as it was"
    labels = ", ".join(f"{i} = {label}" for i, label in enumerate(task.labels))
    says = f"Classes: {labels}." if labels else "One output, a score from 0 to 5."
    step = run["results"]["best"]["step"]
    about = f"{held}: the weights of the best evaluation, step {step}. {says}"
    return f"{about} {note}" if note else about


def _results(run: Run) -> str:
    """Shows best and last on the development set, as fractions, and degenerate ones by name."""
    best, last = run["results"]["best"], run["results"]["last"]
    metrics = [
        name
        for name, value in {**last, **best}.items()
        # A held-out score chose the evaluation; it is none of the development set.
        if isinstance(value, float) and not name.endswith("_heldout")
    ]
    rows = []
    for which, found in (("best", best), ("last", last)):
        # A metric that is undefined is absent from the record.
        values = (f"{found[m]:.4f}" if m in found else "–" for m in metrics)
        rows.append([which, str(found["step"]), *values])
    n = run["evaluations"]["counted"]
    chosen = "on this set"
    if run["config"]["select"] == "heldout":
        chosen = "on a held-out part of the training set"
    text = (
        f"`best`, exported here, is the best of {n} evaluation{'s' if n > 1 else ''} in the second "
        f"half of the run, chosen {chosen}; `last` is the final one. Fractions of 1; one run, one "
        "seed."
    )
    for which, found in (("best", best), ("last", last)):
        if found["degenerate"]:
            text += f"\n\nDegenerate ({which}): {found['degenerate']}."
    heading = f"## Results on the development set ({run['data']['rows']['dev']:,} rows)"
    return f"{heading}\n\n{pipe_table([['', 'step', *metrics], *rows])}\n\n{text}"


def _parameters(run: Run, norms: bool) -> str:
    """Shows the counts: trained, in the head, and under the budget if there is one."""
    p, result = run["params"], run["method"]["result"]
    # All that were trained at some time: `trainable` counts the first step's.
    in_all = p.get("trained_in_all")
    trained = p["trainable"] if in_all is None else p["head"] + p["gates"] + in_all
    lines = [
        ["", "parameters"],
        ["trained", f"{trained:,}"],
        ["of these the head, in no budget", f"{p['head']:,}"],
    ]
    text = ""
    if p["budget"] is not None:
        noun = {"adapter": "adapter", "modules": "adapters"}.get(result, "in the budget")
        lines += [
            [f"{noun} at the start", f"{p['adapter_start']:,}"],
            [f"{noun} as stored", f"{p['adapter_end']:,}"],
        ]
        text = f"\n\nBudget: {p['budget']}."
        # The file holds A and B of each matrix. Where that is another number, a component costs
        # something else, or zeros around blocks or start values come with it.
        in_file = p.get("in_peft_file")
        if in_file is not None and in_file != p["adapter_end"]:
            lines.append(["adapter in PEFT's format", f"{in_file:,}"])
        elif result == "adapter":
            text += _cost(run["ranks"])
            text += "; its gate is folded in." if p["gates"] else "."
            text += " Each matrix stores d_out norms of its rows, too." if norms else ""
        if result == "modules":
            text += " An adapter of bottleneck m in a model of width d stores 2dm + m + d."
    return f"## Parameters\n\n{pipe_table(lines)}{text}"


def _cost(ranks: Mapping[str, Mapping[str, int]]) -> str:
    """Says what a component stores: PEFT's file may hold several for it, such as start values."""
    end = ranks["end"]
    in_file = ranks.get("in_peft_file", end)
    times = {in_file.get(name, rank) / rank for name, rank in end.items() if rank}
    if times <= {1}:
        return " A component stores d_in + d_out parameters"
    if len(times) == 1 and (only := times.pop()).is_integer():
        return (
            f" A component stores {only:.0f} (d_in + d_out) parameters: PEFT's file holds "
            f"{only:.0f} components in its place"
        )
    return (
        f" In the place of the {sum(end.values()):,} components PEFT's file holds "
        f"{sum(in_file.values()):,}, of d_in + d_out parameters each"
    )


def _ranks(ranks: Mapping[str, int], heading: str) -> str:
    """Shows the components of each matrix: a row for a layer, a column for a kind of matrix.

    Returns an empty text for a run without components. An adapter stands under the kind of the
    dense layer before it.
    """
    cells = {layer_and_kind(name): rank for name, rank in ranks.items()}
    if not cells:
        return ""
    kinds = [kind for kind in KINDS if any(kind == k for _, k in cells)]
    # A dash: this kind of matrix was not adapted, which `target` may say.
    rows = [
        [str(i), *(str(cells.get((i, k), "–")) for k in kinds)]
        for i in sorted({i for i, _ in cells})
    ]
    return f"## {heading}\n\n{pipe_table([['layer', *kinds], *rows])}"


def _made(run: Run, command: str) -> str:
    """Lists how the run was made; `command` is the typed one, not yet escaped."""
    c, marks, method = run["config"], run["fingerprints"], run["method"]
    # A client's last batch of an epoch is smaller.
    most = "at most " if "federation" in run else ""
    revision = f", revision {run['data']['revision']}" if run["data"]["revision"] else ""
    facts = []
    if method["paper"]:
        facts.append(f"method: {method['title']}, {method['paper']}")
    if code := marks.get("method"):
        facts.append(
            "the method's code is not in this suite: the command needs its author's files, of "
            f"fingerprint `{code}`"
        )
    taken, planned = run["results"]["last"]["step"], run["total_steps"]
    early = f" (of {planned:,}: patience ended the run)" if taken < planned else ""
    facts.append(
        f"{taken:,} steps{early} of {most}{c['batch_size']}, learning rate {c['lr']:g}, "
        f"seed {c['seed']}, {c['precision']}, {run['train_s']:.0f} s on {run['device']}"
    )
    if "federation" in run:
        facts.append(f"federated: {_rounds(run)}")
    facts += [
        f"data: {c['data']}{revision}, {run['data']['train']:,} training rows, "
        f"fingerprint `{marks['data']}`",
        f"base model: {c['model']}, fingerprint of configuration, tokenizer and weights "
        f"`{marks['model']}`",
    ]
    if marks["init_from"]:
        facts.append(f"started from another run's weights, sha256 `{marks['init_from']}`")
    facts += [
        f"commit: {commits(run)}",
        "versions: " + ", ".join(f"{k} {v}" for k, v in run["versions"].items() if v),
    ]
    # Four spaces make a code block, in which Markdown escapes would show: control characters alone.
    shown = "\n".join(f"    {printable(line)}" for line in _without_paths(command).splitlines())
    return "\n".join(["## How it was made", "", shown, "", *(f"- {fact}" for fact in facts)])


def _rounds(run: Run) -> str:
    """Returns a federated run's rounds, and how its clients got their rows."""
    f, fed = run["federation"], run["config"]["fed"]
    parts = (
        f"Dirichlet({fed['alpha']})" if fed["partition"] == "dirichlet" else "equal random parts"
    )
    return (
        f"{counted(f['rounds'], 'round')} of {f['selected']} of "
        f"{counted(len(f['clients']), 'client')}, {parts}, "
        f"{counted(f['local_steps'], 'step')} each, {f['sequential_steps']:,} in a row, "
        f"{number_range([client['rows'] for client in f['clients']])} rows"
    )


def _without_paths(command: str) -> str:
    """Returns a command with FOLDER for every value that names one, and scripts by name alone."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is never closed: somebody has edited the record
        words = command.split()
    # Shown as typed, quotes and all, if nothing has to be hidden.
    if not any("/" in word or "~" in word or key_of(word) in _PLACES for word in words):
        return command
    return " ".join(map(_without_path, words))


def _without_path(word: str) -> str:
    """Returns one word of a command without the machine's folders."""
    key, equals, value = word.partition("=")
    if equals and (key_of(word) in _PLACES or _PATH.search(value)):
        return f"{key}=FOLDER"
    return PurePath(word).name if word.startswith(("/", "~")) else shlex.quote(word)
