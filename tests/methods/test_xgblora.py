"""XGBLoRA: draws and rounds beside published cases, and what a run leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from budgets import SHAPES, matrices_of
from torch import nn

from conftest import attach_method, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget, Matrix
from dora.adapters.changes import Renew, apply
from dora.adapters.lowrank import LowRankLinear
from dora.adapters.plan import Plan
from dora.methods.base import RunInfo
from dora.methods.schedule import Schedule
from dora.methods.xgblora import XGBLoRA
from runs import cut, only_run, refused, run, same_files, small, small_words

BASE = SHAPES["roberta-base"]


def planned(
    budget: str, matrices: tuple[Matrix, ...] = BASE, seed: int = 1, steps: int = 0, **given: Any
) -> Plan:
    """Returns the plan of a run."""
    settings = settings_of("xgblora", **given)
    return XGBLoRA.plan(settings, Budget.parse(budget), matrices, RunInfo(steps, seed))


def layers_at_start(plan: Plan) -> set[int]:
    """Returns the layers that the first round trains."""
    return {i // 6 for i, rank in enumerate(plan.start) if rank}


def attach(
    model: nn.Module, budget: str = "r2", steps: int = 24, seed: int = 3, **given: Any
) -> XGBLoRA:
    """Returns the method attached to the model, whose head is trained too."""
    return attach_method(model, "xgblora", budget, RunInfo(steps, seed), **given)


def selections(method: XGBLoRA, rounds: int, steps: int) -> list[set[int]]:
    """Returns the layers that each round trains, from the changes at its knots."""
    found = [{i // 6 for i, q in enumerate(method.layers.values()) if q.rank}]
    for j in range(1, rounds):
        change = method.after_step(j * steps // rounds)
        assert isinstance(change, Renew)
        found.append({i // 6 for i, start in enumerate(change.start) if len(start["A"])})
    return found


def test_layers_are_drawn_as_the_specification_says() -> None:
    # default_rng([1, 0xB005, t]).permutation(12)[:3] of numpy 2.4.6, t = 1, 2, 3.
    model = tiny("roberta", layers=12)
    method = attach(model, "r1", 40, seed=1)
    drawn = selections(method, 4, 40)
    assert drawn[:3] == [{5, 9, 10}, {2, 7, 11}, {2, 5, 10}]
    assert layers_at_start(planned("r1")) == drawn[0]
    assert drawn[3] == set(np.random.default_rng([1, 0xB005, 4]).permutation(12)[:3].tolist())


@pytest.mark.parametrize(
    ("layers", "rounds"), [(1, 96), (2, 48), (3, 32), (4, 24), (6, 16), (12, 8)]
)
def test_r8_of_twelve_layers_is_so_many_rounds(layers: int, rounds: int) -> None:
    plan = planned("r8", layers=layers)
    assert plan.note == f"{rounds} boosters, 0 steps or one more each"
    assert plan.end_range() == ((576, 576), (1_327_104, 1_327_104))
    assert plan.start_params == layers * 13_824
    assert len(layers_at_start(plan)) == layers


def test_a_quarter_of_the_layers_is_the_default() -> None:
    assert len(layers_at_start(planned("r8"))) == 3
    assert len(layers_at_start(planned("r8", SHAPES["minilm"]))) == 1
    assert len(layers_at_start(planned("r8", matrices_of("roberta", 32, 2)))) == 1


def test_the_last_round_takes_what_still_fits_in_drawn_order() -> None:
    plan = planned("0.3M", layers=1)
    # 21 whole boosters, then q, k, v, o of a layer and two attention matrices of the next.
    assert plan.params(plan.end) == 21 * 13_824 + 4 * 1_536 + 2 * 1_536 == 299_520
    assert plan.note is not None
    assert plan.note.startswith("22 boosters")
    ends = np.zeros((12, 6), dtype=int)
    for t in range(1, 22):
        ends[np.random.default_rng([1, 0xB005, t]).permutation(12)[0]] += 1
    first, second, *_ = np.random.default_rng([1, 0xB005, 22]).permutation(12)
    ends[first, :4] += 1
    ends[second, :2] += 1
    assert plan.end == tuple(ends.flatten())
    # A component that fits to the parameter is taken, too.
    assert planned("299520", layers=1).end == plan.end


def test_the_shortest_booster_has_five_steps() -> None:
    assert planned("r8", steps=32 * 5).note == "32 boosters, 5 steps or one more each"
    with pytest.raises(ValueError, match="32 boosters of 4 steps, and fewer than 5 are"):
        planned("r8", steps=32 * 5 - 1)


def test_a_budget_in_parameters_is_never_exceeded_and_leaves_less_than_a_component() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        shape = str(random.choice(["roberta-base", "minilm", "tiny", "q and v"]))
        params = int(random.integers(20_000, 400_000 if shape == "roberta-base" else 60_000))
        sampling = str(random.choice(["random", "balanced"]))
        layers = {"layers": int(random.choice([1, 2]))}
        seed = int(random.integers(100))
        plan = planned(str(params) + "e0", SHAPES[shape], seed, sampling=sampling, **layers)
        held = plan.params(plan.end)
        # No two matrices of one round are the same, so the gap may hold what the round has already.
        assert held <= params
        assert params - held < sum(m.cost for m in SHAPES[shape])


def test_balanced_rounds_take_every_layer_once_before_any_twice() -> None:
    model = tiny("roberta", layers=6)
    method = attach(model, "r2", 60, layers=2, sampling="balanced")
    drawn = selections(method, 6, 60)
    assert set.union(*drawn[:3]) == set.union(*drawn[3:]) == set(range(6))
    assert drawn[:3] != drawn[3:]


def test_seeds_draw_other_layers() -> None:
    assert len({frozenset(layers_at_start(planned("r8", seed=s))) for s in range(20)}) > 10


def test_two_rounds_of_scalar_layers_worked_by_hand() -> None:
    def layer(w: float) -> LowRankLinear:
        base = nn.Linear(1, 1, bias=False)
        base.weight.data = torch.tensor([[w]])
        return LowRankLinear(base, 0, 2.0, 0.0, gated=False)

    layers = [layer(w) for w in (1.0, 2.0, 3.0)]

    def train(ends: dict[int, tuple[float, float]]) -> None:
        """Begins a round on these layers, and sets what their training ends with."""
        start = [
            {"A": torch.ones(int(i in ends), 1), "B": torch.zeros(1, int(i in ends))}
            for i in range(3)
        ]
        apply(Renew(start), layers)
        for i, (a, b) in ends.items():
            layers[i].A.data.fill_(a)
            layers[i].B.data.fill_(b)

    train({0: (0.5, 0.25), 2: (1.0, -0.5)})
    train({0: (1.0, 0.125), 1: (0.5, 1.0)})
    assert [q(torch.ones(1)).item() for q in layers] == [1.5, 3.0, 2.0]
    assert [q.rank + q.kept_rank for q in layers] == [2, 1, 1]
    A, B = layers[0].stored()
    assert (A.tolist(), B.tolist()) == ([[0.5], [1.0]], [[0.5, 0.25]])
    assert layers[1].kept() == {}  # it was in no round before the last


def test_shrinkage_multiplies_a_booster_when_its_round_ends() -> None:
    ends = []
    for shrinkage in (1.0, 0.5):
        model = tiny("roberta")
        method = attach(model, shrinkage=shrinkage)
        loop = loop_of(model, method, tokens(32), 24, lr=1e-2, batch_size=8)
        for step in range(1, 7):
            loop.train_step(step)
        ends.append([layer.delta() for layer in method.layers.values()])
    for whole, half in zip(*ends, strict=True):
        torch.testing.assert_close(half, whole / 2, rtol=1e-6, atol=0)
    assert any(delta.any() for delta in ends[0])
    loop.train_step(7)  # a new booster begins at zero
    before = [layer.B.detach().clone() for layer in method.layers.values()]
    assert any(B.any() for B in before)
    assert method.after_step(24) is None  # the last booster shrinks too, and is not tied
    for layer, B in zip(method.layers.values(), before, strict=True):
        assert torch.equal(layer.B, B / 2)


def test_matrices_that_are_not_drawn_are_not_trained() -> None:
    model = tiny("roberta", layers=4)
    method = attach(model, "r1", 40)
    loop = loop_of(model, method, tokens(32), 40, lr=1e-2, batch_size=8, weight_decay=0.1)
    for step in range(1, 11):
        loop.train_step(step)
    drawn = {i // 6 for i, layer in enumerate(method.layers.values()) if layer.kept_rank}
    assert len(drawn) == 1
    held = [layer for layer in method.layers.values() if layer.kept_rank]
    assert len(held) == 6
    assert all(q.delta().any() for q in held)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget=r4"], r"makes 8 boosters of 3 steps, and fewer than 5 are mostly warm-up"),
        (["method.layers=3"], r"method\.layers=3: this model has 2 layers"),
        (["method.shrinkage=2"], r"method\.shrinkage=2\.0 must be above 0 and at most 1,"),
        (["method.sampling=fair"], r"method\.sampling=fair must be one of random, balanced"),
        (["method.layers=0"], r"method\.layers=0 must lie in"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(
    words: list[str], message: str, tmp_path: Path
) -> None:
    [problem] = refused(*small_words(tmp_path, "method=xgblora", "budget=r1", *words))
    assert re.search(message, problem), problem


def test_rounds_that_do_not_divide_the_layers_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        ValueError, match=r"budget=r1 is 12 boosters of one layer.*1, 2, 3, 4, 6, 12"
    ):
        planned("r1", layers=5)
    with pytest.raises(ValueError, match=r"balanced sampling needs a divisor of the model's 12"):
        planned("r5", layers=5, sampling="balanced")


def test_a_booster_that_is_all_warm_up_is_refused() -> None:
    settings, run = settings_of("xgblora", restart="full"), RunInfo(48, 1, Schedule("linear", 0.9))
    # Eight boosters of six steps.
    with pytest.raises(ValueError, match=r"warmup=0\.9 is 6 of the shortest link's 6 steps"):
        XGBLoRA.plan(settings, Budget.parse("r2"), BASE, run)


@pytest.mark.parametrize(("layers", "budget"), [(1, "r31"), (2, "r32"), (2, "55000")])
def test_draws_above_a_matrixs_full_rank_are_refused_with_what_fits(
    layers: int, budget: str
) -> None:
    matrices = matrices_of("roberta", 32, 3)
    with pytest.raises(ValueError, match=r"draws a matrix of rank 32 for 3\d boosters") as e:
        planned(budget, matrices, seed=3, layers=layers)
    found = re.search(r"at most (r\d+) or (\d+) parameters fit with this seed", str(e.value))
    assert found
    for fits in found.groups():
        plan = planned(fits, matrices, seed=3, layers=layers)
        assert plan.params(plan.end) == int(found[2])
        assert max(plan.end) <= 32
    with pytest.raises(ValueError, match="boosters of rank 1"):
        planned(f"r{int(found[1][1:]) + layers}", matrices, seed=3, layers=layers)
    assert max(planned("r32", matrices, layers=1, sampling="balanced").end) == 32


WORDS = ("method=xgblora", "budget=r2", "lr=1e-2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a run of four rounds of six steps; returns its directory."""
    place = tmp_path_factory.mktemp("xgblora")
    run(small(place, *WORDS))
    return only_run(place)


@pytest.mark.parametrize(
    "step", [6, 17, *(pytest.param(s, marks=pytest.mark.slow) for s in (5, 12))]
)
def test_a_run_cut_about_a_knot_ends_as_one_left_alone(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, step, monkeypatch, *WORDS)
    assert run(small(tmp_path, *WORDS))["resumed_from"] == [step]
    same_files(finished, only_run(tmp_path))


def test_the_record_tells_stored_from_trained(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    params, ranks = record["params"], record["ranks"]
    best = record["results"]["best"]["step"]
    assert best in (12, 18, 24)
    # A knot lies at every evaluation here, so the best one already has the next round's factors.
    assert sum(ranks["end"].values()) == 6 * min(4, best // 6 + 1)
    assert sum(ranks["last"].values()) == 24
    assert params["stored"] == params["in_peft_file"] == params["adapter_end"]
    assert params["trained_at_once"] * 4 == params["trained_in_all"] == params["adapter_last"]
    assert record["method"]["budget"] == "at_most"
    held = safetensors.torch.load_file(finished / "adapter" / "adapter_model.safetensors")
    lora = {name: t for name, t in held.items() if ".lora_" in name}
    assert sum(t.numel() for t in lora.values()) == params["stored"]
