"""A record's words become a command only if a run of this suite may have had them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dora.configuration.config import Config
from dora.plain import printable
from dora.records import packed
from dora.records.words import Foreign, as_command, command_of, typed, with_values
from record_files import write_run
from runs import python

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(
    "word",
    [
        # Hydra's own keys choose what it calls and where it writes.
        "hydra.run.dir=/tmp/x",
        "hydra.sweeper._target_=os.system",
        "+hydra.callbacks.a._target_=x",
        "hydra/launcher=evil",
        "++hydra.searchpath=[/tmp/x]",
        "override hydra/launcher=x",
        # Spellings by which a group of ours would be put in the place of one of Hydra's.
        "experiment@hydra.callbacks=x",
        "model@_global_=x",
        "+x=1",
        "x=1",
        "~x",
        "lr.x=1",
        "method._target_=os.system",
        "model.hub.x=1",
        # Choices name files of conf/: none of these is one.
        "data=../../x",
        "experiment=/tmp/x",
        "experiment=a/../../b",
        "task=.hidden",
        "model=[a,b]",
        "method={_target_:x}",
        "--config-path=/tmp",
        "-m",
        "--multirun",
        "--experimental-rerun=x",
        # A shell would read more than a word.
        "$(touch x)",
        ";touch x",
        "",
        "=1",
        "lr=1\ntouch x",
        # A terminal would show another command than the one that is pasted.
        "lr=\x1b[2J",
        "results=a\u202eb",
        "results=a\u2028b",
        "lr=" + "1" * 5000,
        "--config-dir=",
        "--config-dir=relative",
        "--config-dir=/no/such/folder",
        7,
        None,
        ["lr=1"],
    ],
    ids=str,
)
def test_a_word_that_no_run_has_is_refused_and_shown_in_one_line(word: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "lora", 1, 0.9)
    with pytest.raises(Foreign, match="its record holds words that no run has") as e:
        typed(["task=rte", word, "seed=1"], folder)
    assert str(e.value).isprintable()
    # The word of 5,000 letters is cut.
    assert len(str(e.value)) < 250
    assert command_of(["task=rte", word], folder, "?").startswith("? (its record")


@pytest.mark.parametrize("words", ["task=rte", 7, {"task": "rte"}, ["lr=1"] * 201], ids=str)
def test_words_that_are_no_list_of_a_few_are_refused(words: Any) -> None:
    with pytest.raises(Foreign):
        typed(words)


@pytest.mark.parametrize(
    "word",
    [
        "++lr=1e-3",
        "~experiment",
        "model.lr.dora=1e-3",
        "rates.rte.lora=1e-3",
        # The same keys once more, for one model.
        "model.own.threads=1",
        "method.beta=0.5",
        "method.setting_of_an_outsider=1",
        "experiment=lora_roberta_base/sst2",
        "experiment=null",
        # Values are free: they are quoted for the shell, and Hydra reads them as text.
        'data.dir="/my data/$(x)"',
        "results=a b",
        "data.dir=a\u3000b\u00a0c",
        "target=[q,v]",
        "results=/x/${seed}",
        "model.path=/x/`y`",
    ],
)
def test_what_a_user_may_type_is_what_is_shown(word: str) -> None:
    assert typed(["task=rte", word]) == ("task=rte", word)


def test_spaces_of_other_scripts_reach_the_command_and_the_terminal() -> None:
    shown = as_command(["results=a\u3000b\u00a0c"])
    assert shown == "python -m dora.run 'results=a\u3000b\u00a0c'"
    assert printable(shown) == shown


def test_every_key_and_every_committed_record_is_known() -> None:
    for field in dataclasses.fields(Config):
        assert typed([f"{field.name}=x"])
    folders = [f for file in RESULTS.rglob(packed.NAME) for f in packed.directories(file.parent)]
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    # Every record in results/.
    assert len(records) > 400
    assert all(typed(record["words"]) for record in records if record.get("words"))


def test_a_config_folder_counts_only_where_it_did_not_come_with_the_results(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "results", "lora", 1, 0.9)
    for place, refused in (
        (tmp_path / "mine", False),
        (tmp_path / "results" / "conf", True),
        (folder, True),
    ):
        place.mkdir(exist_ok=True)
        words = [f"--config-dir={place}", "experiment=mine"]
        assert ("inside the results" in command_of(words, folder, "?")) is refused
    # A folder that came with the results, under a name outside them.
    (tmp_path / "link").symlink_to(tmp_path / "results" / "conf")
    with pytest.raises(Foreign, match="inside the results"):
        typed([f"--config-dir={tmp_path / 'link'}"], folder)


def test_a_config_folder_beside_packed_records_came_with_them(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folder = write_run(results, "lora", 1, 0.9)
    packed.write(results / packed.NAME, [folder])
    shutil.rmtree(results / "runs")
    (unpacked,) = packed.directories(results)
    for place, refused in ((tmp_path / "mine", False), (results / "conf", True)):
        place.mkdir()
        words = [f"--config-dir={place}", "experiment=mine"]
        assert ("inside the results" in command_of(words, unpacked, "?")) is refused


# Hydra takes 0.2 s to import, and most looks at a study show no command.
def test_looking_at_records_needs_no_hydra_until_a_command_is_shown() -> None:
    done = python("-c", "import sys, dora.status, dora.export; assert 'hydra' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_a_key_is_replaced_with_whatever_sign_it_was_typed() -> None:
    words = ["+lr=1", "lr_x=1", "++lr=2", "task=rte", "lr=3"]
    assert with_values(words, lr=4, seed=5) == ("lr_x=1", "task=rte", "lr=4", "seed=5")
