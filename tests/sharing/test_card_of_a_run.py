"""A card says what the run's record says, and the Python that it shows loads what it describes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_runs import Trained, dora_run, short, stranger_run, twelve_layers
from transformers import AutoTokenizer

from dora.data.tasks import TASKS
from dora.sharing import model_card
from dora.sharing.exporting import export
from dora.sharing.form import Form
from folders import edit
from runs import change_record, only_run, run, small

pytestmark = [
    # PEFT itself reads the attribute.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Transformers has put the adapter on the base model, and PEFT puts it there again.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]


@pytest.fixture(scope="module")
def one() -> Trained:
    return dora_run()


@pytest.fixture(scope="module")
def stranger() -> Trained:
    return stranger_run()


def shown_code(card: Path, trained: Trained) -> np.ndarray:
    """Runs the Python of a card on the first development row. Returns its logits (1, outputs)."""
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert trained.rows.second is not None
    first, second = trained.rows.first[0], trained.rows.second[0]
    found: dict[str, Any] = {}
    exec(code.replace('"One sentence.", "Another."', f"{first!r}, {second!r}"), found)
    logits: np.ndarray = found["logits"].numpy()
    return logits


def test_the_cards_own_code_loads_what_it_describes(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for merge in (False, True):
        export(one.folder, tmp_path / str(merge), Form(merge=merge))
        monkeypatch.chdir(tmp_path / str(merge))  # the code says "."
        assert np.abs(shown_code(Path("README.md"), one) - one.recorded()[:1]).max() < 1e-5


def test_a_relative_model_path_is_absolute_wherever_it_is_recorded(
    stranger: Trained, tmp_path: Path
) -> None:
    export(stranger.folder, tmp_path / "out", Form(alone=True))
    # PEFT would look for a relative path from wherever the adapter is loaded.
    for folder in (stranger.folder / "adapter", tmp_path / "out"):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(stranger.base)
    assert stranger.record["model"]["path"] == str(stranger.base)


@pytest.mark.parametrize("form", [{}, {"alone": True}, {"merge": True}])
def test_a_card_shows_no_path_and_its_code_runs_on_a_base_with_a_head_of_its_own(
    form: dict[str, bool], stranger: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(stranger.folder, tmp_path / "out", Form(**form))
    monkeypatch.chdir(tmp_path / "out")
    text = Path("README.md").read_text()
    assert str(stranger.base.parent) not in text
    assert stranger.record["fingerprints"]["model"] in text
    assert ("alone" in form) == ('set `base = "FOLDER"` to your copy of it' in text)
    logits = shown_code(Path("README.md"), stranger)
    assert np.abs(logits - stranger.recorded()[:1]).max() < 1e-5


def test_segment_ids_are_given_whatever_the_bases_files_say_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = twelve_layers("bert", tmp_path / "base")
    # A class for any tokenizer, as many models name it: it gives no segment ids by itself.
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    AutoTokenizer.from_pretrained(base).backend_tokenizer.save(str(base / "tokenizer.json"))
    (base / "vocab.txt").unlink()
    edit(base / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **marks)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(base)("a", "b")
    record = run(small(tmp_path, f"model.path={base}", "method=lora", "budget=r1", *short()))
    trained = Trained(only_run(tmp_path), record, base)
    for form in ("merge", "alone"):
        export(trained.folder, tmp_path / form, Form(**{form: True}))
        monkeypatch.chdir(tmp_path / form)
        logits = shown_code(Path("README.md"), trained)
        assert np.abs(logits - trained.recorded()[:1]).max() < 1e-5


def test_a_run_says_that_the_files_head_is_not_used(stranger: Trained) -> None:
    log = (stranger.folder / "log.txt").read_text()
    (line,) = (line for line in log.splitlines() if "hold a head" in line)
    assert "classifier.out_proj.weight" in line


@pytest.mark.parametrize(
    "words",
    [
        ["model.path=/home/me/model"],
        ["model.path=model", "data.dir=glue"],
        ["'model.path=\"/home/me/my model\"'", "results=~/runs"],
        ["init_from=../runs/rte/s1"],
        ["+own=/home/me/x"],
        ["'method.runs=[/home/me/secret/a/s1, /home/me/b/s1]'", "rates_from=search/choices.json"],
        ["'+own=[a,\"/home/me/x\"]'", "data.dir=."],
    ],
)
def test_a_command_is_shown_without_places_of_the_machine(words: list[str], one: Trained) -> None:
    record = {**one.record, "command": " ".join(["python -m dora.run task=rte", *words])}
    # Quotes are the shell's: the key before them is shown all the same.
    (line,) = re.findall(
        r"    (python -m dora.run .*)", model_card.model_card(record, None, Form())
    )
    keys = [word.strip("'").split("=")[0] for word in words]
    assert line == "python -m dora.run task=rte " + " ".join(f"{key}=FOLDER" for key in keys)


def test_the_card_says_what_run_json_says(one: Trained, tmp_path: Path) -> None:
    # Its own command is that of the test's process, which may hold a folder.
    shutil.copytree(one.folder, tmp_path / "run")
    change_record(tmp_path / "run", command="python -m dora.run task=wnli")
    export(tmp_path / "run", tmp_path / "out", Form())
    text, record = (tmp_path / "out" / "README.md").read_text(), one.record
    best, ranks = record["results"]["best"], record["ranks"]["end"]
    assert text.startswith("---\nlanguage: en\nlicense: unknown\nlibrary_name: peft\n")
    cells = re.sub(" +", " ", text)  # tables are aligned
    assert f"| best | {best['step']} | {best['accuracy']:.4f} |" in cells
    assert f"| adapter as stored | {record['params']['adapter_end']:,} |" in cells
    for layer in (0, 1):
        row = [str(r) for name, r in ranks.items() if f".layer.{layer}." in name]
        assert f"| {layer} | {' | '.join(row)} |" in cells
    for fact in (
        "python -m dora.run task=wnli",
        record["git"]["commit"],
        *filter(None, record["fingerprints"].values()),
    ):
        assert fact in text
    assert "base_model:" not in text  # a folder of this machine is no model of the hub


def test_the_card_names_what_a_reader_must_know(one: Trained) -> None:
    # A run that was resumed after a commit, on a model of the hub, with degenerate predictions.
    start = one.record["starts"][0]
    starts = [
        {**start, "git": {"commit": "abc", "dirty": True}},
        {**start, "git": {"commit": "def", "dirty": False}},
    ]
    # With select=heldout the record holds scores of training rows, too.
    best = {**one.record["results"]["best"], "degenerate": "all 40 predictions are 'entailment'"}
    best["accuracy_heldout"] = 0.7
    record = {
        **one.record,
        "data": {**one.record["data"], "rows": TASKS["wnli"].sizes},
        "embedded": "embedded model x: says nothing",
        "starts": starts,
        "model": {"revision": "e2da", "random_weights": False},
        "results": {**one.record["results"], "best": best},
    }
    # An older record: the hub's name stands in the adapter's configuration alone.
    text = model_card.model_card(
        record, {"base_model_name_or_path": "owner/name"}, Form(alone=True)
    )
    assert "**Embedded model x: says nothing.**" in text
    assert "commit: abc with uncommitted changes, then def" in text
    assert "accuracy_heldout" not in text
    assert "Degenerate (best): all 40 predictions are 'entailment'" in text
    assert "base_model: owner/name\n" in text
    assert "from_pretrained(base, revision='e2da')" in text
    assert "# base on GLUE WNLI: DoRA (dynamic rank), budget 1500" in text
    record["model"] = {"hub": "owner/tuned", "revision": "e2da", "random_weights": False}
    text = model_card.model_card(record, None, Form(merge=True))
    assert "base_model: owner/tuned\nbase_model_relation: finetune" in text
    # Generated sentences: nothing in the card may pass for a result on GLUE.
    record["config"] = {**record["config"], "data": "mini"}
    text = model_card.model_card(record, {"base_model_name_or_path": "owner/name"}, Form())
    assert "# base on generated sentences in the shape of GLUE's WNLI" in text
    assert "nyu-mll/glue" not in text


def test_a_hub_models_adapter_names_its_revision(one: Trained, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    change_record(tmp_path / "run", model={"revision": "e2da", "random_weights": False})
    export(tmp_path / "run", tmp_path / "out", Form(alone=True))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["revision"] == "e2da"
