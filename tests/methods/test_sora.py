"""SoRA beside numbers of its released code, and beside a NumPy reference over a whole schedule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import attach_method, layer_of, linears, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget
from dora.adapters.changes import Mask, Remove, apply
from dora.adapters.plan import Plan
from dora.methods.base import RunInfo
from dora.methods.sora import SoRA, exact_threshold, released_threshold
from runs import cut, only_run, run, same_files, small

TOTAL, END = 24, 12  # steps of a run, and of its window


def attach(budget: str = "r4", total_steps: int = TOTAL, **changes: Any) -> tuple[Any, SoRA]:
    """Returns (a tiny RoBERTa, SoRA attached to it)."""
    model = tiny("roberta")
    return model, attach_method(model, "sora", budget, RunInfo(total_steps, 3), **changes)


def with_gates(*gates: list[float], **changes: Any) -> SoRA:
    """Returns SoRA on as many matrices of a tiny model as there are lists of gates."""
    model = tiny("roberta")
    matrices = linears(model)[: len(gates)]
    ranks = tuple(len(values) for values in gates)
    # A run that begins at another's ranks aims at no more than these.
    target = min(len(gates), sum(ranks))
    plan = Plan(Budget(rank=1), matrices, ranks, None, target, at_most=True)
    method = SoRA(settings_of("sora", **changes), model, plan, RunInfo(TOTAL, 3))
    for layer, values in zip(method.layers.values(), gates, strict=True):
        layer.g.data = torch.tensor(values)
    return method


def gates_of(method: SoRA) -> torch.Tensor:
    """Returns all gates, (number,)."""
    return torch.cat([layer.g.detach() for layer in method.layers.values()])


@pytest.mark.usefixtures("float64")
def test_output_and_gradients_equal_the_released_codes() -> None:
    layer = layer_of(2, 2, 2, scale=2.0)
    layer.base.weight.data.zero_()
    layer.base.bias.data.zero_()
    layer.A.data = torch.tensor([[1.0, 2], [3, -1]])
    layer.B.data = torch.tensor([[1.0, 0], [2, -1]])
    layer.g.data = torch.tensor([0.5, -2])
    y = layer(torch.tensor([[1.0, -1]]))
    y.backward(torch.ones(1, 2))
    assert y.tolist() == [[-1, 14]]
    assert layer.g.grad.tolist() == [-6, -8]
    assert layer.A.grad.tolist() == [[3, -3], [4, -4]]
    assert layer.B.grad.tolist() == [[-1, -16], [-1, -16]]
    assert layer.delta().tolist() == [[1, 2], [14, 0]]


def test_both_thresholds_equal_those_worked_out() -> None:
    g = torch.tensor([1, -0.75, 0.5, 0.375, 0.25, 0.125, -0.25, -0.3125, 0])
    released = [0.75, -0.5, 0.25, 0, 0.25, 0, -0.25, 0, 0]
    exact = [0.75, -0.5, 0.25, 0.125, 0, 0, 0, -0.0625, 0]
    assert released_threshold(g, 0.25).tolist() == released
    assert exact_threshold(g, 0.25).tolist() == exact
    assert torch.equal(released_threshold(g, 0.0), g)
    assert torch.equal(exact_threshold(g, 0.0), g)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("prox", "expected"),
    [
        ("released", [0.7000269908, 0.5266141275, 0]),
        ("exact", [0.70000001, 0.526633697, -0.024413679]),
    ],
)
def test_two_steps_equal_the_released_optimizers(prox: str, expected: list[float]) -> None:
    method = with_gates([1.0, 0.5, 0.0], prox=prox, xi=0.05)
    (layer,) = method.layers.values()
    for step, slope in enumerate(([0.2, -0.2, 0.0], [0.2, 0.1, 0.3]), 1):
        layer.g.grad = torch.tensor(slope)
        method.update(step, 0.1)
    np.testing.assert_allclose(layer.g.detach(), expected, rtol=0, atol=6e-10)


def test_the_penalty_is_eta_times_the_mean_size_of_all_gates_dead_ones_included() -> None:
    method = with_gates([0.5, -2.0], [1.0, 0.0], l1_weight=10)
    penalty = method.penalty(1)
    assert penalty is not None
    assert penalty.item() == 8.75
    penalty.backward()
    slopes = [layer.g.grad.tolist() for layer in method.layers.values()]
    assert slopes == [[2.5, -2.5], [2.5, 0]]
    # Each live gate is pulled as hard as before when others are taken out.
    keep = [torch.tensor([True, False]), torch.tensor([True, False])]
    apply(Remove(keep), method.layers.values())
    penalty = method.penalty(2)
    assert penalty is not None
    assert penalty.item() == 3.75
    assert with_gates([1.0], l1_weight=0).penalty(1) is None


def test_one_scale_serves_unequal_ranks_alpha_over_the_largest() -> None:
    method = with_gates([1.0], [1.0, 1.0, 1.0, 1.0], [], alpha=6.0)
    assert {layer.scale for layer in method.layers.values()} == {6 / 4}


def test_start_values_are_those_of_the_released_code() -> None:
    _, method = attach("r8")
    for layer in method.layers.values():
        bound = 1 / math.sqrt(layer.A.shape[1])
        assert bound * 0.95 < layer.A.abs().max() <= bound
        assert layer.B.eq(0).all()
        assert layer.rank == 12
        assert layer.scale == 16 / 12
    # 144 draws: 5 standard errors of mean and deviation.
    assert gates_of(method).mean().item() == pytest.approx(0, abs=0.42)
    assert gates_of(method).std().item() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("changes", "xi"),
    [
        ({"shrink": 3.0}, 3 / END),
        ({"shrink": 3.0, "shrink_until": "end"}, 3 / TOTAL),
        ({"shrink": 3.0, "prune_end": 6}, 0.5),
        ({"shrink": 3.0, "xi": 3e-4}, 3e-4),
    ],
)
def test_gates_without_gradients_lose_the_shrinking_and_no_more(
    changes: dict[str, Any], xi: float
) -> None:
    _, method = attach(**{"shrink_until": "cut", **changes})
    before = gates_of(method)
    steps = TOTAL if method.settings.shrink_until == "end" else method.ranks_final_at
    for step in range(1, TOTAL + 1):
        method.update(step, 0.1)
    expected = before.sign() * (before.abs() - steps * xi).clamp_min(0)
    torch.testing.assert_close(gates_of(method), expected, rtol=0, atol=1e-5)


# --- a whole schedule beside NumPy ---


def numpy_step(
    g: np.ndarray, slope: np.ndarray, moments: list[np.ndarray], step: int, rate: float, prox: str
) -> np.ndarray:
    """Moves gates by AdamW as the two libraries write it, one rule for each `prox`."""
    m, v = moments
    m[:] = 0.9 * m + 0.1 * slope
    v[:] = 0.999 * v + 0.001 * slope**2
    if prox == "released":
        size = rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        return g - size * m / (np.sqrt(v) + 1e-6)
    return g - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


def numpy_prox(g: float, xi: float, prox: str) -> float:
    """Shrinks one gate, case by case."""
    if prox == "exact":
        return math.copysign(max(abs(g) - xi, 0), g)
    if abs(g) == xi:
        return g
    return math.copysign(abs(g) - xi, g) if abs(g) >= 2 * xi else 0.0


def numpy_cut(g: np.ndarray, costs: np.ndarray, total: int) -> np.ndarray:
    """Returns which live gates stay: largest first, each skipped that no longer fits."""
    keep = np.zeros(len(g), dtype=bool)
    for i in sorted(range(len(g)), key=lambda i: -abs(g[i])):
        if g[i] != 0 and costs[i] <= total:
            keep[i], total = True, total - costs[i]
    return keep


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize(
    ("prox", "until", "shrink"),
    [
        ("exact", "cut", 0.2),
        ("released", "end", 0.2),
        ("exact", "budget", 0.2),  # the window's end comes first
        ("exact", "budget", 1.5),  # the budget does
    ],
)
def test_gates_and_live_sets_equal_a_numpy_reference_over_a_whole_schedule(
    prox: str, until: str, shrink: float, remove: bool
) -> None:
    # Half of a component of the cheap matrices is left over.
    budget, after = 30 * 64 + 32, until == "end"
    settings = {"shrink": shrink, "prox": prox, "shrink_until": until, "remove": remove}
    model, method = attach(str(budget), gate_lr_ratio=3.0, **settings)
    matrices = linears(model)
    costs = np.repeat([m.cost for m in matrices], [q.rank for q in method.layers.values()])
    loop = loop_of(model, method, tokens(64), TOTAL, lr=2e-2, batch_size=4)
    slopes: list[torch.Tensor] = []
    rates: list[float] = []
    original = method.update

    def update(step: int, rate: float) -> None:
        slopes.append(torch.cat([layer.g.grad for layer in method.layers.values()]))
        rates.append(rate)
        original(step, rate)

    method.update = update  # type: ignore[method-assign]
    g = gates_of(method).numpy().copy()
    moments = [np.zeros_like(g), np.zeros_like(g)]
    xi = shrink / (TOTAL if after else END)
    held = np.arange(len(g))  # the gates that have not been removed
    deaths = revivals = rests = 0
    for step in range(1, TOTAL + 1):
        loop.train_step(step)
        slope = np.zeros_like(g)
        slope[held] = slopes[-1].numpy()
        moved = numpy_step(g, slope, moments, step, 3 * rates[-1], prox)
        rest = step > END or (until == "budget" and costs[g != 0].sum() <= budget)
        if after or not rest:
            moved = np.array([numpy_prox(x, xi, prox) for x in moved])
        if rest:
            moved[g == 0] = 0
        rests += rest
        deaths += ((g != 0) & (moved == 0)).sum()
        revivals += ((g == 0) & (moved != 0)).sum()
        g = moved
        if step == END:
            keep = numpy_cut(g, costs, budget)
            # The budget did bind, here or before.
            assert (0 < keep.sum() < (g != 0).sum()) == (shrink < 1)
            g[~keep] = 0
            held = np.flatnonzero(keep) if remove else held
        found = gates_of(method).numpy()
        np.testing.assert_allclose(found, g[held], rtol=0, atol=1e-12)
        assert ((found != 0) == (g[held] != 0)).all()
        for mine, theirs in zip(method.state().values(), moments, strict=True):
            np.testing.assert_allclose(mine, theirs[held], rtol=1e-9, atol=1e-18)
    assert deaths > 5
    assert revivals > 0 or shrink > 1
    assert rests == TOTAL - END if shrink < 1 else rests > TOTAL - END
    spent = int(costs[g != 0].sum())
    assert spent <= budget
    # Gates may still die behind the cut, and the last shrinking may take several.
    assert spent > budget - (96 if shrink < 1 else 0.2 * budget) or after


# --- what the loop is told ---


def test_live_sets_are_logged_in_the_window_and_the_cut_keeps_the_largest_live_gates() -> None:
    method = with_gates([0.5, -3.0, 0.0], [0.1, 0.2, -0.7])
    logged = method.after_step(END - 1)
    assert isinstance(logged, Mask)
    assert [k.tolist() for k in logged.keep] == [[True, True, False], [True, True, True]]
    before = method.state()["exp_avg"] = torch.arange(6.0)
    method.load({"exp_avg": before, "exp_avg_sq": before})
    change = method.after_step(END)
    assert isinstance(change, Remove)
    assert [k.tolist() for k in change.keep] == [[False, True, False], [False, False, True]]
    assert change.live_before == 5
    assert change.warning is None
    assert method.state()["exp_avg"].tolist() == [1, 5]
    assert method.after_step(END + 1) is None


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ([[0.0, 0.0, 0.0]], "all 3 components died before the cut, so the adapter is empty: "),
        ([[0.0, 0.5, 0.0]], None),  # one component, as many as the budget holds
        ([[0.0, 0.5], [0.0]], "takes up to 0.43 off each gate in 12 steps; lower it to use the wh"),
        ([[0.5]], None),  # as a start by `init_from` that fits the budget: nothing was to be taken
    ],
)
def test_a_cut_that_does_nothing_is_said_with_a_way_out(
    gates: list[list[float]], said: str | None
) -> None:
    change = with_gates(*gates).after_step(END)
    assert isinstance(change, Remove)
    assert change.warning is None if said is None else said in (change.warning or "")
    assert torch.cat(list(change.keep)).tolist() == [g != 0 for its in gates for g in its]


def test_a_cut_that_leaves_room_for_a_dead_gate_alone_has_not_done_nothing() -> None:
    model = tiny("roberta")
    matrices = linears(model)[3:5]
    assert [m.cost for m in matrices] == [64, 96]
    plan = Plan(Budget(params=170), matrices, (1, 2), None, 170, at_most=True)
    method = SoRA(settings_of("sora"), model, plan, RunInfo(TOTAL, 3))
    for layer, values in zip(method.layers.values(), ([0.0], [2.0, 1.0]), strict=True):
        layer.g.data = torch.tensor(values)
    change = method.after_step(END)
    assert isinstance(change, Remove)
    assert [k.tolist() for k in change.keep] == [[False], [True, False]]
    assert change.warning is None


def test_moments_that_are_taken_up_are_copied() -> None:
    method = with_gates([1.0])
    given = {name: torch.zeros(1) for name in method.state()}
    method.load(given)
    next(iter(method.layers.values())).g.grad = torch.ones(1)
    method.update(1, 0.1)
    assert all(t.all() for t in method.state().values())
    assert not any(t.any() for t in given.values())


def test_a_run_that_begins_without_components_goes_on_without_them() -> None:
    method = with_gates([], [])
    assert method.penalty(1) is None
    method.update(1, 0.1)
    change = method.after_step(END)
    assert isinstance(change, Remove)
    assert (change.live_before, change.warning) == (0, None)


def test_gates_stay_in_float32_under_bf16_where_one_step_of_shrinking_would_be_rounded_away() -> (
    None
):
    model, method = attach(xi=3e-4)
    before = gates_of(method)
    loop = loop_of(model, method, tokens(16), TOTAL, batch_size=8, precision="bf16")
    loop.train_step(1)  # of rate 0
    assert gates_of(method).dtype == torch.float32
    expected = before.sign() * (before.abs() - 3e-4).clamp_min(0)
    torch.testing.assert_close(gates_of(method), expected, rtol=0, atol=1e-6)


def test_a_run_whose_gates_all_die_ends_soundly_and_says_why(tmp_path: Path) -> None:
    # The first step takes 3.6 off each gate, more than any of them begins with.
    done = run(small(tmp_path, "method=sora", "budget=r2", "lr=1e-3", "method.shrink=43"))
    assert done["status"] == "done"
    assert done["params"]["adapter_end"] == 0
    assert set(done["ranks"]["end"].values()) == {0}
    why, empty = done["warnings"]
    assert "method.shrink=43 takes up to 43 off each gate in 12 steps; lower it" in why
    assert empty.startswith("no component is live")
    folder = only_run(tmp_path)
    said = (folder / "log.txt").read_text()
    assert said.count(f"warning: {why}\n") == 2  # when it happens, and at the end
    assert '"live_before": 0, "warning": "all 36 ' in (folder / "ranks.jsonl").read_text()


def test_a_run_cut_in_the_window_at_its_end_and_behind_it_ends_as_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("method=sora", "budget=r2", "method.shrink=0.1", "lr=1e-2")
    alone = run(small(tmp_path / "alone", *words))
    assert 0 < alone["params"]["adapter_end"] < alone["params"]["adapter_start"]
    for step in (7, 12, 17):
        cut(tmp_path / "cut", step, monkeypatch, *words)
    again = run(small(tmp_path / "cut", *words))
    assert again["resumed_from"] == [7, 12, 17]
    assert again["results"] == alone["results"]
    assert again["warnings"] == alone["warnings"] == []
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shrink": -1.0}, "method.shrink=-1.0 must lie in [0, inf); the released code uses 4.3"),
        ({"xi": -1e-3}, "method.xi=-0.001 must lie in [0, inf)"),
        ({"prox": "true"}, "method.prox=true must be one of exact, released"),
        ({"prune_end": 101}, "method.prune_end=101.0 is step 101 of a run of 100 steps"),
        ({"prune_end": 0.001}, "method.prune_end=0.001 is step 0 of a run of 100 steps"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_rule(changed: dict[str, Any], said: str) -> None:
    (problem,) = settings_of("sora", **changed).problems(100)
    assert said in problem
    assert settings_of("sora").problems(100) == []
    assert settings_of("sora", prune_end=100.0).problems(100) == []  # a cut after the last step
