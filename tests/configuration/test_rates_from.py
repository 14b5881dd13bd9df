"""A run takes its rate, and the setting chosen with it, from the search that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import search_at

from dora.analysis.grouping import tables
from dora.analysis.tables.scores import scores
from dora.cli.sweep import plan
from dora.configuration import search_file
from dora.configuration.config import Config
from dora.configuration.rates_from import as_tuned, search_of, searched_with
from dora.errors import UserError
from dora.preparing.prepare import prepare
from dora.records.finished import read_runs
from dora.records.journals import events
from dora.training import one_run
from runs import configure, only_run, record, run, small, small_words


def rate_of(config: Config) -> float:
    """Returns the rate that the run takes from its file."""
    found = search_of(config)
    assert found is not None
    return as_tuned(config, found).learning_rate()


def test_a_run_and_its_table_name_settings_that_its_rate_was_not_searched_with(
    tmp_path: Path,
) -> None:
    file = tmp_path / "choices.json"
    words = ["method=lora", "budget=r2", f"rates_from={file}"]
    other = searched_with(small(tmp_path, "method=lora", "batch_size=4", "precision=bf16"))
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    search_file.write(file, [search_at(*place, {1e-3: (50.0,)}, settings=other)])
    run(small(tmp_path, *words))
    assert record(tmp_path)["tuning"]["settings"] == {"batch_size": 4}
    (table,) = tables(read_runs(tmp_path))
    assert any("; tried with other settings, batch_size=4" in n for n in scores(table).notes)


def test_a_run_takes_the_setting_that_was_chosen_with_its_rate(tmp_path: Path) -> None:
    rates = {1e-3: (50.0,), 2e-3: (60.0,), 4e-3: (55.0,)}
    values = {0.3: (61.0,), 0.5: (40.0,)}
    place = ("tiny_roberta", "wnli", "dora", "r2")
    length = small(tmp_path).length
    key = search_file.Key(*place, length, "dir")
    search = search_file.Search(key, (1,), rates, {}, "dem", 0.1, values)
    search_file.write(tmp_path / "choices.json", [search])
    assert search_file.read(tmp_path / "choices.json") == {key: search}
    words = ["method=dora", "budget=r2", f"rates_from={tmp_path}/choices.json"]
    run(small(tmp_path / "a", *words))
    about = record(tmp_path / "a")
    assert (about["config"]["lr"], about["config"]["method"]["dem"]) == (2e-3, 0.3)
    assert about["tuning"]["candidates"] == 5
    # The run is the one that has both typed.
    run(small(tmp_path / "a", "method=dora", "budget=r2", "lr=2e-3", "method.dem=0.3"))
    assert record(tmp_path / "a")["times"] == about["times"]
    # With a rate of one's own the file says nothing, and another value does not go with its rate.
    assert search_of(configure(*words, "lr=1e-3")) is None
    with pytest.raises(UserError, match=r"method.dem=0.5 does not go with .* which chose 0.3"):
        run(small(tmp_path / "a", *words, "method.dem=0.5"))
    # Nor does the default, where it is typed.
    default = small_words(tmp_path / "a", *words, "method.dem=0.1")
    with pytest.raises(UserError, match=r"method.dem=0.1 does not go with .* which chose 0.3"):
        prepare(configure(*default), typed=default)
    with pytest.raises(UserError, match=r"method.dem=0.1 does not go with"):
        plan([default, [*default[:-1], "method.dem=0.3"]], lambda given: configure(*given))


def test_a_run_keeps_its_place_whatever_becomes_of_its_file_of_rates(tmp_path: Path) -> None:
    place = ("tiny_roberta", "wnli", "dora", "r2", (1,))
    file = tmp_path / "choices.json"
    search_file.write(file, [search_at(*place, {1e-3: (50.0,)}, setting="dem", default=0.1)])
    words = ["method=dora", "budget=r2", f"rates_from={file}"]
    # A key that is added is named although the file chooses a setting.
    with pytest.raises(UserError, match=r"\+max_step: there is no key max_step"):
        prepare(small(tmp_path, *words, "+max_step=100"))
    begun = prepare(small(tmp_path, *words))
    folder = begun.folder
    # As a search with more candidates does, while the run trains.
    search_file.write(file, [search_at(*place, {3e-3: (60.0,)}, setting="dem", default=0.1)])
    assert begun.settings["lr"] == 1e-3
    assert begun.folder == folder != prepare(small(tmp_path, *words)).folder
    file.unlink()
    assert (begun.folder, begun.settings["lr"]) == (folder, 1e-3)
    # It trains at the rate that names it, and says which search chose it.
    about = one_run.run(begun)
    assert (about["config"]["lr"], about["tuning"]["candidates"]) == (1e-3, 1)
    assert only_run(tmp_path) == folder
    assert max(line["lr"] for line in events(folder, "metrics.jsonl") if "lr" in line) <= 1e-3


def test_a_rate_comes_from_a_search_of_the_same_length_or_else_from_the_only_other(
    tmp_path: Path,
) -> None:
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    file = tmp_path / "choices.json"
    words = ["method=lora", "budget=r2", f"rates_from={file}"]

    def rate(*more: str) -> float:
        return rate_of(small(tmp_path, *words, *more))

    short, long = (
        search_at(*place, {rate: (50.0,)}, length=f"{steps} steps")
        for rate, steps in ((1e-3, 600), (3e-3, 1800))
    )
    search_file.write(file, [short])
    assert rate("max_steps=600") == rate("max_steps=5400") == 1e-3
    # A table says that the rate was found in other runs.
    run(small(tmp_path, *words))
    assert record(tmp_path)["tuning"]["length"] == "600 steps"
    search_file.write(file, [short, long])
    assert (rate("max_steps=600"), rate("max_steps=1800")) == (1e-3, 3e-3)
    told = r"method=lora, budget=r2 at 5400 steps on dir, only at 600 steps on dir and 1800 steps on dir"
    with pytest.raises(UserError, match=told):
        rate("max_steps=5400")


def test_a_rate_comes_from_a_search_on_the_same_data_or_else_from_the_only_other(
    tmp_path: Path,
) -> None:
    place = ("tiny_roberta", "wnli", "lora", "r2", (1,))
    file = tmp_path / "choices.json"
    words = ["method=lora", "budget=r2", f"rates_from={file}"]
    length = small(tmp_path).length
    sample, whole = (
        search_at(*place, {rate: (50.0,)}, length=length, data=data)
        for rate, data in ((1e-3, "sample"), (3e-3, "dir"))
    )
    search_file.write(file, [sample])
    assert rate_of(small(tmp_path, *words)) == 1e-3
    # A table says that the rate was found on other data.
    run(small(tmp_path, *words))
    assert record(tmp_path)["tuning"]["data"] == "sample"
    (table,) = tables(read_runs(tmp_path))
    assert any("; tried on other data, sample" in note for note in scores(table).notes)
    search_file.write(file, [sample, whole])
    assert rate_of(small(tmp_path, *words)) == 3e-3
    assert rate_of(small(tmp_path, *words, "data.name=sample")) == 1e-3
    told = f"at {length} on other, only at {length} on sample and {length} on dir"
    with pytest.raises(UserError, match=told):
        rate_of(small(tmp_path, *words, "data.name=other"))


def test_a_rate_of_a_search_that_always_diverged_is_refused(tmp_path: Path) -> None:
    search = search_at("tiny_roberta", "wnli", "lora", "r2", (1,), {1e-3: (None,), 2e-3: (None,)})
    search_file.write(tmp_path / "choices.json", [search])
    with pytest.raises(UserError, match=r"method=lora, budget=r2 diverged at .* 0.001 to 0.002"):
        run(small(tmp_path, "method=lora", "budget=r2", f"rates_from={tmp_path}/choices.json"))
