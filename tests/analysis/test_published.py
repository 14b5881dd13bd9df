"""Published rows: beside ours, never mixed in, contradicted only by what was measured alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dora.analysis import published
from dora.analysis.grouping import tables
from dora.analysis.published import Number, departures, numbers, rows_for
from dora.analysis.view import View
from dora.records.finished import read_runs
from dora.records.place import Row
from record_files import write_run
from runs import change_record

LORA = Row("lora", "300000")


def test_the_facts_are_read_whole() -> None:
    found = numbers()
    assert len(found) == 462
    lora = next(
        n
        for n in found
        if (n.model, n.method, n.params, n.task) == ("roberta-base", "lora", "0.3M", "sst2")
    )
    assert (lora.value, lora.spread, lora.seeds, lora.protocol) == (
        95.1,
        0.2,
        5,
        "median of 5 seeds, best epoch",
    )
    assert all(n.source for n in found)


def test_averages_of_copied_tables_are_those_of_their_numbers() -> None:
    # Tables that were read from a copy, whose average is printed: a number mistyped would show.
    for source in ("GDLoRA", "Flat-LoRA", "LoRA-GA", "FedEx-LoRA"):
        rows: dict[tuple[str, ...], list[Number]] = {}
        for n in numbers():
            if n.source.startswith(source):
                rows.setdefault((n.model, *n.row), []).append(n)
        assert rows
        for row in rows.values():
            values = [n.value for n in row if n.task != "average"]
            (average,) = (n.value for n in row if n.task == "average")
            # Numbers and averages are rounded to 0.01 one by one.
            assert sum(values) / len(values) == pytest.approx(average, abs=0.015), row[0]


def test_doras_own_row_is_there_and_empty() -> None:
    ((key, group),) = [(k, g) for k, g in rows_for("roberta_base").items() if k[3] == "dora"]
    assert "Mao" in key[0]
    # Nobody enters numbers from memory: dashes until someone has the paper's table.
    assert all(n.value is None for n in group)


def median_runs(results: Path, scores: tuple[float, ...], **changes: object) -> None:
    for seed, score in enumerate(scores, 1):
        write_run(
            results,
            "lora",
            seed,
            score / 100,
            model="roberta_base",
            budget="0.3M",
            **{"params": 294_912, **changes},
        )  # type: ignore[arg-type]


# Published 95.1 ± 0.2 (median of 5). Ours: standard deviation 0.2, so the combined error is
# sqrt(2) x 0.2 / sqrt(5) = 0.126.
@pytest.mark.parametrize(
    ("shift", "departs"), [(0.0, False), (0.32, False), (0.34, True), (-0.32, False), (-0.34, True)]
)
def test_a_cell_departs_where_its_distance_exceeds_spread_and_combined_error(
    shift: float, departs: bool, tmp_path: Path
) -> None:
    spread = 0.2 / 0.025**0.5  # of five values around the middle one: standard deviation 0.2
    median_runs(tmp_path, tuple(95.1 + shift + spread * x for x in (-0.2, -0.1, 0, 0.1, 0.2)))
    (table,) = tables(read_runs(tmp_path))
    assert bool(list(departures(table, LORA, "sst2"))) is departs


def test_the_median_is_compared_with_a_median(tmp_path: Path) -> None:
    median_runs(tmp_path, (95.1, 95.1, 95.1, 90.0, 90.0))  # mean 93.1, error 1.25
    (table,) = tables(read_runs(tmp_path))
    assert not list(departures(table, LORA, "sst2"))


@pytest.mark.parametrize(
    ("changed", "departs"),
    [
        ({}, True),
        ({"target": ["v", "q"]}, True),
        ({"target": ["q", "k", "v", "o", "ffn1", "ffn2"]}, False),
        ({"target": ["q"]}, False),
        ({"limit_train": 64}, False),
        ({"max_steps": 100}, False),
        ({"select": "heldout"}, False),
        ({"method": {"name": "lora", "scaling": "standard", "lr_ratio": 1.0}}, True),
        ({"method": {"name": "lora", "scaling": "rslora"}}, False),
        ({"method": {"name": "lora", "lr_ratio": 16.0}}, False),
        ({"method": {"name": "lora", "init": "pissa"}}, False),
    ],
)
def test_only_a_cell_of_the_papers_target_matrices_and_training_departs(
    changed: dict[str, object], departs: bool, tmp_path: Path
) -> None:
    # 50 points, far from any published number: only the set-up decides.
    config = {"method": {"name": "lora"}, "target": ["q", "v"], "select": "dev", **changed}
    median_runs(tmp_path, (50.0, 50.1, 50.2), config=config)
    (table,) = tables(read_runs(tmp_path))
    assert bool(list(departures(table, LORA, "sst2"))) is departs


def test_a_sample_of_the_rows_departs_from_nothing(tmp_path: Path) -> None:
    median_runs(tmp_path, (50.0, 50.1, 50.2))
    for folder in tmp_path.glob("runs/*/*/*/*/*/*/s*"):
        rows = {"train": 9_000, "dev": 872}
        change_record(folder, data={"revision": None, "rows": rows, "train": 9_000})
    (table,) = tables(read_runs(tmp_path))
    assert not list(departures(table, LORA, "sst2"))


def test_drawn_weights_depart_from_nothing(tmp_path: Path) -> None:
    median_runs(tmp_path, (50.0, 50.1, 50.2))
    for folder in tmp_path.glob("runs/*/*/*/*/*/*/s*"):
        change_record(folder, model={"revision": None, "random_weights": True})
    (table,) = tables(read_runs(tmp_path))
    assert not list(departures(table, LORA, "sst2"))


def test_a_start_from_another_run_is_no_departure(tmp_path: Path) -> None:
    marks = {"data": "d" * 64, "model": "e" * 64, "init_from": "a" * 64}
    median_runs(tmp_path, (50.0, 50.1, 50.2), fingerprints=marks)
    (table,) = tables(read_runs(tmp_path))
    assert not list(departures(table, LORA, "sst2"))


def test_every_published_adapter_of_a_backbone_of_ours_has_known_targets() -> None:
    # A row without its target matrices would be compared with other matrices of ours.
    found = {
        (n.source[:4], n.method): n.target
        for n in numbers()
        # GDLoRA's and Flat-LoRA's are second-hand, which is noted: nothing contradicts them. Nor
        # FedEx-LoRA's, which have no spread.
        if n.method in ("full", "lora", "adalora") and n.source[:4] in ("LoRA", "AdaL", "SoRA")
    }
    assert found == {
        ("LoRA", "full"): "none",
        ("LoRA", "lora"): "q+v",
        ("AdaL", "full"): "none",
        ("AdaL", "lora"): "all",
        ("AdaL", "adalora"): "all",
        ("SoRA", "full"): "none",
        ("SoRA", "lora"): "all",
        ("SoRA", "adalora"): "all",
    }


@pytest.mark.parametrize("case", ["no spread", "noted", "other size", "generated data", "last"])
def test_what_was_not_measured_alike_is_never_contradicted(case: str, tmp_path: Path) -> None:
    changes: dict[str, object] = {
        "other size": {"params": 351_000},  # 0.4M where the paper prints 0.3M
        "generated data": {"data": "mini"},
    }.get(case, {})
    task = {"noted": "rte"}.get(case, "sst2")
    scores = (50.0, 50.1, 50.2)
    if case == "no spread":
        for seed, score in enumerate(scores, 1):
            write_run(tmp_path, "full", seed, score / 100, model="roberta_base", budget="none")
    else:
        median_runs(tmp_path, scores, task=task, **changes)
    (table,) = tables(read_runs(tmp_path), View("last") if case == "last" else None)
    row = Row("full", "none") if case == "no spread" else LORA
    # The cell is there: it is not for want of scores.
    assert table.values(row, task)
    assert not list(departures(table, row, task))


def test_a_number_is_of_as_many_seeds_as_its_protocol_says_and_no_other_protocol_is_ours() -> None:
    ours = next(n for n in numbers() if published._can_be_contradicted(n))
    assert ours.seeds == 5
    assert replace(ours, protocol="mean of 3 trials, best dev").seeds == 1  # trials of what?
    for change in ({"protocol": "mean of 3 seeds"}, {"note": "copied"}, {"start": "mnli"}):
        assert not published._can_be_contradicted(replace(ours, **change))
    for unknown in ({"value": None}, {"spread": None}):
        assert not published._can_be_contradicted(replace(ours, **unknown))
