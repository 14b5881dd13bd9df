"""A model folder whose files are missing, damaged or of other formats is refused unloaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dora.backbones import backbone
from dora.backbones.backbone import ASSETS, Folder, fingerprint, load_model, locate
from dora.errors import UserError
from folders import POINTER, edit, model_folder, prepared

KINDS = ("bert", "roberta", "deberta-v2")


def found(path: Path) -> Folder:
    return locate(str(path))


@pytest.mark.parametrize(
    ("kind", "gone", "left"),
    [
        # The files beside the vocabulary are enough for Transformers to make a tokenizer of special
        # tokens alone, in silence. Nor does another architecture's vocabulary count.
        ("bert", ["vocab.txt"], {"tokenizer_config.json": "{}"}),
        ("bert", ["vocab.txt"], {"special_tokens_map.json": "{}"}),
        ("roberta", ["merges.txt"], {}),
        ("roberta", ["vocab.json"], {"tokenizer_config.json": "{}"}),
        ("roberta", ["vocab.json", "merges.txt"], {"vocab.txt": "a\nb\n"}),
        (
            "deberta-v2",
            ["spm.model"],
            {"tokenizer_config.json": '{"tokenizer_class": "DebertaV2TokenizerFast"}'},
        ),
    ],
)
def test_a_folder_without_a_vocabulary_is_refused(
    kind: str, gone: list[str], left: dict[str, str], tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    for name in gone:
        (folder / name).unlink()
    for name, text in left.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=r"has no tokenizer vocabulary \(tokenizer\.json, or "):
        prepared(folder, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_of_each_kind_is_enough(kind: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", kind)
    # The folders hold no tokenizer.json: each architecture's own format has to be enough.
    assert prepared(folder, tmp_path).model == found(folder)
    assert len(backbone.load_tokenizer(found(folder))) > 10


# Tokenised data is cached by this fingerprint: a file outside it could change tokens unnoticed.
@pytest.mark.parametrize(
    "name", ["added_tokens.json", "sentencepiece.bpe.model", "tokenizer.model"]
)
def test_every_file_of_a_tokenizer_is_in_the_fingerprint(name: str, tmp_path: Path) -> None:
    folder = Folder(model_folder(tmp_path / "m", "bert"), False)
    before = fingerprint(folder, tokenizer_only=True)
    (folder.path / name).write_text("{}")
    assert fingerprint(folder, tokenizer_only=True) != before


@pytest.mark.parametrize(
    ("name", "random_weights", "expected"),
    [
        # From committed records. Another hash would give every run of results/ another directory.
        ("tiny_roberta", False, "9c97288cee2a2215060cd315323846356e8904277b53e6abdf1299215cad81be"),
        ("tiny_roberta", True, "f4383f8575401337baf8a63c2799078e789e43bb4e38bcfdb4b07531b62c03e5"),
        ("tiny_deberta", False, "34c6fc7932660508d5b474ca6240b1c1cf0d115714f215edeb7d61f67b6b4a7d"),
    ],
)
def test_the_fingerprints_in_committed_records_still_hold(
    name: str, random_weights: bool, expected: str
) -> None:
    assert fingerprint(locate(embedded=name, random_weights=random_weights)) == expected


@pytest.mark.parametrize(
    "names",
    [
        # Parts that other programs leave in the hub's cache: a download broken off, a tokenizer
        # that was fetched alone, one of two shards.
        ["config.json", "model.safetensors"],
        ["config.json", "model.safetensors", "tokenizer_config.json"],
        ["config.json", "model.safetensors", "vocab.json"],
        [
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
        ],
    ],
)
def test_a_part_of_a_model_in_the_hubs_cache_is_not_whole(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    # The hub must not be asked in a test, and offline the part cannot be completed.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).write_text(
            '{"model_type": "roberta", "weight_map": {"x": "model-00002-of-00002.safetensors"}}'
        )
    with pytest.raises(UserError, match="not whole"):
        locate(hub="a/b", revision="0" * 40)


def sharded(folder: Path, suffix: str, shards: int = 2) -> None:
    """Replaces the one file of weights by shards with an index."""
    tensors = sorted(load_file(folder / "model.safetensors").items())
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    names = {}
    for i in range(shards):
        name, part = f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}", dict(tensors[i::shards])
        if suffix == "bin":
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name)
        names |= dict.fromkeys(part, name)
    (folder / f"{stem}.{suffix}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_as_the_one_file_is(suffix: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    whole, _ = load_model(found(folder), 2, None, 1)
    sharded(folder, suffix)
    prepared(folder, tmp_path)
    parts, _ = load_model(found(folder), 2, None, 1)
    # The same tensors in other files make the same model.
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True)
    )
    mark = fingerprint(found(folder))
    # A byte after a pickle's end leaves it readable; after a safetensors file's it does not.
    if suffix == "bin":
        shard = next(folder.glob("*00002.bin"))
        shard.write_bytes(shard.read_bytes() + b" ")
        assert fingerprint(found(folder)) != mark


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_shard_that_is_missing_is_named(suffix: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "roberta")
    sharded(folder, suffix)
    next(folder.glob(f"*00002-of-00002.{suffix}")).unlink()
    with pytest.raises(
        UserError, match=rf"has no shard \w+-00002-of-00002.{suffix}, which its index names"
    ):
        prepared(folder, tmp_path)


@pytest.mark.parametrize(
    # The last one names a file of somebody else's, outside the folder.
    "map",
    ["[]", '"x"', '{"weight_map": 3}', "{}", '{"weight_map": {"x": "../other.bin"}}'],
)
def test_an_index_that_names_no_files_of_the_folder_is_refused(map: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(map)
    with pytest.raises(UserError, match=r"pytorch_model.bin.index.json"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize(
    "name",
    # Formats that Transformers does not read by itself, or names that it does not look for.
    ["tf_model.h5", "flax_model.msgpack", "model.fp16.safetensors", "model.gguf", "weights.pt"],
)
def test_weights_of_another_format_or_name_are_refused_with_those_that_are_read(
    name: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / "model.safetensors").rename(folder / name)
    rule = rf"no weights \(model.safetensors or pytorch_model.bin, .*; {name} is not read\)"
    with pytest.raises(UserError, match=rule):
        prepared(folder, tmp_path)


NAMES = [
    ("bert", "config.json"),
    ("bert", "vocab.txt"),
    ("roberta", "vocab.json"),
    ("roberta", "merges.txt"),
    ("bert", "added_tokens.json"),
    ("deberta-v2", "spm.model"),
    ("bert", "tokenizer.json"),
    ("bert", "tokenizer_config.json"),
    ("bert", "model.safetensors"),
    ("bert", "pytorch_model.bin"),
]


# A clone without git-lfs leaves 130 bytes of text in each file's place. As a pickle it would end in
# PyTorch's advice to switch weights_only off.
@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_git_lfs_pointer_is_named_whatever_it_stands_for(
    kind: str, name: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(
        UserError, match=rf"{name} cannot be read: it is a Git LFS pointer.*git lfs pull"
    ) as e:
        prepared(folder, tmp_path)
    assert "weights_only" not in str(e.value)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_file_that_one_may_not_read_is_named(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").rename(folder / name)
    elif not (folder / name).exists():
        (folder / name).write_text("{}")
    # Permissions do not stop root, as whom tests run in containers.
    opened: Callable[..., Any] = Path.open

    def forbidden(self: Path, *words: Any, **more: Any) -> Any:
        if self == folder / name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *words, **more)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(UserError, match=rf"{name} cannot be read: (.*)Permission denied"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bin_file_that_is_cut_short_or_none_of_pytorchs_is_refused(
    legacy: bool, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    tensors, file = load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"
    # Files from before PyTorch 1.6 are no zip archives, and are still on the hub.
    torch.save(tensors, file, _use_new_zipfile_serialization=not legacy)
    (folder / "model.safetensors").unlink()
    prepared(folder, tmp_path)
    load_model(found(folder), 2, None, 1)
    whole = file.read_bytes()
    # Half a download, the hub's page for an error, and an empty file. Half a legacy file begins
    # like a whole one, so it shows only when it is loaded.
    for damaged in (whole[: len(whole) // 2], b"<!DOCTYPE html>", b""):
        file.write_bytes(damaged)
        read = partial(prepared, folder, tmp_path)
        if legacy and damaged[:2] == whole[:2]:
            read = partial(load_model, Folder(folder, False), 2, None, 1)
        with pytest.raises(UserError, match=r"cannot be read: pytorch_model\.bin") as e:
            read()
        assert "weights_only" not in str(e.value)


# PEFT's save_pretrained writes no model: its folder is often taken for one.
def test_an_adapters_folder_is_told_from_a_models(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="it is an adapter: merge it into its model first"):
        prepared(tmp_path, tmp_path)


def test_a_runs_directory_is_told_from_a_models(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    told = r"it is a run's directory: python -m dora\.export RUN_DIR --merge makes a model folder"
    with pytest.raises(UserError, match=told):
        prepared(tmp_path, tmp_path)
    model_folder(tmp_path / "model", "bert")
    told = f"it is a run's directory, whose model is {tmp_path / 'model'}"
    with pytest.raises(UserError, match=re.escape(told)):
        prepared(tmp_path, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ['{"peft_type": "LORA", "base_model_name_or_path": "/another/model"}', "{}", "no JSON"]
)
def test_an_adapter_beside_a_models_weights_is_refused(
    kind: str, text: str, tmp_path: Path
) -> None:
    # Transformers would attach it, or load the model that it names, in silence.
    folder = model_folder(tmp_path / "m", kind)
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(UserError) as e:
        prepared(folder, tmp_path)
    assert (
        f"model folder {folder} holds an adapter beside its weights (adapter_config.json)"
        in str(e.value)
    )
    for way in ("dora.export RUN_DIR --merge", "init_from=RUN_DIR", "remove adapter_config.json"):
        assert way in str(e.value)


def test_all_that_is_wrong_with_a_folder_comes_in_one_message(tmp_path: Path) -> None:
    # A header of safetensors is longer than 200 bytes.
    folder = shutil.copytree(ASSETS / "tiny_roberta", tmp_path / "m")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:200])
    edit(folder / "config.json", hidden_size=0)
    with pytest.raises(UserError) as e:
        prepared(folder, tmp_path)
    assert "model.safetensors cannot be read" in str(e.value)
    assert "hidden_size=0 must be" in str(e.value)


@pytest.mark.parametrize(
    # model.safetensors is preferred to the pickle, and BERT's tokenizer reads vocab.txt alone.
    "name",
    ["pytorch_model.bin", "optimizer.safetensors", "vocab.json", "spiece.model"],
)
@pytest.mark.parametrize("content", [POINTER, ""])
def test_a_damaged_file_that_nothing_reads_keeps_nobody_from_training(
    name: str, content: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / name).write_text(content)
    prepared(folder, tmp_path)
