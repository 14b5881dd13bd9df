"""Names, rates and threads: typed values win, and an embedded model's own apply to no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import configure


# No file is opened to compose a configuration, so the folders need not exist.
@pytest.mark.parametrize(
    "word", ["model.path=/x/checkpoint-500", "model.path='/x/checkpoint-500/'"]
)
def test_a_folder_has_its_own_name_and_nothing_of_the_embedded_model(word: str) -> None:
    config = configure(word, "method=lora")
    assert config.model_name == "checkpoint-500"
    assert config.cpu_threads == 2  # the default; the embedded model, which is the default, has 1
    assert config.learning_rate() == config.chosen.settings.base_lr


@pytest.mark.parametrize(
    "choice", [[], ["model=tiny_deberta"], ["model=minilm"], ["model=roberta_base"]]
)
def test_what_is_typed_wins_over_a_models_own(choice: list[str]) -> None:
    words = ["model.path=/x/checkpoint-500", "model.name=mine", "model.lr.lora=3", "method=lora"]
    config = configure(*choice, *words, "model.threads=1", "model.note=tried")
    assert (config.model_name, config.cpu_threads, config.learning_rate()) == ("mine", 1, 3)
    assert config.model.note == "tried"
    assert configure(*choice, *words, "model.threads=1", "threads=5").cpu_threads == 5
    assert configure(*choice, "model.lr.lora=3", "method=lora").learning_rate() == 3


def test_a_link_is_called_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "best").symlink_to(tmp_path / "checkpoint-500")
    assert configure(f"model.path={tmp_path / 'best'}").model_name == "best"


def test_data_have_the_name_given_else_their_sources() -> None:
    assert configure("data=dir", "data.dir=GLUE").data_name == "dir"
    config = configure("data=dir", "data.dir=GLUE", "data.name=glue_9k")
    assert (config.data_name, config.data.source) == ("glue_9k", "dir")
    assert config.resolved()["data"] == "glue_9k"


def test_a_folder_of_an_odd_name_has_one_that_is_a_name() -> None:
    assert configure("model.path='/x/run (3)=a'").model_name == "run _3__a"


@pytest.mark.parametrize(("model", "lr"), [("tiny_roberta", 5e-4), ("tiny_deberta", 4e-4)])
def test_an_embedded_model_keeps_what_serves_it_best(model: str, lr: float) -> None:
    resolved = configure(f"model={model}", "method=full").resolved()
    assert (resolved["model"], resolved["threads"], resolved["lr"]) == (model, 1, lr)
