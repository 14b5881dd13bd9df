"""Texts of somebody else's record stay texts in a card: in its YAML, Markdown and Python."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dora.records import packed
from dora.records.run_json import read
from dora.sharing.form import Form
from dora.sharing.model_card import model_card
from record_files import federation_entry

STUDY = Path(__file__).parents[2] / "results" / "study_minilm"
RECORD = next(
    folder
    for folder in packed.directories(STUDY)
    if folder.parts[-6:-3] == ("sst2", "minilm", "adalora") and folder.name == "s1"
)
# Texts that decide what the card says; each is checked against a list when the record is read.
LOGIC = {
    ("config", "task"),
    ("config", "data"),
    ("config", "method", "name"),
    ("config", "select"),
    ("method", "budget"),
    ("method", "result"),
}
# What might begin a tag, a link, a cell, code, a block of YAML, a heading or a statement.
EVIL = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "a|b|c",
    "`rm -rf x`",
    "```\nrm -rf x\n```",
    "x\n---\nbase_model: evil/model\n",
    "x\n\n# Heading",
    "a\x1b[2Jb",
    "a\u202eb",
    "'); import os; os.system('x') #",
    "\\",
    "[x]: javascript:alert(1)",
    "<!-- ",
    "</details>",
    '"""',
    "{{x}}",
    "*/x",
)


TAGS = ("<script", "<a ", "<img", "<!--", "<details", "</details")
TAGS += ("<h1", "<h2", "<td", "<pre", "<tr", "<li")


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every text in a record."""
    if isinstance(value, str):
        yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, inside in items:
        yield from texts(inside, (*path, key))


def spoiled(text: str, result: str | None = None) -> dict[str, Any]:
    """Puts `text` in the place of every text of a record that decides nothing, and of nulls.

    `result`: of the method, which the record then describes; None for the record's own.
    """
    run = read(RECORD)
    run |= {
        "embedded": "x",
        "note": "x",
        "model": {"hub": "x", "revision": "x", "random_weights": False},
    }
    if result is not None:
        about = {"title": "x", "paper": "x", "note": "x", "budget": "exact", "result": result}
        run["method"] = about
    # Nulls, and a number: a card must not rely on the checks of whoever read the record.
    run["data"]["revision"] = run["fingerprints"]["init_from"] = "x"
    run["results"]["best"]["degenerate"] = "x"
    run["config"]["max_length"] = "x"
    for path in list(texts(run)):
        if path not in LOGIC:
            place = run
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = text
    return copy.deepcopy(run)


CONFIG = {"base_model_name_or_path": "evil/model"}


def front(card: str) -> dict[str, Any]:
    """Returns the card's front matter as the hub reads it."""
    known: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return known


@pytest.mark.parametrize("form", [Form(), Form(merge=True), Form(alone=True)])
@pytest.mark.parametrize("result", [None, "adapter", "weights", "modules", "model"])
def test_a_records_texts_stay_texts(result: str | None, form: Form) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    config = CONFIG if result in (None, "adapter") else None
    honest = model_card(spoiled("x", result), config, form)
    good, plain = front(honest), markdown.render(honest.split("---\n", 2)[2])
    assert good["model-index"][0].pop("name") == "x adalora x sst2"
    for text in EVIL:
        card = model_card(spoiled(text, result), config, form)
        assert all(line.isprintable() for line in card.split("\n")), text
        known = front(card)
        assert known["model-index"][0].pop("name") == "adalora sst2", text
        # Without the base model: no hub has a repository of such a name.
        assert known == {k: v for k, v in good.items() if not k.startswith("base_model")}, text
        # As many tags of each kind as in the honest card: none is added, and none is hidden.
        html = markdown.render(card.split("---\n", 2)[2])
        for tag in TAGS:
            assert html.count(tag) == plain.count(tag), (text, tag)


@pytest.mark.parametrize("text", EVIL)
def test_python_in_a_card_is_ours_alone(text: str) -> None:
    # In a record that is spoiled everywhere, and in one that only names an evil base model.
    model = {"hub": text, "revision": text, "random_weights": False}
    for run in (spoiled(text), {**spoiled("x"), "model": model}):
        card = model_card(run, CONFIG, Form(alone=True))
        (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
        # Compiled, not run: names that it would use are all in one list.
        compiled = compile(code, "card", "exec")
        assert not {"os", "system"} & set(compiled.co_names)
        base = next(line for line in code.splitlines() if line.startswith("base = "))
        assert base == 'base = PeftConfig.from_pretrained(".").base_model_name_or_path'


def test_an_honest_card_reads_as_before() -> None:
    run = read(RECORD)
    hub = "microsoft/deberta-v3-base"
    # A revision may hold slashes, a repository one.
    run["model"] = {"hub": hub, "revision": "refs/pr/1", "random_weights": False}
    card = model_card(run, {"base_model_name_or_path": hub}, Form(alone=True))
    assert front(card)["base_model"] == hub
    assert f"base = '{hub}'\n" in card
    assert "revision='refs/pr/1'" in card
    assert f"**{run['note'][0].upper()}{run['note'][1:]}.**" in card
    assert "\\" not in card  # nothing in it needs an escape


@pytest.mark.parametrize("gates", [0, 48])
def test_the_cost_of_a_component_is_told_where_the_file_bears_it_out(gates: int) -> None:
    run = read(RECORD)
    params = {**run["params"], "gates": gates, "adapter_end": 3504}
    said = (
        f"A component stores d_in + d_out parameters{'; its gate is folded in.' if gates else '.'}"
    )
    own = model_card({**run, "params": {**params, "in_peft_file": 3504}}, CONFIG, Form())
    assert said in own
    assert "| adapter in PEFT's format" not in own
    # VeRA's: a component stores one number, and A and B are in the file all the same.
    other = model_card({**run, "params": {**params, "in_peft_file": 27648}}, CONFIG, Form())
    assert "d_in + d_out" not in other
    assert "| adapter in PEFT's format | 27,648 |" in re.sub(" +", " ", other)


@pytest.mark.parametrize(
    ("in_file", "said"),
    [
        ([2, 4, 0], "A component stores d_in + d_out parameters; its gate is folded in."),
        # PiSSA's: start values stand beside the trained factors.
        (
            [4, 8, 0],
            "A component stores 2 (d_in + d_out) parameters: PEFT's file holds 2 components in its "
            "place; its gate is folded in.",
        ),
        (
            [3, 8, 1],
            "In the place of the 6 components PEFT's file holds 12, of d_in + d_out parameters each;",
        ),
    ],
)
def test_a_component_costs_as_much_as_the_file_holds_for_it(in_file: list[int], said: str) -> None:
    run = read(RECORD)
    params = {**run["params"], "gates": 48, "adapter_end": 3504, "in_peft_file": 3504}
    names = list(run["ranks"]["end"])[:3]
    found = {"end": [2, 4, 0], "in_peft_file": in_file}
    ranks = {key: dict(zip(names, held, strict=True)) for key, held in found.items()}
    run |= {"params": params, "ranks": {**run["ranks"], **ranks}}
    assert said in model_card(run, CONFIG, Form())


def test_a_card_counts_the_steps_that_were_taken_where_patience_ended_the_run() -> None:
    run = read(RECORD)
    assert f"\n- {run['total_steps']:,} steps of 32, " in model_card(run, CONFIG, Form())
    run["results"]["last"]["step"] = 400
    said = f"\n- 400 steps (of {run['total_steps']:,}: patience ended the run) of 32, "
    assert said in model_card(run, CONFIG, Form())


def test_a_card_tells_what_the_federation_was() -> None:
    run = read(RECORD)
    assert "federated:" not in model_card(run, CONFIG, Form())
    run["federation"] = federation_entry(
        clients=[{"rows": n, "classes": {"0": n}} for n in (29, 41, 1_102)],
        rounds=4,
        selected=2,
        local_steps=10,
        sequential_steps=40,
    )
    for fed, parts in (
        ({"partition": "dirichlet", "alpha": 0.5}, "Dirichlet(0.5)"),
        ({"partition": "iid", "alpha": 0.5}, "equal random parts"),
    ):
        run["config"]["fed"] = fed
        card = model_card(run, CONFIG, Form())
        line = f"- federated: 4 rounds of 2 of 3 clients, {parts}, 10 steps each, 40 in a row, "
        assert f"\n{line}29 to 1,102 rows\n" in card
        assert f"steps of at most {run['config']['batch_size']}, " in card
    run["config"]["fed"] = {"partition": "dirichlet", "alpha": "<script>"}
    assert ", Dirichlet(\\<script>), " in model_card(run, CONFIG, Form())


def test_what_a_method_is_not_is_said_where_its_record_says_so() -> None:
    run = read(RECORD)
    assert "use_dora" not in model_card(run, CONFIG, Form())
    about = {"title": "T", "paper": "A 2024", "budget": "exact", "result": "adapter"}
    # A record that describes its method speaks for itself, whatever the method's name.
    run["method"] = about
    card = model_card(run, CONFIG, Form())
    assert "use_dora" not in card
    assert "method: T, A 2024" in card
    run["method"] = {**about, "note": "T is not U."}
    assert "T is not U." in model_card(run, CONFIG, Form())
