"""Whatever cannot be exported is refused with its reason, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from trained_runs import Trained, dora_run, full_run

from dora.errors import UserError
from dora.records.artefacts import sealed
from dora.sharing import model_card
from dora.sharing.exporting import export, unfit
from dora.sharing.form import Form
from runs import change_record, command, python


@pytest.fixture(scope="module")
def one() -> Trained:
    return dora_run()


@pytest.fixture(scope="module")
def full() -> Trained:
    return full_run()


def test_full_fine_tuning_that_kept_no_model_is_refused(full: Trained, tmp_path: Path) -> None:
    # The record alone, as it is without keep_model=true.
    (tmp_path / "run.json").write_text(sealed(full.record))
    with pytest.raises(UserError, match="kept none: train it again with keep_model=true force=tr"):
        export(tmp_path, tmp_path / "out", Form())


@pytest.mark.parametrize("how", [{"merge": True}, {"base": Path("/nowhere")}])
def test_a_whole_model_is_neither_merged_nor_put_on_another_base(
    how: dict[str, Any], full: Trained, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--merge and --base are for adapters: this run kept a wh"):
        export(full.folder, tmp_path / "out", Form(**how))


def test_an_adapter_that_is_not_the_runs_is_refused(one: Trained, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    file = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    # A whole file, as of a run that pruned one matrix more.
    del tensors[next(name for name in tensors if "lora_A" in name)]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged or another's"):
        export(tmp_path / "run", tmp_path / "out", Form())
    file.write_bytes(b"cut")  # shorter than a header
    with pytest.raises(UserError, match=r"adapter_model\.safetensors cannot be read"):
        export(tmp_path / "run", tmp_path / "out", Form())
    shutil.rmtree(file.parent)
    with pytest.raises(
        UserError, match=r"holds no adapter, its record was kept without weights: train it again"
    ):
        export(tmp_path / "run", tmp_path / "out", Form())


def flip(file: Path) -> None:
    """Flips one bit near the end, where every format here holds values, not its structure."""
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
    # The configuration may be no JSON any more, which is found first.
    with pytest.raises(
        UserError, match=rf"{name} (is damaged or another's|cannot be read).*force=true"
    ):
        export(tmp_path / "run", tmp_path / "out", Form(merge=merge))
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
        export(tmp_path / "run", tmp_path / "out", Form())


def test_a_card_shows_no_score_that_the_predictions_do_not_give(
    one: Trained, tmp_path: Path
) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    # Sealed anew, so that only the predictions tell.
    results = one.record["results"]
    change_record(
        tmp_path / "run", results={**results, "best": {**results["best"], "accuracy": 0.999}}
    )
    with pytest.raises(
        UserError, match=r"its best accuracy is 0\.999 in run\.json, its predictions\.npz gives 0\."
    ):
        export(tmp_path / "run", tmp_path / "out", Form())


def test_random_weights_are_not_handed_on(one: Trained, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    change_record(tmp_path / "run", model={"revision": None, "random_weights": True})
    with pytest.raises(UserError, match="adapts random weights, which are in no file"):
        export(tmp_path / "run", tmp_path / "out", Form(merge=True))


def test_an_export_that_breaks_off_leaves_nothing(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The card is written last, when the weights are in the folder.
    def broken(*_: object) -> str:
        raise OSError("no space")

    monkeypatch.setattr(model_card, "model_card", broken)
    with pytest.raises(OSError, match="no space"):
        export(one.folder, tmp_path / "out", Form())
    assert not list(tmp_path.iterdir())


def test_the_command_names_every_mistake_and_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({"schema": 1, "status": "stopped", "words": ["task=rte"]})
    )
    done = command("dora.export", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nothing exported: ")
    assert "is stopped, not done; finish it first: python -m dora.run task=rte" in done.stderr
    # Both problems at once, each in a line.
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    done = command("dora.export", str(tmp_path / "no"), "--to", str(tmp_path / "taken"))
    assert done.returncode == 2
    assert f"  - {tmp_path / 'no'} holds no run.json; a run directory is" in done.stderr
    assert f"  - {tmp_path / 'taken'} is there already, and nothing is overwritten" in done.stderr
    assert [f.name for f in (tmp_path / "taken").iterdir()] == ["mine"]


def test_help_and_mistakes_need_no_torch() -> None:
    # Each of them takes a second or more to import.
    late = "{'torch', 'transformers', 'evaluate', 'huggingface_hub'}"
    code = f"import sys, dora.export, dora.submit; assert not {late} & sys.modules.keys()"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_an_adapter_without_a_live_component_is_exported_merged_alone(one: Trained) -> None:
    dead = {**one.record["ranks"], "end": dict.fromkeys(one.record["ranks"]["end"], 0)}
    record = {**one.record, "ranks": dead}
    (said,) = [p for p in unfit(record, one.folder, Form()) if "no live component" in p]
    assert said.endswith("only a trained head: export with --merge")
    assert not any("no live component" in p for p in unfit(record, one.folder, Form(merge=True)))
