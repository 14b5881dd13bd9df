"""Choosing runs by their settings: numbers as numbers, and a mistake is told what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dora.analysis.finished import read_runs
from dora.analysis.view import View
from dora.analysis.where import chosen
from dora.errors import UserError
from dora.records.schema import Run
from record_files import write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Writes LoRA at two rates, DoRA and full fine-tuning, seeds 1 and 2.

    DoRA's second run is of a newer arithmetic.
    """
    common: dict[str, Any] = {
        "task": "sst2",
        "target": ["q", "v"],
        "budget": "300000",
        "limit_train": None,
    }
    for seed in (1, 2):
        for lr in (0.001, 0.002):
            config = {**common, "seed": seed, "lr": lr, "method": {"name": "lora", "alpha": 16.0}}
            write_run(tmp_path, "lora", seed, 0.8, budget="0.3M", key=f"{lr}", config=config)
        config = {**common, "seed": seed, "lr": 0.002, "method": {"name": "dora", "alpha": 8.0}}
        write_run(tmp_path, "dora", seed, 0.8, budget="0.3M", config=config, arithmetic=seed)
        config = {
            **common,
            "seed": seed,
            "lr": 1e-5,
            "method": {"name": "full"},
            "target": None,
            "budget": None,
        }
        write_run(tmp_path, "full", seed, 0.8, budget="none", config=config)
    return read_runs(tmp_path)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], 8),
        (["lr=2e-3"], 4),
        # One number in other spellings.
        (["lr=0.0020"], 4),
        (["lr=1e-5"], 2),
        (["seed=1"], 4),
        (["seed=1.0", "lr=.002"], 2),
        (["method.alpha=16"], 4),
        (["method=dora"], 2),
        (["method.name=dora"], 2),
        (["budget=0.3M"], 6),
        # As budgets, not as text; full fine-tuning has none.
        (["budget=300k"], 6),
        (["budget=null"], 2),
        (["target=q+v"], 6),
        (["target=[q,v]"], 6),
        (["target=null"], 2),
        # A key given twice: either value. Two keys: both.
        (["lr=1e-3", "lr=2e-3"], 6),
        (["lr=1e-3", "lr=2e-3", "seed=2"], 3),
        (["limit_train=null"], 8),
        (["arithmetic=2"], 1),
        # Of some runs alone; all others stay.
        (["dora:arithmetic=2"], 7),
        (["sst2:lora:lr=1e-3"], 6),
        (["lora:0.3M:lr=1e-3"], 6),
        (["lora:lr=1e-3", "lora:lr=2e-3"], 8),
        (["lora:lr=1e-3", "dora:arithmetic=2", "full:seed=1"], 4),
        (["lora:lr=1e-3", "seed=1"], 3),
        (["lora:method=lora"], 8),
    ],
)
def test_runs_with_these_settings_are_chosen(
    words: list[str], number: int, runs: list[Run]
) -> None:
    assert len(chosen(runs, words)) == number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr"], "--where lr must be KEY=VALUE, as lr=2e-3"),
        (
            ["rate=1e-3"],
            "no finished run has a setting rate; there are arithmetic, batch_size, budget, data,",
        ),
        (["lr=3e-3"], "--where lr=3e-3: no finished run has it; there lr is 1e-05, 0.001, 0.002"),
        (["method.alpha=large"], "there method.alpha is 8, 16"),
        (["target=q"], "there target is null, q+v"),
        (["dora:lr=1e-3"], "--where dora:lr=1e-3: no finished run has it; there lr is 0.002"),
        (["full:method.alpha=8"], "no finished run has a setting method.alpha; there are"),
        (
            ["rte:dora:lr=1e-3"],
            "no finished run is of rte:dora; there are 300000, dir, dora, full, lora, minilm, "
            "none, sst2",
        ),
        (["dora:lr"], "--where dora:lr must be KEY=VALUE"),
        # All other runs are left, but none of LoRA.
        (["lora:lr=1e-3", "lora:arithmetic=2"], "has it; there arithmetic is 1"),
        (["lora:lr=1e-3", "lr=1e-5"], "no finished run has lora:lr=1e-3 and lr=1e-5 at once"),
        # Each alone is there, so that no value is to blame.
        (["method=full", "lr=1e-3"], "no finished run has method=full and lr=1e-3 at once"),
    ],
)
def test_a_mistake_is_told_what_there_is(words: list[str], message: str, runs: list[Run]) -> None:
    with pytest.raises(UserError) as e:
        chosen(runs, words)
    assert message in str(e.value)


def test_every_mistake_is_told_at_once(runs: list[Run]) -> None:
    with pytest.raises(UserError) as e:
        chosen(runs, ["rate=1", "lr=9", "seed"])
    assert len(e.value.problems) == 3


@pytest.mark.parametrize(
    ("words", "suffix"),
    [
        ((), ""),
        (("lr=2e-3",), "-lr=0.002"),
        (("lr=0.002",), "-lr=0.002"),
        (("seed=1", "lr=2e-3"), "-lr=0.002-seed=1"),
        (("rte:dora:lr=2e-3",), "-rte_dora_lr=0.002"),
        # Only characters that any file system takes.
        (("target=[q,v]",), "-target=_q_v_"),
        (("init_from=/a/b c",), "-init_from=_a_b_c"),
    ],
)
def test_a_choice_has_one_name_that_a_file_can_have(words: tuple[str, ...], suffix: str) -> None:
    assert View(where=words).suffix == suffix
