"""Whole runs on the embedded model and data: the files they leave, and when they end."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from dora.errors import RunFailed, UserError
from dora.preparing.prepare import prepare
from runs import arrays, command, configure, lines, only_run, python, run, small


@pytest.mark.parametrize(
    ("method", "budget"),
    [
        ("lora", "r2"),
        ("dora", "r2"),
        ("adalora", "r2"),
        ("lora", "7000"),
        ("dora", "7000"),
        ("adalora", "7000"),
    ],
)
def test_the_stored_adapter_holds_what_the_budget_allows(
    method: str, budget: str, tmp_path: Path
) -> None:
    record = run(small(tmp_path, f"method={method}", f"budget={budget}"))
    tensors = safetensors.torch.load_file(
        only_run(tmp_path) / "adapter" / "adapter_model.safetensors"
    )
    stored = sum(t.numel() for name, t in tensors.items() if "lora_" in name)
    ranks = [t.shape[0] for name, t in tensors.items() if "lora_A" in name]
    assert stored == record["params"]["adapter_end"]
    if budget == "r2":
        assert sum(ranks) == 2 * 12
    else:
        assert 7000 - 384 < stored <= 7000  # a component costs 384 or 960 in this model


def test_the_same_run_typed_two_ways_is_one_directory(tmp_path: Path) -> None:
    one = prepare(small(tmp_path, "method=lora", "budget=0.02M", "target=[q,v]", "seed=3"))
    two = prepare(
        small(tmp_path, "method=lora", "budget=20_000", "target=v+q", "seed=3", "keep_model=true")
    )
    assert one.folder == two.folder
    assert one.folder != prepare(small(tmp_path, "method=lora", "budget=20k", "seed=3")).folder


def test_another_number_of_threads_is_another_run(tmp_path: Path) -> None:
    one, two = (prepare(small(tmp_path, f"threads={n}")).folder for n in (1, 2))
    assert one != two


def test_full_has_one_directory_whatever_the_budget_says(tmp_path: Path) -> None:
    folders = {
        prepare(small(tmp_path, "method=full", f"budget={b}")).folder for b in ("r2", "r8", "0.3M")
    }
    assert len(folders) == 1


def test_random_weights_are_another_model_in_paths_tables_and_notes(tmp_path: Path) -> None:
    record = run(small(tmp_path, "method=lora", "model.random_weights=true"))
    folder = only_run(tmp_path)
    assert folder.parts[-5] == record["config"]["model"] == "tiny_roberta-random"
    assert "tiny_roberta-random" in record["embedded"]


def test_a_done_run_is_left_as_it_is_and_force_repeats_it(tmp_path: Path) -> None:
    config = small(tmp_path, "method=lora")
    first = run(config)
    path = only_run(tmp_path) / "run.json"
    before = path.read_bytes()
    assert run(config) == first
    assert path.read_bytes() == before  # not even a time in it
    config.force = True
    again = run(config)
    assert again["results"] == first["results"]
    assert again["times"] != first["times"] or path.read_bytes() != before


def test_peak_memory_is_that_of_the_run_and_not_of_what_the_process_did_before(
    tmp_path: Path,
) -> None:
    big = np.ones(1 << 27)  # 1 GiB
    before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del big
    assert run(small(tmp_path, "method=lora", "max_steps=4"))["peak_memory_bytes"] < before - (
        1 << 28
    )


def test_evaluating_more_often_does_not_change_training(tmp_path: Path) -> None:
    often, seldom = (
        run(small(tmp_path / name, "method=dora", f"eval_every={n}"))
        for name, n in (("a", 2), ("b", 24))
    )
    losses = [
        [
            e["loss"]
            for e in lines(only_run(tmp_path / name) / "metrics.jsonl")
            if e["split"] == "train"
        ]
        for name in ("a", "b")
    ]
    assert losses[0] == losses[1]
    assert often["results"]["last"]["accuracy"] == seldom["results"]["last"]["accuracy"]


def test_heldout_selection_reports_the_development_set_once(tmp_path: Path) -> None:
    record = run(small(tmp_path, "method=lora", "select=heldout"))
    splits = {e["split"] for e in lines(only_run(tmp_path) / "metrics.jsonl")}
    assert splits == {"train", "heldout"}
    assert {"accuracy", "accuracy_heldout"} <= set(record["results"]["best"])
    assert "accuracy" in record["results"]["last"]


def test_heldout_rows_are_not_trained_on(tmp_path: Path) -> None:
    prepared = prepare(configure("task=wnli", "select=heldout", f"results={tmp_path}"))
    assert prepared.heldout_rows is not None
    assert not set(prepared.heldout_rows) & set(prepared.train_rows)


def test_mnli_is_scored_on_both_sets_and_predicts_ax(tmp_path: Path) -> None:
    record = run(small(tmp_path, "task=mnli", "method=lora", "max_steps=6"))
    assert {"accuracy", "accuracy_mm"} <= set(record["results"]["last"])
    saved = arrays(only_run(tmp_path))
    assert {"best/ax/logits", "best/test/logits", "best/test_mm/logits"} <= set(saved)
    assert "ax/labels" not in saved


def test_ranks_and_adapter_carry_over_from_a_pruned_run_but_not_its_head(tmp_path: Path) -> None:
    run(small(tmp_path / "mnli", "task=mnli", "method=dora", "budget=r2"))
    source = only_run(tmp_path / "mnli")
    ranks = json.loads((source / "run.json").read_text())["ranks"]["end"]
    record = run(
        small(tmp_path / "rte", "task=rte", "method=dora", "budget=r2", f"init_from={source}")
    )
    assert record["ranks"]["start"] == record["ranks"]["end"] == ranks
    # alpha over the source's start rank, ceil(1.5 * 2)
    assert record["scale"] == pytest.approx(8 / 3)
    assert not lines(only_run(tmp_path / "rte") / "ranks.jsonl")
    # The components keep their scale, so that another alpha would be recorded and do nothing.
    words = ("task=rte", "method=dora", "budget=r2", "method.alpha=16", f"init_from={source}")
    with pytest.raises(UserError, match=r"has another method.alpha \(8.0\); this run has 16.0"):
        prepare(small(tmp_path / "rte", *words))


def test_init_from_another_method_is_refused(tmp_path: Path) -> None:
    run(small(tmp_path, "method=lora"))
    with pytest.raises(UserError, match="has another method"):
        prepare(small(tmp_path, "method=dora", f"init_from={only_run(tmp_path)}"))


def test_full_keeps_its_model_only_if_asked(tmp_path: Path) -> None:
    run(small(tmp_path / "a", "method=full", "max_steps=4"))
    assert not (only_run(tmp_path / "a") / "model").exists()
    run(small(tmp_path / "b", "method=full", "max_steps=4", "keep_model=true"))
    folder = only_run(tmp_path / "b")
    run(small(tmp_path / "c", "task=rte", "method=full", "max_steps=4", f"init_from={folder}"))
    record = run(
        small(tmp_path / "d", f"model.path={folder / 'model'}", "method=lora", "max_steps=4")
    )
    assert record["status"] == "done"


def test_divergence_is_stopped_and_recorded(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="lower lr"):
        run(small(tmp_path, "task=stsb", "method=full", "lr=1e30", "clip=0", "warmup=0"))
    record = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert record["status"] == "diverged"
    assert "loss not finite at step 2" in record["reason"]
    assert "results" not in record


def test_early_stopping_ends_after_patience_evaluations_without_a_better_score(
    tmp_path: Path,
) -> None:
    run(small(tmp_path, "method=lora", "lr=1e-12", "eval_every=1", "patience=3"))
    logged = lines(only_run(tmp_path) / "metrics.jsonl")
    steps = [e["step"] for e in logged if e["split"] == "dev"]
    # Evaluations count from step 14; nothing is learnt, so none is better.
    assert steps[-1] == 14 + 3
    assert [e["step"] for e in logged if e["split"] == "train"] == [10, 17]  # every tenth, the last


@pytest.fixture(scope="module")
def typed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Returns results and output of a run as a user types it, all embedded, wandb offline."""
    results = tmp_path_factory.mktemp("typed")
    done = python(
        "-m",
        "dora.run",
        "task=wnli",
        "limit_train=32",
        "max_steps=4",
        "wandb=offline",
        f"results={results}",
        WANDB_SILENT="true",
    )
    assert done.returncode == 0, done.stderr
    return results, done


def test_wandb_offline_writes_a_run_under_results(
    typed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert list((typed[0] / "wandb").rglob("*.wandb"))


def test_the_command_says_first_and_last_that_everything_is_embedded(
    typed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    first, *_, last = typed[1].stdout.strip().splitlines()
    for line in (first, last):
        assert "embedded model tiny_roberta" in line
        assert "data mini" in line
        assert "data=hub" in line


@pytest.mark.parametrize("words", [["--help"], ["task=sst2", "--cfg", "job"]])
def test_help_and_the_composed_configuration_are_shown(words: list[str]) -> None:
    done = command("dora.run", *words)
    assert done.returncode == 0, done.stderr
    assert "budget: r8" in done.stdout
