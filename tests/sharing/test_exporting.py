"""What is exported loads in stock PEFT and plain Transformers, and gives the logits that the run recorded."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import ARCHITECTURES
from dora.adapters.peft import adapter_config
from dora.backbones.backbone import ASSETS, Folder, architecture, find_linears, fingerprint, locate
from dora.config import Config
from dora.data.sources import read_dir
from dora.data.tasks import TASKS, Rows
from dora.errors import UserError
from dora.records.artefacts import sealed
from dora.sharing import model_card
from dora.sharing.exporting import export
from dora.sharing.merging import find_base
from runs import change_record, command, only_run, python, run, small, small_glue

# PEFT itself reads it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
SCORED = 12  # rows of the development and test sets
TOKENIZERS = {"roberta": "tiny_roberta", "deberta-v2": "tiny_deberta"}
# One component in each matrix takes 2,496 parameters. At these budgets some matrices end with none.
BUDGETS = {"lora": 2_456, "adalora": 2_900, "dora": 2_900}


def twelve_layers(kind: str, folder: Path) -> Path:
    """A random model of 12 layers with a tokenizer, weights large enough that every layer changes the logits."""
    config, _, own = ARCHITECTURES[kind]
    tokens = 8_000
    if kind == "bert":
        rows = read_dir(TASKS["wnli"], small_glue())["train"]
        words = {
            w
            for s in rows.first + (rows.second or [])
            for w in re.findall(r"\w+|[^\w\s]", s.lower())
        }
        folder.mkdir()
        entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
        (folder / "vocab.txt").write_text("\n".join(entries))
        tokens = len(entries)
    else:
        shutil.copytree(
            ASSETS / TOKENIZERS[kind],
            folder,
            ignore=shutil.ignore_patterns("*.safetensors", "config.json"),
        )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        config(
            vocab_size=tokens,
            hidden_size=16,
            num_hidden_layers=12,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
            initializer_range=0.3,
            **own,
        )
    )
    getattr(model, model.base_model_prefix).save_pretrained(folder)
    return folder


@dataclass
class Trained:
    """A finished run: its directory, run.json, base model and the development rows as text."""

    folder: Path
    record: dict[str, Any]
    base: Path
    rows: Rows = field(default_factory=lambda: read_dir(TASKS["wnli"], small_glue(SCORED))["dev"])

    def recorded(self) -> np.ndarray:
        """The best evaluation's logits on the development set, as the run stored them."""
        return np.load(self.folder / "predictions.npz")["best/dev/logits"]

    def logits(self, model: torch.nn.Module, tokenizer: Any) -> np.ndarray:
        """The model's logits on the development set, tokenised as the tokenizer itself would."""
        assert self.rows.second is not None
        batch = tokenizer(
            self.rows.first,
            self.rows.second,
            truncation=True,
            max_length=48,
            padding=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            return model.eval()(**batch).logits.numpy()


def short() -> tuple[str, ...]:
    """Four steps on 32 rows, SCORED rows of every other split."""
    return f"data.dir={small_glue(SCORED)}", "max_steps=4", "limit_train=32", "lr=1e-2", "warmup=0"


# Each architecture and each method once in the default tests; the other pairs are slow.
QUICK = [("roberta", "dora"), ("bert", "lora"), ("deberta-v2", "adalora")]
PAIRS = [
    pytest.param(
        (kind, method),
        id=f"{kind}-{method}",
        marks=() if (kind, method) in QUICK else pytest.mark.slow,
    )
    for kind in ARCHITECTURES
    for method in ("lora", "adalora", "dora")
]


@pytest.fixture(scope="module", params=PAIRS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    """A run of four steps on 12 layers, for each architecture and method."""
    kind, method = request.param
    place = tmp_path_factory.mktemp(kind)
    base = twelve_layers(kind, place / "base")
    config = composed(method)
    model = replace(config.model, path=str(base), hub="owner/another")
    record = run(replace(config, model=model, results=str(place)))
    yield Trained(only_run(place), record, base)
    shutil.rmtree(place)


@functools.cache
def composed(method: str) -> Config:
    """The configuration of a short run; composing it takes as long as training it."""
    # DoRA prunes after its first step, while components are still unlike enough for some matrices to lose all.
    window = ("method.prune_start=0", "method.prune_end=0.35") if method == "dora" else ()
    return small(
        Path("nowhere"), f"method={method}", f"budget={BUDGETS[method]}", *window, *short()
    )


def test_stock_peft_gives_our_logits_with_unequal_and_zero_ranks(
    trained: Trained, tmp_path: Path
) -> None:
    ranks = trained.record["ranks"]["end"]
    held = {int(m[1]) for n, r in ranks.items() if r and (m := re.search(r"layer\.(\d+)\.", n))}
    assert {1, 11} <= held
    assert 0 in ranks.values()
    assert len(set(ranks.values())) > (
        1 if trained.record["config"]["method"]["name"] == "lora" else 2
    )
    export(trained.folder, tmp_path / "out")
    base = AutoModelForSequenceClassification.from_pretrained(
        trained.base, num_labels=2, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(trained.base)
    peft = PeftModel.from_pretrained(base, tmp_path / "out")
    assert peft.peft_config["default"].base_model_name_or_path == str(
        trained.base
    )  # not the hub's, which was not read
    ours, theirs = trained.recorded(), trained.logits(peft, tokenizer)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.ptp(ours, axis=0).min() > 1e-3  # rows differ, so equal logits are no accident
    for name, p in peft.named_parameters():
        if "lora_B" in name:
            p.data.zero_()
    assert (
        np.abs(ours - trained.logits(peft, tokenizer)).max() > 1e-2
    )  # nor is the head all there is


def test_plain_transformers_gives_our_logits_of_a_merged_model(
    trained: Trained, tmp_path: Path
) -> None:
    export(trained.folder, tmp_path / "out", merge=True)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    theirs = trained.logits(model, AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert np.abs(trained.recorded() - theirs).max() < 1e-5
    assert model.config.id2label == {0: "not_entailment", 1: "entailment"}
    assert model.config.problem_type == "single_label_classification"


def test_the_files_lora_tensors_are_what_run_json_counts(trained: Trained, tmp_path: Path) -> None:
    export(trained.folder, tmp_path / "out")
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "np") as f:
        names = list(f.keys())
        held = sum(f.get_tensor(n).size for n in names if "lora_" in n)
        head = sum(f.get_tensor(n).size for n in names if "lora_" not in n)
    matrices = find_linears(
        architecture(locate(str(trained.base), None, None, None, "main", False)),
        trained.record["config"]["target"],
    )
    ranks = trained.record["ranks"]["end"]
    assert held == sum(ranks[m.name] * (m.d_in + m.d_out) for m in matrices) > 0
    assert held == trained.record["params"]["adapter_end"]
    assert head == trained.record["params"]["head"]
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"]
    assert saved == (
        ["classifier", "pooler"] if matrices[0].name.startswith("deberta.") else ["classifier"]
    )


def test_patterns_name_one_matrix_each() -> None:
    names = [
        f"bert.encoder.layer.{i}.{end}"
        for i in (1, 11)
        for end in ("attention.output.dense", "output.dense")
    ]
    config = adapter_config(dict(zip(names, (1, 2, 3, 0), strict=True)), "base", ["classifier"])
    assert config["target_modules"] == names[:3]
    assert config["rank_pattern"] == config["alpha_pattern"]
    for pattern, rank in config[
        "rank_pattern"
    ].items():  # as PEFT matches them, against more than the names there are
        others = [*names, "bertxencoder.layer.1.output.dense", "bert.encoder.layer.1xoutput.dense"]
        assert [n for n in others if re.match(rf"(.*\.)?({pattern})$", n)] == [names[rank - 1]]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of DoRA on a copy of the embedded RoBERTa."""
    place = tmp_path_factory.mktemp("one")
    base = shutil.copytree(ASSETS / "tiny_roberta", place / "base")
    record = run(small(place, f"model.path={base}", "method=dora", "budget=1500", *short()))
    return Trained(only_run(place), record, base)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Full fine-tuning on a regression, its model kept."""
    place = tmp_path_factory.mktemp("full")
    record = run(
        small(place, "task=stsb", "method=full", "keep_model=true", "max_steps=4", "limit_train=32")
    )
    return Trained(
        only_run(place),
        record,
        ASSETS / "tiny_roberta",
        read_dir(TASKS["stsb"], small_glue())["dev"],
    )


def test_full_fine_tuning_exports_the_model_it_kept(full: Trained, tmp_path: Path) -> None:
    export(full.folder, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert np.abs(full.recorded() - full.logits(model, tokenizer)).max() < 1e-5
    assert "library_name: transformers\n" in (tmp_path / "out" / "README.md").read_text()
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert tokenizer.model_max_length == full.record["config"]["max_length"] == 48


def test_full_fine_tuning_that_kept_no_model_is_refused(full: Trained, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(sealed(full.record))
    with pytest.raises(
        UserError, match="kept none: train it again with keep_model=true force=true"
    ):
        export(tmp_path, tmp_path / "out")


def test_the_cards_own_code_loads_what_it_describes(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one.rows.second is not None
    for merge in (False, True):
        export(one.folder, tmp_path / str(merge), merge)
        monkeypatch.chdir(tmp_path / str(merge))
        (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
        first, second = one.rows.first[0], one.rows.second[0]
        found: dict[str, Any] = {}
        exec(code.replace('"One sentence.", "Another."', f"{first!r}, {second!r}"), found)
        assert np.abs(found["logits"].numpy() - one.recorded()[:1]).max() < 1e-5


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on a folder named by a relative path, whose weights come with a head for three classes."""
    place = tmp_path_factory.mktemp("stranger")
    base = shutil.copytree(ASSETS / "tiny_roberta", place / "base")
    tuned = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, dtype=torch.float32
    )
    tuned.save_pretrained(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        config = small(place, "model.path=base", "method=lora", "budget=1500", *short())
        record = run(replace(config, results=str(place / "results")))
    return Trained(only_run(place / "results"), record, base)


def test_a_relative_model_path_is_absolute_wherever_it_is_recorded(
    stranger: Trained, tmp_path: Path
) -> None:
    export(stranger.folder, tmp_path / "out")
    for folder in (stranger.folder / "adapter", tmp_path / "out"):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(stranger.base)
    assert stranger.record["model"]["path"] == str(stranger.base)


@pytest.mark.parametrize("merge", [False, True])
def test_a_card_shows_no_path_and_its_code_runs_on_a_base_with_a_head_of_its_own(
    merge: bool, stranger: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(stranger.folder, tmp_path / "out", merge)
    monkeypatch.chdir(tmp_path / "out")
    text = Path("README.md").read_text()
    assert str(stranger.base.parent) not in text
    assert stranger.record["fingerprints"]["model"] in text
    assert merge or 'set `base = "FOLDER"` to your copy of it' in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert stranger.rows.second is not None
    first, second = stranger.rows.first[0], stranger.rows.second[0]
    found: dict[str, Any] = {}
    exec(code.replace('"One sentence.", "Another."', f"{first!r}, {second!r}"), found)
    assert np.abs(found["logits"].numpy() - stranger.recorded()[:1]).max() < 1e-5


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
    ],
)
def test_a_command_is_shown_without_places_of_the_machine(words: list[str], one: Trained) -> None:
    record = {**one.record, "command": " ".join(["python -m dora.run task=rte", *words])}
    (line,) = re.findall(r"    (python -m dora.run .*)", model_card.model_card(record, None))
    keys = [word.strip("'").split("=")[0] for word in words]
    assert line == "python -m dora.run task=rte " + " ".join(f"{key}=FOLDER" for key in keys)


def test_the_card_says_what_run_json_says(one: Trained, tmp_path: Path) -> None:
    export(one.folder, tmp_path / "out")
    text, record = (tmp_path / "out" / "README.md").read_text(), one.record
    best, ranks = record["results"]["best"], record["ranks"]["end"]
    assert text.startswith("---\nlibrary_name: peft\n")
    assert f"| best | {best['step']} | {best['accuracy']:.4f} |" in text
    assert f"| adapter as stored | {record['params']['adapter_end']:,} |" in text
    for layer in (0, 1):
        row = [str(r) for name, r in ranks.items() if f".layer.{layer}." in name]
        assert f"| {layer} | {' | '.join(row)} |" in text
    for fact in (
        record["command"],
        record["git"]["commit"],
        *filter(None, record["fingerprints"].values()),
    ):
        assert fact in text
    assert "base_model:" not in text  # a folder of this machine is no model of the hub


def test_the_card_names_what_a_reader_must_know(one: Trained) -> None:
    start = one.record["starts"][0]
    starts = [
        {**start, "git": {"commit": "abc", "dirty": True}},
        {**start, "git": {"commit": "def", "dirty": False}},
    ]
    best = {**one.record["results"]["best"], "degenerate": "all 40 predictions are 'entailment'"}
    record = {
        **one.record,
        "embedded": "embedded model x: says nothing",
        "starts": starts,
        "model": {"revision": "e2da", "random_weights": False},
        "results": {**one.record["results"], "best": best},
    }
    text = model_card.model_card(record, {"base_model_name_or_path": "owner/name"})
    assert "**Embedded model x: says nothing.**" in text
    assert "commit: abc with uncommitted changes, then def" in text
    assert "Degenerate (best): all 40 predictions are 'entailment'" in text
    assert 'base_model: "owner/name"' in text
    assert "from_pretrained(base, revision='e2da')" in text
    assert "# base on GLUE WNLI: DoRA (dynamic rank), budget 1500" in text
    record["model"] = {"hub": "owner/tuned", "revision": "e2da", "random_weights": False}
    assert 'base_model: "owner/tuned"\nbase_model_relation: finetune' in model_card.model_card(
        record, None
    )  # full
    record["config"] = {**record["config"], "data": "mini"}
    text = model_card.model_card(record, {"base_model_name_or_path": "owner/name"})
    assert "# base on generated sentences in the shape of GLUE's WNLI" in text
    assert "nyu-mll/glue" not in text


def test_a_hub_models_adapter_names_its_revision(one: Trained, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    change_record(tmp_path / "run", model={"revision": "e2da", "random_weights": False})
    export(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["revision"] == "e2da"


def test_a_base_model_that_moved_is_found_by_name_and_another_is_refused(
    one: Trained, tmp_path: Path
) -> None:
    moved = shutil.move(one.base, tmp_path / "moved")
    try:
        with pytest.raises(
            UserError, match=r"does not exist; .*; or name its folder with --base FOLDER"
        ):
            export(one.folder, tmp_path / "a", merge=True)
        with pytest.raises(UserError, match="is not the model this run trained on"):
            export(one.folder, tmp_path / "a", merge=True, base=ASSETS / "tiny_deberta")
        assert not (tmp_path / "a").exists()
        export(one.folder, tmp_path / "a", base=moved)
        assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ] == str(moved)
    finally:
        shutil.move(moved, one.base)


def test_an_embedded_base_is_found_wherever_the_package_lies() -> None:
    here = Folder(ASSETS / "tiny_deberta", random_weights=False)
    record = {
        "config": {"model": "tiny_deberta"},
        "model": {"revision": None},
        "fingerprints": {"model": fingerprint(here)},
    }
    assert (
        find_base(record, {"base_model_name_or_path": "/elsewhere/assets/tiny_deberta"}, None)
        == here
    )


def test_an_adapter_that_is_not_the_runs_is_refused(one: Trained, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    file = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_A" in name)]
    save_file(tensors, file)
    with pytest.raises(
        UserError, match=r"adapter holds [\d,]+ adapter parameters, run.json says 1,"
    ):
        export(tmp_path / "run", tmp_path / "out")
    file.write_bytes(b"cut")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors cannot be read"):
        export(tmp_path / "run", tmp_path / "out")
    shutil.rmtree(file.parent)
    with pytest.raises(
        UserError, match=r"holds no adapter, its record was kept without weights: train it again"
    ):
        export(tmp_path / "run", tmp_path / "out")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
)
@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_with_a_flipped_bit_is_refused(
    name: str, merge: bool, one: Trained, tmp_path: Path
) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    flip(tmp_path / "run" / name)
    with pytest.raises(
        UserError, match=rf"{name} (is damaged or another's|cannot be read).*force=true"
    ):
        export(tmp_path / "run", tmp_path / "out", merge)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_whole_model_with_a_flipped_bit_is_refused(
    name: str, full: Trained, tmp_path: Path
) -> None:
    shutil.copytree(full.folder, tmp_path / "run")
    flip(tmp_path / "run" / "model" / name)
    with pytest.raises(
        UserError, match=rf"model/{name} is damaged or another's: its sha256 is not the one"
    ):
        export(tmp_path / "run", tmp_path / "out")


def test_a_card_shows_no_score_that_the_predictions_do_not_give(
    one: Trained, tmp_path: Path
) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    results = one.record["results"]
    change_record(
        tmp_path / "run", results={**results, "best": {**results["best"], "accuracy": 0.999}}
    )
    with pytest.raises(
        UserError, match=r"its best accuracy is 0\.999 in run\.json, its predictions\.npz gives 0\."
    ):
        export(tmp_path / "run", tmp_path / "out")


def test_a_run_of_before_there_were_checksums_is_exported_and_it_is_said(
    one: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    change_record(tmp_path / "run", "files")
    export(tmp_path / "run", tmp_path / "out")
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'run'}: its record has no checksums")


def test_random_weights_are_not_handed_on(one: Trained, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    change_record(tmp_path / "run", model={"revision": None, "random_weights": True})
    with pytest.raises(UserError, match="adapts random weights, which are in no file"):
        export(tmp_path / "run", tmp_path / "out", merge=True)


def test_an_export_that_breaks_off_leaves_nothing(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise OSError("no space")

    monkeypatch.setattr(model_card, "model_card", broken)
    with pytest.raises(OSError, match="no space"):
        export(one.folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_names_every_mistake_and_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({"schema": 1, "status": "stopped", "words": ["task=rte"]})
    )
    done = command("dora.export", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nothing exported: ")
    assert "is stopped, not done; finish it first: python -m dora.run task=rte" in done.stderr
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    done = command("dora.export", str(tmp_path / "no"), "--to", str(tmp_path / "taken"))
    assert done.returncode == 2
    assert f"  - {tmp_path / 'no'} holds no run.json; a run directory is" in done.stderr
    assert f"  - {tmp_path / 'taken'} is there already, and nothing is overwritten" in done.stderr
    assert [f.name for f in (tmp_path / "taken").iterdir()] == ["mine"]


def test_help_and_mistakes_need_no_torch() -> None:
    done = python(
        "-c",
        "import sys, dora.export, dora.submit; assert not {'torch', 'evaluate'} & sys.modules.keys()",
    )
    assert done.returncode == 0, done.stderr
