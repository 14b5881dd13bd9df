"""Notes of what differs between the rows of a table beside their methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dora.analysis.grouping import tables
from dora.analysis.table import Table
from dora.analysis.tables.costs import costs
from dora.analysis.tables.scores import scores
from dora.analysis.tables.unlike import sources, trained_on, unlike
from dora.records.finished import read_runs
from record_files import write_run

SETTINGS = {"limit_train": None, "batch_size": 32, "select": "dev", "weight_decay": 0.01}


def run_of(
    results: Path,
    method: str,
    budget: str = "r8",
    task: str = "rte",
    total_steps: int = 90,
    **config: Any,
) -> None:
    target = None if method == "full" else config.pop("target", ["q", "v"])
    whole = {"method": {"name": method}, **SETTINGS, "target": target, **config}
    write_run(
        results, method, 1, 0.8, task=task, budget=budget, config=whole, total_steps=total_steps
    )


def only_table(results: Path) -> Table:
    (found,) = tables(read_runs(results))
    return found


def test_settings_that_differ_between_the_rows_of_a_task_are_named_with_their_values(
    tmp_path: Path,
) -> None:
    for task in ("rte", "mrpc"):
        run_of(tmp_path, "full", "none", task)
        for budget in ("r4", "r8"):
            run_of(tmp_path, "lora", budget, task)
            run_of(tmp_path, "dora", budget, task, target=["q"] if budget == "r4" else ["q", "v"])
            run_of(
                tmp_path,
                "adalora",
                budget,
                task,
                limit_train=64,
                weight_decay=0.1,
                total_steps=20 if task == "rte" else 90,
            )
    notes = unlike(only_table(tmp_path))
    assert sorted(notes) == [
        "MRPC, RTE: limit_train differs: 64 (AdaLoRA), all (the rest)",
        "MRPC, RTE: target differs: q (DoRA (dynamic rank) r4), q+v (the rest)",
        "RTE: total_steps differs: 20 (AdaLoRA), 90 (the rest)",
    ]
    # Weight decay differs as well, but is a part of AdaLoRA's recipe. The notes stand below scores.
    assert set(notes) <= set(scores(only_table(tmp_path)).notes)


def test_nothing_is_said_of_what_is_alike_or_only_differs_from_task_to_task(tmp_path: Path) -> None:
    for task, steps in (("rte", 90), ("sst2", 500)):
        for method in ("full", "lora", "dora"):
            run_of(tmp_path, method, task=task, total_steps=steps, batch_size=steps)
    table = only_table(tmp_path)
    assert (unlike(table), sources(table)) == ([], [])


def test_federated_rows_whose_clients_got_their_rows_in_another_way_are_named(
    tmp_path: Path,
) -> None:
    fed = {"clients": 3, "fraction": 1.0, "partition": "dirichlet", "alpha": 0.5, "local_steps": 10}
    run_of(tmp_path, "lora")
    run_of(tmp_path, "fedit", fed=fed)
    run_of(tmp_path, "lora_fair", fed=fed)
    assert unlike(only_table(tmp_path)) == []
    run_of(tmp_path, "ffa_lora", fed={**fed, "partition": "iid", "clients": 5})
    assert unlike(only_table(tmp_path)) == [
        "RTE: fed.clients differs: 5 (ffa_lora), 3 (the rest)",
        "RTE: fed.partition differs: iid (ffa_lora), dirichlet (the rest)",
    ]


def test_rows_of_other_batches_are_named_whatever_their_key_is_called(tmp_path: Path) -> None:
    run_of(tmp_path, "lora", group_by_length=False)
    run_of(tmp_path, "dora", batching="random")
    assert unlike(only_table(tmp_path)) == []
    run_of(tmp_path, "adalora", batching="length")
    assert unlike(only_table(tmp_path)) == [
        "RTE: batching differs: length (AdaLoRA), random (the rest)"
    ]


def test_rows_of_another_head_clipping_or_decay_are_named_and_0_is_no_default(
    tmp_path: Path,
) -> None:
    run_of(tmp_path, "lora", head_dropout=None, clip=1.0, decay_all=False)
    run_of(tmp_path, "sora", head_dropout=None, clip=1.0, decay_all=False)
    run_of(tmp_path, "dora", head_dropout=0.0, clip=0.0, decay_all=True)
    assert unlike(only_table(tmp_path)) == [
        "RTE: head_dropout differs: 0 (DoRA (dynamic rank)), the model's (the rest)",
        "RTE: clip differs: 0 (DoRA (dynamic rank)), 1 (the rest)",
        "RTE: decay_all differs: true (DoRA (dynamic rank)), false (the rest)",
    ]


def test_a_start_from_another_run_is_a_difference(tmp_path: Path) -> None:
    write_run(tmp_path, "dora", 1, 0.8, task="rte")
    write_run(tmp_path, "lora", 1, 0.8, task="rte", fingerprints={"init_from": "a" * 64})
    assert unlike(only_table(tmp_path)) == [
        "RTE: init_from differs: aaaaaaaa (LoRA), none (the rest)"
    ]


def test_which_cells_are_of_which_arithmetic_is_said(tmp_path: Path) -> None:
    for task in ("rte", "mrpc"):
        run_of(tmp_path, "lora", task=task)
        run_of(tmp_path, "dora", task=task)
    write_run(tmp_path, "adalora", 1, 0.8, task="rte")
    table = only_table(tmp_path)
    assert sources(table) == []
    for row, task in (
        (("dora", "r8"), "rte"),
        (("dora", "r8"), "mrpc"),
        (("adalora", "r8"), "rte"),
    ):
        table.runs_of(row, task)[0]["arithmetic"] = 2 if row[0] == "dora" else 3
    assert sources(table) == [
        "arithmetic 2 of this package made DoRA (dynamic rank) on MRPC, RTE; "
        "arithmetic 3 of this package made AdaLoRA on RTE; "
        "arithmetic 1 the rest: one configuration gives other bits under each"
    ]
    table.runs_of(("lora", "r8"), "rte")[0]["arithmetic"] = (
        1  # as records from before the number was written
    )
    assert len(sources(table)) == 1


def test_several_commits_and_versions_of_torch_are_said(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8, versions={"torch": "2.8.0"})
    about = {
        "step": 0,
        "time": "2026-01-01T00:00:00+00:00",
        "host": "node",
        "device": "cpu",
        "world_size": 1,
    }
    # A run that was resumed under another commit was made by both.
    resumed = [{**about, "git": {"commit": c * 40, "dirty": False}} for c in "12"]
    write_run(tmp_path, "dora", 1, 0.8, versions={"torch": "2.9.1"}, starts=resumed)
    assert sources(only_table(tmp_path)) == [
        "made by 3 commits of this package: 0000000, 1111111, 2222222",
        "made by 2 versions of torch: 2.8.0, 2.9.1",
    ]


def test_several_kinds_of_processors_are_said_unless_a_gpu_did_the_work(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8, processor="one (AVX2)")
    write_run(tmp_path, "dora", 1, 0.8, processor="two (AVX512)")
    write_run(tmp_path, "adalora", 1, 0.8, processor="three (AVX2)", device="H100")
    # The third processor stands beside a GPU, which did the arithmetic.
    (said,) = sources(only_table(tmp_path))
    assert said == "made by 2 kinds of processors, whose last bits differ: one (AVX2), two (AVX512)"


def test_devices_and_processes_of_every_start_are_named_by_row_where_they_differ(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, "sora", 1, 0.8, device="cpu")
    assert trained_on(only_table(tmp_path)) == "cpu"
    first = {"step": 0, "time": "2026-01-01T00:00:00+00:00", "host": "node", "git": None}
    begun = {**first, "device": "H200", "world_size": 4}
    # Begun on another machine; the record's own device is that of the last start.
    write_run(tmp_path, "dora", 1, 0.8, starts=[begun, {**first, "device": "cpu", "world_size": 1}])
    table = only_table(tmp_path)
    said = "H200 in 4 processes and cpu (DoRA (dynamic rank)), cpu (the rest)"
    assert trained_on(table) == said
    assert costs(table).notes[0].startswith(f"on {said}; seconds: of training")
