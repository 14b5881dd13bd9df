"""The names of a sweep's runs in its lines, and the table of scores at its end."""

from __future__ import annotations

from dora.cli.summary import differing, labels, score_table
from dora.records.place import Place
from dora.records.study import Seen


def words(**typed: object) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in typed.items())


def place(task: str, method: str, budget: str, seed: int) -> Place:
    return Place("dir", task, "minilm", method, budget, "abcd1234", f"s{seed}")


def test_a_run_is_called_by_its_number_task_method_and_seed() -> None:
    runs = {
        words(task=task, method="lora", seed=seed): place(task, "lora", "r8", seed)
        for task in ("rte", "cola")
        for seed in (1, 2)
    }
    pending = list(runs)[1:]
    assert labels(runs, pending) == [
        "[1/3 rte lora s2]",
        "[2/3 cola lora s1]",
        "[3/3 cola lora s2]",
    ]


def test_what_else_differs_stands_in_the_label_where_it_is_short() -> None:
    runs = {
        words(method=method, budget=budget, lr=lr, **{"init_from": f"{'long/' * 9}{lr}"}): place(
            "rte", method, budget, 1
        )
        for method, budget in (("lora", "r2"), ("lora", "r4"), ("full", "none"))
        for lr in ("1e-3", "2e-3")
    }
    # The path of `init_from` differs too, and is too long for a label.
    assert labels(runs, list(runs)) == [
        "[1/6 rte lora s1 r2 lr=1e-3]",
        "[2/6 rte lora s1 r2 lr=2e-3]",
        "[3/6 rte lora s1 r4 lr=1e-3]",
        "[4/6 rte lora s1 r4 lr=2e-3]",
        "[5/6 rte full s1 lr=1e-3]",
        "[6/6 rte full s1 lr=2e-3]",
    ]


def test_an_experiment_is_named_by_its_family_and_only_where_families_differ() -> None:
    one = {words(experiment=f"lora_roberta_base/{task}") for task in ("rte", "cola")}
    assert set(map(tuple, differing(sorted(one)).values())) == {()}
    two = sorted({words(experiment=f"{family}/rte") for family in ("lora_x", "dora_x")})
    assert list(differing(two).values()) == [["dora_x"], ["lora_x"]]


def test_the_table_has_means_over_seeds_and_a_dash_for_a_score_that_is_missing() -> None:
    def seen(task: str, method: str, budget: str, seed: int, score: float | None) -> Seen:
        metric = "accuracy" if task == "rte" else "matthews_correlation"
        found = None if score is None else {metric: score}
        return Seen(place(task, method, budget, seed), "done" if score else "failed", score=found)

    runs = [
        seen("rte", "full", "none", 1, 0.5),
        seen("rte", "full", "none", 2, 0.75),
        seen("cola", "lora", "r8", 1, 0.125),
        seen("rte", "lora", "r8", 1, None),
    ]
    # `n` is alike for all runs, so it is no column; means are exact in binary, so is the text.
    table = score_table({words(n=0, seed=i): s for i, s in enumerate(runs)})
    assert table == [
        "method  budget  CoLA Mcc   RTE acc",
        "full    –       –          62.50 (2)",
        "lora    r8      12.50 (1)  –",
    ]
    assert score_table({words(seed=1): runs[-1]}) == []


def test_runs_that_differ_in_a_setting_are_not_averaged() -> None:
    table = score_table(
        {
            words(lr=lr): Seen(place("rte", "lora", "r8", 1), "done", score={"accuracy": score})
            for lr, score in (("1e-3", 0.5), ("2e-3", 0.7))
        }
    )
    assert table[1:] == ["lora    r8      lr=1e-3  50.00 (1)", "lora    r8      lr=2e-3  70.00 (1)"]


def test_budgets_that_look_alike_are_not_averaged() -> None:
    table = score_table(
        {
            words(budget=budget): Seen(
                place("rte", "lora", budget, 1), "done", score={"accuracy": score}
            )
            for budget, score in (("331776", 0.5), ("332000", 0.7))
        }
    )
    assert [line.split()[-2:] for line in table[1:]] == [["50.00", "(1)"], ["70.00", "(1)"]]


def test_scores_of_runs_that_predict_one_class_are_marked() -> None:
    found = {
        words(seed=seed): Seen(
            place("rte", "lora", "r8", seed), "done", score={"accuracy": 0.5}, degenerate=why
        )
        for seed, why in ((1, None), (2, "all 277 predictions are 'entailment'"))
    }
    assert score_table(found)[1:] == [
        "lora    r8      50.00* (2)",
        "* at least one run predicts a single class or value (a correlation then counts as 0), or has logits that are not finite",
    ]
