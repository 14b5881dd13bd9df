"""Loading of a backbone: 32 bits whatever the file holds, the right linears, the whole head."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
)

from dora.backbones import backbone
from dora.backbones.architectures import KINDS
from dora.backbones.backbone import Folder, find_linears, load_model, locate
from dora.backbones.model_config import read_config
from dora.errors import UserError
from folders import model_folder

ASSETS = ("tiny_roberta", "tiny_deberta")


def shapes_by_model(folder: Folder) -> dict[str, tuple[int, int]]:
    """Returns every linear of the encoder's layers, as Transformers builds it: (d_in, d_out)."""
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder.path))
    return {
        name: (m.in_features, m.out_features)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and ".encoder.layer." in name
    }


def saved_bert(folder: Path, dtype: torch.dtype, pooler: bool = True) -> Folder:
    """Saves a small BERT in `dtype`, with a tokenizer."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
    )
    BertModel(config, add_pooling_layer=pooler).to(dtype).save_pretrained(folder)
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    )
    return Folder(folder, random_weights=False)


@pytest.mark.parametrize("name", ASSETS)
def test_an_embedded_model_is_small_and_whole_and_knows_some_english(name: str) -> None:
    folder = locate(embedded=name)
    assert not folder.random_weights
    # Both embedded models go into the wheel and every clone.
    assert sum(f.stat().st_size for f in folder.path.iterdir()) < 12_000_000
    perplexity = json.loads((folder.path / "training.json").read_text())["heldout_perplexity"]
    # The figure on the model's card has to be that of the training's own record.
    said = re.search(r"perplexity.*\*\*([\d.]+)\*\*", (folder.path / "README.md").read_text())
    assert said is not None
    assert float(said[1]) == pytest.approx(perplexity, abs=0.01)
    tokenizer = backbone.load_tokenizer(folder)
    model, report = AutoModelForMaskedLM.from_pretrained(
        folder.path, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert model.config.vocab_size == len(tokenizer)
    ids = torch.tensor(
        tokenizer(["The plot is dull and the acting is even worse, but my wife liked the film."])[
            "input_ids"
        ]
    )
    places = torch.arange(1, ids.shape[1] - 1)
    masked = ids.repeat(len(places), 1)
    masked[torch.arange(len(places)), places] = tokenizer.mask_token_id
    with torch.no_grad():
        scores = model(masked).logits[torch.arange(len(places)), places]
    # A guess is log(8000) = 9.0 nats, the frequencies of tokens about 7.
    assert torch.nn.functional.cross_entropy(scores, ids[0, places]) < 5


def test_tiny_deberta_has_the_settings_of_deberta_v3() -> None:
    config = AutoConfig.from_pretrained(backbone.ASSETS / "tiny_deberta")
    # DeBERTaV3's released configuration: with other settings a tiny model would not exercise the
    # code paths that the real ones take.
    assert (config.relative_attention, config.share_att_key, config.position_biased_input) == (
        True,
        True,
        False,
    )
    assert (sorted(config.pos_att_type), config.norm_rel_ebd, config.type_vocab_size) == (
        ["c2p", "p2c"],
        "layer_norm",
        0,
    )
    assert config.position_buckets > 0


# Against Transformers: a linear that our table of paths misses would silently not be adapted.
@pytest.mark.parametrize("name", ASSETS)
def test_the_linears_found_are_those_the_model_has(name: str) -> None:
    folder = locate(embedded=name)
    found = {m.name: (m.d_in, m.d_out) for m in find_linears(read_config(folder.path), KINDS)}
    assert found == shapes_by_model(folder)


def test_the_linears_of_bert_are_found_and_target_picks_some(tmp_path: Path) -> None:
    folder = saved_bert(tmp_path, torch.float32)
    model_config = read_config(folder.path)
    assert {
        m.name: (m.d_in, m.d_out) for m in find_linears(model_config, KINDS)
    } == shapes_by_model(folder)
    # In layer order, q before v, whatever order `target` has: draws and budgets depend on it.
    some = [m.name for m in find_linears(model_config, ("q", "v"))]
    assert some == [
        f"bert.encoder.layer.{i}.attention.self.{kind}"
        for i in range(2)
        for kind in ("query", "value")
    ]


def test_sixteen_bit_files_load_in_thirty_two(tmp_path: Path) -> None:
    # Transformers 5 loads in the file's own type unless it is told otherwise.
    folder = saved_bert(tmp_path, torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    model, _ = load_model(folder, 2, None, seed=1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_checkpoint_that_is_only_bin_loads_without_running_code(tmp_path: Path) -> None:
    folder = saved_bert(tmp_path, torch.float32)
    expected, _ = load_model(folder, 2, None, seed=1)
    weights = BertModel.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    model, _ = load_model(folder, 2, None, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True)
    )

    # A pickle that makes a folder when it is loaded without weights_only.
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.mkdir, (str(tmp_path / "owned"),))

    torch.save({"x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported"):
        load_model(folder, 2, None, seed=1)
    assert not (tmp_path / "owned").exists()


def test_the_head_is_what_lies_outside_and_what_the_file_lacks(tmp_path: Path) -> None:
    _, head = load_model(saved_bert(tmp_path / "a", torch.float32), 3, None, seed=1)
    assert set(head) == {"classifier.weight", "classifier.bias"}
    # A pooler that the file lacks is random, so it has to be trained, and counted, with the head.
    _, head = load_model(saved_bert(tmp_path / "b", torch.float32, pooler=False), 3, None, seed=1)
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= set(head)
    # DeBERTa's pooler lies outside the backbone.
    _, head = load_model(locate(embedded="tiny_deberta", random_weights=True), 2, None, seed=1)
    assert set(head) == {
        "pooler.dense.weight",
        "pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }


# Seeds vary the head and the data order: a backbone drawn anew would be another "pretrained" model.
@pytest.mark.parametrize("name", ASSETS)
def test_random_weights_are_the_same_ones_and_only_the_head_depends_on_the_seed(name: str) -> None:
    folder = locate(embedded=name, random_weights=True)
    (one, head), (two, _) = (load_model(folder, 2, None, seed=s) for s in (1, 2))
    same = {n: torch.equal(p, dict(two.named_parameters())[n]) for n, p in one.named_parameters()}
    assert all(equal for n, equal in same.items() if n not in head)
    assert not same["classifier.out_proj.weight" if name == "tiny_roberta" else "classifier.weight"]


@pytest.mark.parametrize("name", ASSETS)
def test_a_regression_starts_at_the_constant_it_is_given(name: str, tmp_path: Path) -> None:
    folders = [locate(embedded=name, random_weights=True), saved_bert(tmp_path, torch.float32)]
    for folder in folders:
        model, _ = load_model(folder, 1, None, seed=1, output_bias=2.5)
        plain, _ = load_model(folder, 1, None, seed=1)
        ids = torch.tensor([[0, 6, 5, 2]])
        with torch.no_grad():
            # The same head but for its bias, so the difference is the bias alone.
            shift = model.eval()(ids).logits - plain.eval()(ids).logits
        assert torch.allclose(shift, torch.tensor(2.5))


@pytest.mark.parametrize("name", ASSETS)
def test_head_dropout_reaches_the_head(name: str) -> None:
    model, _ = load_model(locate(embedded=name, random_weights=True), 2, 0.37, seed=1)
    dropout = model.classifier.dropout if name == "tiny_roberta" else model.dropout
    # Each architecture keeps it under another key of its configuration.
    assert dropout.p == 0.37


def test_a_folder_without_weights_or_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        locate(str(tmp_path / "nowhere"))
    # Missing files come first: without them nothing tells what the folder is.
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="no tokenizer and no weights"):
        locate(str(tmp_path))
    with pytest.raises(
        UserError, match="'gpt2' model; this suite adapts bert, roberta, deberta-v2"
    ):
        read_config(tmp_path)


def with_head(folder: Path, kind: str, outputs: int, suffix: str) -> Folder:
    """Saves a model with a head for another task, whose numbers are unlike any that are drawn."""
    model_folder(folder, kind)
    model, _ = load_model(Folder(folder, False), outputs, None, seed=9)
    for name, p in model.named_parameters():
        if not name.startswith(model.base_model_prefix + "."):
            # A value that no initialisation gives.
            torch.nn.init.constant_(p, 7.0)
    model.save_pretrained(folder)
    if suffix == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return Folder(folder, False)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("outputs", [2, 3])
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
def test_the_head_is_drawn_from_the_seed_whatever_the_file_holds(
    kind: str, outputs: int, suffix: str, tmp_path: Path
) -> None:
    tuned = with_head(tmp_path / "tuned", kind, outputs, suffix)
    plain = Folder(model_folder(tmp_path / "plain", kind), False)
    said: list[str] = []
    for seed in (1, 2):
        ours, head = load_model(tuned, 2, None, seed, say=said.append)
        wanted, names = load_model(plain, 2, None, seed, say=said.append)
        assert head == names
        # Bit for bit those of the plain file: the other head has not even moved the random
        # generator.
        assert all(torch.equal(p, wanted.state_dict()[n]) for n, p in ours.state_dict().items())
    assert [line.split(" (")[0] for line in said] == [
        f"the weights in {tuned.path} hold a head"
    ] * 2
    assert "which is not used: this run's is drawn from its seed" in said[0]


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
def test_a_head_that_is_kept_is_the_files(kind: str, tmp_path: Path) -> None:
    model, head = load_model(
        with_head(tmp_path / "m", kind, 2, "safetensors"), 2, None, 1, keep_head=True
    )
    assert {p.mean().item() for n, p in model.named_parameters() if n in head} == {7.0}


@pytest.mark.parametrize(
    # The heads with which the records in results/ were trained. Another hash means that committed
    # numbers can no longer be trained again; ARITHMETIC must then be raised.
    ("name", "expected"),
    [("tiny_roberta", "84f7c6ff568bdb25"), ("tiny_deberta", "638378cb46a56ba8")],
)
def test_the_head_of_an_embedded_model_has_the_bits_of_committed_records(
    name: str, expected: str
) -> None:
    model, head = load_model(locate(embedded=name), 2, None, seed=1)
    bits = b"".join(model.state_dict()[n].numpy().tobytes() for n in sorted(head))
    assert hashlib.sha256(bits).hexdigest().startswith(expected)


def test_a_relative_path_is_found_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    # The record names the model's folder, which has to be found from any working directory.
    for given in ("m", "./m", "~/m"):
        assert locate(given).path == folder


def test_a_missing_package_is_named_as_pip_knows_it() -> None:
    with pytest.raises(UserError, match="pip install no-such-package-here"):
        locate(package="no_such_package_here")


def test_a_tokenizer_is_shared_until_one_of_its_files_changes(tmp_path: Path) -> None:
    folder = Folder(model_folder(tmp_path / "m", "bert"), False)
    first = backbone.shared_tokenizer(folder)
    assert backbone.shared_tokenizer(folder) is first
    config = folder.path / "tokenizer_config.json"
    told = json.loads(config.read_text()) if config.is_file() else {}
    config.write_text(json.dumps({**told, "model_max_length": 77}))
    second = backbone.shared_tokenizer(folder)
    assert second is not first
    assert second.model_max_length == 77
