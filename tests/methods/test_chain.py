"""Chain of LoRA: a case worked in exact fractions, LoRA itself, knots, and what a run leaves."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import attach_method, batches, linears, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget
from dora.adapters.changes import Renew, apply
from dora.adapters.lowrank import LowRankLinear
from dora.methods.base import Method, RunInfo
from dora.methods.chain import Chain, knots, split
from dora.methods.schedule import Schedule
from runs import cut, only_run, refused, run, same_files, small, small_words

RUN = RunInfo(20, 3, Schedule("linear", 0.06))  # of the schedule that `loop_of` has


def attach(
    model: nn.Module, name: str = "chain", budget: str = "r4", run: RunInfo = RUN, **given: Any
) -> Method:
    """Returns a method attached to the model, whose head is trained too."""
    return attach_method(model, name, budget, run, **given)


def test_two_links_worked_in_exact_fractions() -> None:
    # W0 = I, s = 1, loss ½‖Wx − y‖², SGD with rate ¼: every value is a dyadic fraction.
    x, y = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])
    base = nn.Linear(2, 2, bias=False)
    base.weight.data = torch.eye(2)
    layer = LowRankLinear(base, 1, 1.0, 0.0, gated=False)
    layer.A.data = torch.tensor([[1.0, 0.0]])
    optimizer = torch.optim.SGD(layer.factors().values(), lr=0.25)

    def train(steps: int) -> float:
        for _ in range(steps):
            (layer(x) - y).pow(2).sum().div(2).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (layer(x) - y).pow(2).sum().div(2).item()

    assert train(2) == 0.2308502197265625
    assert layer.A.tolist() == [[1.09375, 0.09375]]
    assert layer.B.tolist() == [[0.4375], [-0.4375]]
    start = {"A": torch.tensor([[0.0, 1.0]]), "B": torch.zeros(2, 1)}
    apply(Renew([start]), [layer], optimizer)
    assert train(1) == pytest.approx(0.1298532485961914, rel=1e-6)
    assert layer.A.tolist() == [[0.0, 1.0]]  # its gradient is 0 while B is
    assert layer.B.tolist() == [[0.1201171875], [-0.1201171875]]
    A, B = layer.stored()
    assert A.tolist() == [[1.09375, 0.09375], [0.0, 1.0]]
    assert B.tolist() == [[0.4375, 0.1201171875], [-0.4375, -0.1201171875]]
    W = torch.tensor([[1.478515625, 0.1611328125], [-0.478515625, 0.8388671875]])
    torch.testing.assert_close(torch.eye(2) + layer.delta(), W, rtol=0, atol=1e-7)


def test_knots_divide_a_run_into_links_of_equal_lengths() -> None:
    assert knots(20, 2) == [0, 10, 20]
    assert knots(10, 3) == [0, 3, 6, 10]
    assert knots(7, 1) == [0, 7]


def rates(restart: str, links: int = 2, shape: str = "linear", warmup: float = 0.2) -> list[float]:
    """Returns the rate's share of its peak in each of 20 steps."""
    run = RunInfo(20, 3, Schedule(shape, warmup))
    method = attach(tiny("roberta"), run=run, links=links, restart=restart)
    return [method.learning_rate(i, run.schedule.share(i, 20)) for i in range(1, 21)]


def test_the_learning_rate_begins_anew_at_a_knot_as_its_setting_says() -> None:
    one = [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates("full") == pytest.approx([*one, *one])
    assert rates("full", warmup=4) == pytest.approx([*one, *one])  # in proportion to the run's
    usual = [Schedule("linear", 0.2).share(i, 20) for i in range(1, 21)]
    assert rates("none") == usual
    rewarmed = usual.copy()
    rewarmed[10] *= 0.5  # w = 2 of the second link's 10 steps: 1/2, then 1
    assert rates("rewarm") == pytest.approx(rewarmed)
    assert rates("rewarm", warmup=0) == [Schedule("linear").share(i, 20) for i in range(1, 21)]
    for restart in ("full", "rewarm", "none"):
        assert rates(restart, links=1) == pytest.approx(usual)


@pytest.mark.parametrize(
    ("rank", "shares", "parts"),
    [
        (8, [1, 1], [4, 4]),
        (7, [1, 1, 1], [3, 2, 2]),
        (8, [6, 2], [6, 2]),
        (9, [6, 2], [7, 2]),
        (1, [1, 1], [1, 0]),
        (0, [1, 3], [0, 0]),
        (5, [1, 2, 7], [1, 1, 3]),  # 0.5, 1, 3.5: of equal remainders the earlier one
    ],
)
def test_a_rank_is_split_by_shares(rank: int, shares: list[int], parts: list[int]) -> None:
    assert split(rank, shares) == parts


def test_a_split_is_never_a_whole_component_off_its_share() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        shares = random.integers(1, 9, random.integers(1, 5)).tolist()
        rank = int(random.integers(0, 40))
        parts = split(rank, shares)
        assert sum(parts) == rank
        exact = [Fraction(rank * share, sum(shares)) for share in shares]
        assert all(abs(part - each) < 1 for part, each in zip(parts, exact, strict=True))


def trained_after(method: Method, model: nn.Module, steps: int, **given: Any) -> dict[str, Tensor]:
    """Returns the trained tensors after so many steps of a run's loop."""
    loop = loop_of(model, method, tokens(32), 20, lr=1e-2, batch_size=8, **given)
    for step in range(1, steps + 1):
        loop.train_step(step)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("budget", ["r3", "3k"])
def test_one_link_is_lora_bit_for_bit(dropout: float, budget: str) -> None:
    ends = []
    for name, own in (("lora", {}), ("chain", {"links": 1})):
        model = tiny("roberta")
        method = attach(model, name, budget, dropout=dropout, **own)
        ends.append(trained_after(method, model, 6))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_each_link_draws_an_a_of_its_own() -> None:
    method = attach(tiny("roberta"), links=4)
    drawn = [next(iter(method.layers.values())).A]
    for step in (5, 10, 15):
        change = method.after_step(step)
        assert isinstance(change, Renew)
        drawn.append(change.start[0]["A"])
    assert len({tuple(A.flatten().tolist()) for A in drawn}) == 4


@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_logits_stay_at_a_knot_and_a_new_link_begins_without_moments(
    architecture: str, dropout: float
) -> None:
    model = tiny(architecture)
    method = attach(model, links=3, dropout=dropout)
    loop = loop_of(model, method, tokens(32), 20, lr=1e-2, batch_size=8)
    parameters = dict(loop.stepper.parameters)
    batch = batches(1)[0]
    seen: list[Tensor] = []
    change = method.after_step

    def logits() -> Tensor:
        model.eval()
        with torch.inference_mode():
            return model(**batch).logits.clone()

    def watched(step: int) -> Any:
        seen.append(logits())
        return change(step)

    method.after_step = watched
    for step in range(1, 21):
        loop.train_step(step)
        factors = [p for layer in method.layers.values() for p in layer.factors().values()]
        if step in (6, 13):
            torch.testing.assert_close(logits(), seen[-1], rtol=1e-5, atol=1e-6)
            assert not any(p in loop.stepper.optimizer.state for p in factors)
            assert all(not layer.B.any() and layer.A.any() for layer in method.layers.values())
        else:
            assert all(p in loop.stepper.optimizer.state for p in factors)
        # The new factors live in the parameters that the optimizer knows.
        assert {n: id(p) for n, p in model.named_parameters() if p.requires_grad} == {
            n: id(p) for n, p in parameters.items()
        }
    # r4 in three links is 2 + 1 + 1.
    assert {(q.kept_rank, q.rank) for q in method.layers.values()} == {(3, 1)}
    assert method.ranks_final_at == 13


def test_links_draw_other_values_whose_spread_is_loras() -> None:
    method = attach(tiny("roberta", hidden=64), budget="r8")
    first = [layer.A.detach().clone() for layer in method.layers.values()]
    change = method.after_step(10)
    assert isinstance(change, Renew)
    for layer, A, start in zip(method.layers.values(), first, change.start, strict=True):
        bound = layer.base.in_features**-0.5
        assert start["A"].shape == A.shape
        assert not torch.equal(start["A"], A)
        assert 0.9 * bound < start["A"].abs().max() <= bound
    again = method.after_step(10)
    assert isinstance(again, Renew)
    assert all(torch.equal(a["A"], b["A"]) for a, b in zip(change.start, again.start, strict=True))


def test_bf16_keeps_what_a_tied_link_adds() -> None:
    # Rounded into the weight, an update of a thousandth of it would be lost.
    layer = LowRankLinear(nn.Linear(64, 64), 2, 1.0, 0.0, gated=False)
    nn.init.normal_(layer.A, std=0.01)
    nn.init.normal_(layer.B, std=0.01)
    delta = layer.delta()
    start = {"A": torch.randn(2, 64), "B": torch.zeros(64, 2)}
    apply(Renew([start]), [layer])
    layer.base.weight.data = torch.zeros(64, 64, dtype=torch.bfloat16)
    layer.base.bias.data = torch.zeros(64, dtype=torch.bfloat16)
    x = torch.randn(512, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x).float()
    torch.testing.assert_close(y, x @ delta.t(), rtol=0.05, atol=2e-4)


def test_the_budget_is_that_of_all_links_and_the_scale_loras() -> None:
    for budget in ("r4", "2000", "5000"):
        model, lora = tiny("roberta"), attach(tiny("roberta"), "lora", budget)
        method = attach(model, budget=budget, links=2)
        assert next(iter(method.layers.values())).scale == next(iter(lora.layers.values())).scale
        loop = loop_of(model, method, tokens(32), 20, batch_size=8)
        for step in range(1, 21):
            loop.train_step(step)
        assert method.ranks() == lora.ranks()


def test_a_link_without_a_component_is_refused() -> None:
    matrices, run = linears(tiny("roberta")), RunInfo(20, 3)
    for given, said in (
        ({"links": 3}, r"method\.links=3: budget=r2 .* leaves link 3 without any; chain fewer"),
        ({"shares": [3, 1]}, r"method\.shares=\[3,1\]: .* link 2 without any; give it a larger"),
        ({"links": 3, "shares": [3, 1, 1]}, r"method\.links=3: .*; chain fewer links"),
    ):
        with pytest.raises(ValueError, match=said):
            Chain.plan(settings_of("chain", **given), Budget.parse("r2"), matrices, run)


@pytest.mark.parametrize(
    ("links", "warmup", "steps"),
    [
        (3, 0.85, 6),  # of 6, 7 and 7 steps
        (20, 0.06, 1),
    ],
)
def test_a_shortest_link_that_is_all_warm_up_is_refused(
    links: int, warmup: float, steps: int
) -> None:
    run = RunInfo(20, 3, Schedule("linear", warmup))
    with pytest.raises(ValueError, match=rf"is {steps} of the shortest link's {steps} step"):
        Chain.plan(
            settings_of("chain", links=links), Budget.parse("r20"), linears(tiny("roberta")), run
        )


def test_every_mistake_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    words = small_words(
        tmp_path,
        "method=chain",
        "method.restart=half",
        "method.shares=[1,0,2]",
        "init_from=elsewhere",
    )
    problems = refused(*words)
    assert len(problems) == 4
    assert problems[0].startswith("method.restart=half must be one of full, rewarm, none")
    assert problems[1].startswith("method.shares=[1,0,2] must have one number for each of")
    assert problems[2].startswith("method.shares=[1,0,2] must hold whole numbers from 1")
    said = (
        "init_from=elsewhere: method=chain cannot begin with the tensors that a run stores; merge"
    )
    assert problems[3].startswith(said)
    words = small_words(tmp_path, "method=chain", "method.links=25")
    assert refused(*words)[0].startswith("method.links=25 must lie in [1, 25)")


WORDS = ("method=chain", "method.links=3", "budget=r4", "lr=1e-2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run of knots after steps 8 and 16; returns its directory."""
    place = tmp_path_factory.mktemp("chain")
    run(small(place, *WORDS))
    return only_run(place)


@pytest.mark.parametrize(
    "step", [8, 20, *(pytest.param(s, marks=pytest.mark.slow) for s in (7, 9, 16))]
)
def test_a_run_cut_about_a_knot_ends_as_one_left_alone(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, step, monkeypatch, *WORDS)
    assert run(small(tmp_path, *WORDS))["resumed_from"] == [step]
    same_files(finished, only_run(tmp_path))


def test_the_record_counts_the_largest_link_wherever_it_stands(tmp_path: Path) -> None:
    record = run(small(tmp_path, "method=chain", "method.shares=[1,3]", "budget=r4", "max_steps=4"))
    params = record["params"]
    assert params["trained_at_once"] * 4 == params["stored"] * 3


def test_the_record_tells_stored_from_trained(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    params = record["params"]
    # 2 + 1 + 1 of 4 components a matrix: the first link is the largest.
    assert params["trained_at_once"] * 2 == params["stored"]
    assert params["trained_in_all"] == params["stored"] == params["adapter_end"]
    assert params["in_peft_file"] == params["stored"]
    assert set(record["ranks"]["start"].values()) == {2}
    assert set(record["ranks"]["end"].values()) == {4}
    assert record["evaluations"]["from_step"] == 16  # the last knot
    lines = [json.loads(line) for line in (finished / "ranks.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(8, 36), (16, 48)]
