"""Files from someone else run no code, and no configuration writes outside the results folder."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest

import dora
from dora.backbones.backbone import ASSETS
from dora.errors import UserError
from dora.preparing.prepare import prepare
from dora.training import checkpoint
from runs import only_run, run, small

SOURCES = sorted(Path(dora.__file__).parent.rglob("*.py"))


class Trap:
    """An object that, when unpickled, leaves a file behind: any code could run in its place."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.sign,)  # type: ignore[return-value]


# By the syntax tree, so that a comment or a message may name these.
def test_no_source_unpickles_evaluates_or_trusts_remote_code() -> None:
    assert len(SOURCES) > 200
    found = [(path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    for path, node in found:
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name for a in node.names} | {getattr(node, "module", None)}
            readers = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
            assert not names & readers, where
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "torch.load"), where
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("trust_remote_code", "False") == "False", where
            assert given.get("allow_pickle", "False") == "False", where


def test_a_pickle_in_the_place_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    data, said = pickle.dumps(Trap(tmp_path / "sprung")), []
    # With a right checksum, as an attacker would write it.
    (tmp_path / "step-6.checkpoint").write_bytes(hashlib.sha256(data).digest() + data)
    assert checkpoint.load(tmp_path, said.append) is None
    assert "step-6.checkpoint is damaged" in said[0]
    # Refused before it was unpickled, not after.
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_in_the_place_of_an_adapter_to_start_from_is_refused(tmp_path: Path) -> None:
    run(small(tmp_path, "method=lora", "max_steps=4"))
    folder = only_run(tmp_path)
    (folder / "best.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=r"best.safetensors cannot be read: .* no safetensors file"):
        run(small(tmp_path / "next", "method=lora", "max_steps=4", f"init_from={folder}"))
    assert not (tmp_path / "sprung").exists()


# Transformers would unpickle the first by itself; the second has a trustworthy name.
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_the_place_of_a_models_weights_is_refused(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ASSETS / "tiny_roberta", model)
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=r"(weights in .*|model.safetensors) cannot be read"):
        run(small(tmp_path, f"model.path={model}", "max_steps=4"))
    assert not (tmp_path / "sprung").exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ASSETS / "tiny_roberta", model)
    config = json.loads((model / "config.json").read_text())
    # Transformers imports the classes of an auto_map from the model's folder if it is told to.
    config["auto_map"] = {
        "AutoConfig": "trap.C",
        "AutoModelForSequenceClassification": "trap.M",
        "AutoTokenizer": "trap.T",
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "trap.py").write_text(
        f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass C: pass\nclass M: pass\nclass T: pass\n"
    )
    done = run(small(tmp_path, f"model.path={model}", "method=lora", "max_steps=4"))
    assert done["status"] == "done"
    assert not (tmp_path / "sprung").exists()


# The model's name is a folder of the run's path, and the only part of it that a user types freely.
@pytest.mark.parametrize("name", ["../../../../elsewhere", "..", "/elsewhere", "a/b", ""])
def test_no_name_leads_out_of_the_results_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.name=.* names a folder"):
        prepare(small(tmp_path, f"model.name='{name}'"))
