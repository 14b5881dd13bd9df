"""`dora.train` does what the command does, and leaves the process as it was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hydra.core.global_hydra import GlobalHydra

import dora
from dora.errors import UserError
from dora.package import CONF
from dora.python.restored import restored
from dora.python.train import _config, _words
from dora.records import gaps
from runs import differing, run, small, small_glue


def settings(results: Path, **changes: Any) -> dict[str, Any]:
    """Returns the small run of `runs.small_words` as arguments."""
    return {
        "data": "dir",
        "data__dir": small_glue(),
        "limit_train": 96,
        "max_steps": 24,
        "batch_size": 8,
        "eval_every": 6,
        "threads": 1,
        "max_length": 48,
        "head_dropout": 0.1,
        "results": results,
        **changes,
    }


def surroundings() -> list[Any]:
    """Returns what training changes in a process."""
    return [
        dict(os.environ),
        list(sys.path),
        list(warnings.filters),
        [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        getattr(torch.utils.deterministic, "fill_uninitialized_memory"),  # noqa: B009
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        GlobalHydra.instance(),
        os.getcwd(),
    ]


@pytest.mark.slow
def test_the_run_is_the_commands_own_and_is_done_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = surroundings()
    found = dora.train("wnli", "lora", "r4", **settings(tmp_path / "python", method__alpha=8))
    assert surroundings() == before
    expected = run(small(tmp_path / "command", "method=lora", "budget=r4", "method.alpha=8"))
    assert found.record["results"] == expected["results"]
    assert found.scores == {"accuracy": expected["results"]["best"]["accuracy"]}
    assert found.folder.is_relative_to(tmp_path / "python")
    other = tmp_path / "command" / found.folder.relative_to(tmp_path / "python")
    assert differing(found.folder, other) == []
    capsys.readouterr()
    again = dora.train("wnli", "lora", "r4", **settings(tmp_path / "python", method__alpha=8))
    assert again == found
    assert capsys.readouterr().out.startswith(f"already done: {found.folder}")
    # A notebook shows a call's value: a line, not the whole record.
    assert repr(found) == f"<finished run: accuracy {found.scores['accuracy']:.4f}; {found.folder}>"
    (row,) = dora.load(tmp_path / "python").to_dict("records")
    assert row["best.accuracy"] == found.scores["accuracy"]
    assert row["folder"] == str(found.folder)


@pytest.mark.parametrize("text", ["2024_01", "1e5", "true", "12e4567", "a b, {c} $d"])
def test_a_text_stays_the_text_that_it_is(text: str, tmp_path: Path) -> None:
    given = {"data__name": text, "model__name": text, "model__revision": text}
    words = _words({"task": "sst2", "method": "lora", **given, "results": tmp_path / text})
    with restored():
        config = _config(words, None)
    assert (config.data.name, config.model.name, config.model.revision) == (text,) * 3
    assert config.results == str(tmp_path / text)


def test_what_an_experiment_says_holds_unless_an_argument_says_otherwise() -> None:
    whole = {"experiment": "lora_roberta_base/rte"}
    with restored():
        of_it, other = (
            _config(_words(whole), None),
            _config(_words({**whole, "budget": "r4"}), None),
        )
    for config, budget in ((of_it, "r8"), (other, "r4")):
        assert (config.task.name, config.chosen.name, config.budget) == ("rte", "lora", budget)
    with pytest.raises(UserError, match=r"study_tiny is a grid .* with budget=… seed=…$"):
        dora.train("rte", "lora", experiment="study_tiny")


def test_a_method_of_ones_own_is_named_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "from dora.methods.lora import LoRA, Settings",
        "class Mine(LoRA):",
        "    title = 'Mine'",
    ]
    (tmp_path / "mine_of_python.py").write_text("\n".join(lines))
    (tmp_path / "method").mkdir()
    held = (CONF / "method/lora.yaml").read_text()
    held = held.replace("name: lora", "name: mine").replace(
        "dora.methods.lora.LoRA", "mine_of_python.Mine"
    )
    (tmp_path / "method/mine.yaml").write_text(held)
    monkeypatch.syspath_prepend(str(tmp_path))
    with restored():
        config = _config(_words({"method": "mine"}), str(tmp_path))
    assert config.chosen.kind.title == "Mine"
    # Explained with the own methods known, and a name that is not the file's is none.
    with pytest.raises(UserError, match=r"^max_stepz=4: there is no key max_stepz"):
        dora.train("rte", "mine", config_dir=tmp_path, max_stepz=4)
    (tmp_path / "method/copy.yaml").write_text(held)
    with pytest.raises(UserError, match="says name: mine; it must say name: copy"):
        dora.train("rte", "copy", config_dir=tmp_path)
    with pytest.raises(UserError, match="config_dir=/no/where is no folder"):
        dora.train("rte", "mine", config_dir="/no/where")


@pytest.mark.slow  # 6 s
def test_a_run_of_an_own_file_is_repeated_by_the_command_in_its_record(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nclip: 0.5\n")
    results = tmp_path / "results"
    given = settings(results, experiment="mine", max_steps=2, eval_every=2)
    done = dora.train("wnli", "lora", "r2", config_dir=tmp_path, **given)
    assert done.record["config"]["clip"] == 0.5
    assert done.record["words"][0] == f"--config-dir={tmp_path}"
    (seen,) = gaps.scan(results)
    assert seen.command.startswith(f"python -m dora.run --config-dir={tmp_path} task=wnli")


def test_all_mistakes_are_told_together_and_nothing_is_left_changed(tmp_path: Path) -> None:
    before = surroundings()
    with pytest.raises(UserError) as told:
        dora.train("sst3", "lora", "8", method__alfa=3, results=tmp_path)
    assert surroundings() == before
    text = str(told.value)
    assert "task=sst3: choose task from" in text
    assert "method.alfa=3: there is no key method.alfa; did you mean method.alpha" in text
    assert "budget=8 reads as 8 parameters: write r8" in text
    assert list(tmp_path.iterdir()) == []


def test_a_done_run_that_kept_no_model_is_not_given_for_one_that_does(tmp_path: Path) -> None:
    given = settings(tmp_path, max_steps=6)
    dora.train("wnli", "full", **given)
    with pytest.raises(UserError, match="is done but kept no model; add force=True"):
        dora.train("wnli", "full", **given, keep_model=True)


def test_a_group_of_processes_that_a_failed_run_is_left_in_is_closed() -> None:
    # The others would wait in it as long as a notebook lives that has caught the error.
    def begin() -> None:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    with contextlib.suppress(ValueError), restored():
        begin()
        raise ValueError
    assert not dist.is_initialized()
    begin()  # one's own stays
    with restored():
        pass
    assert dist.is_initialized()
    dist.destroy_process_group()
