"""Federated runs: who trains when, the server between clients, and what a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import linears, loop_of, tiny, tokens, train_head_only
from dora.adapters.budget import Budget
from dora.config import Config, FedConfig, TaskConfig
from dora.data.tokens import Tokens
from dora.errors import Stopped
from dora.method_choice import MethodChoice, packaged
from dora.methods.base import Method, RunInfo
from dora.process.signals import StopSignals
from dora.training.course import Course, FederatedCourse
from dora.training.federated_loop import FederatedLoop
from dora.training.federation import Federation
from dora.training.processes import World
from dora.training.step import Setup
from runs import cut, only_run, refused, run, same_files, small, small_words, together

LABELS = np.array([0] * 60 + [1] * 40)


def federation(steps: int = 120, seed: int = 1, **fed: Any) -> Federation:
    """Returns the federation of a run on 100 rows of two classes."""
    return Federation.of(FedConfig(**fed), LABELS, seed, steps)


def test_steps_lie_in_rounds_clients_and_local_steps() -> None:
    f = federation(clients=2, local_steps=5)
    assert (f.rounds, f.selected, f.total_steps) == (12, 2, 120)
    places = [f.place(step) for step in range(1, 121)]
    assert [(p.round, p.slot, p.local) for p in places] == [
        (t, s, e) for t in range(12) for s in range(2) for e in range(5)
    ]
    assert {p.client for p in places if p.slot == 1} == {1}
    sizes = [len(rows) for rows in f.rows]
    assert places[0].share == sizes[0] / 100
    assert places[5].share == sizes[1] / 100


def test_selected_clients_are_drawn_as_the_specification_says() -> None:
    f = federation(400, seed=3, clients=8, fraction=0.5, partition="iid")
    for t, clients in enumerate(f.chosen):
        draw = np.random.default_rng([3, 0x5E1, t]).choice(8, 4, replace=False)
        assert clients == sorted(draw.tolist())
    # A client's own steps count on from round to round in which it takes part.
    taken: dict[int, int] = {}
    for step in range(1, f.total_steps + 1):
        place = f.place(step)
        assert f.step_of_client(place) == taken.get(place.client, 0)
        taken[place.client] = taken.get(place.client, 0) + 1


def test_a_client_without_rows_takes_no_part() -> None:
    f = federation(600, seed=4, clients=30, alpha=0.05)
    empty = {k for k, rows in enumerate(f.rows) if not len(rows)}
    assert empty
    assert not empty & {k for clients in f.chosen for k in clients}
    assert f.selected == 30 - len(empty)


def test_a_run_shorter_than_a_round_is_refused(tmp_path: Path) -> None:
    words = small_words(tmp_path, "method=fedit", "budget=r2", "max_steps=20", "fed.local_steps=10")
    [problem] = refused(*words)
    assert problem.startswith("a round of 3 clients with fed.local_steps=10 has 30 steps")
    words = small_words(tmp_path, "method=fedit", "fed.clients=0", "fed.fraction=2", "fed.alpha=0")
    assert [text.split("=")[0] for text in refused(*words)] == [
        "fed.clients",
        "fed.fraction",
        "fed.alpha",
    ]


def course(batch_size: int = 8, warmup: float = 0.2, **fed: Any) -> FederatedCourse:
    """Returns the course of a run on 100 rows of unequal lengths."""
    config = Config(
        task=TaskConfig("sst2"),
        batch_size=batch_size,
        warmup=warmup,
        schedule="linear",
        fed=FedConfig(**fed),
    )
    lengths = np.random.default_rng(0).integers(5, 20, 100)
    return FederatedCourse(config, lengths, Federation.of(config.fed, LABELS, 1, 120))


def test_a_clients_steps_go_through_its_own_rows_epoch_by_epoch() -> None:
    c = course(clients=3, local_steps=4)
    seen: dict[int, list[np.ndarray]] = {}
    for step in range(1, c.federation.total_steps + 1):
        place = c.federation.place(step)
        seen.setdefault(place.client, []).append(c.rows(step))
    for client, batches in seen.items():
        own = c.federation.rows[client]
        epoch = math.ceil(len(own) / 8)
        for at in range(0, len(batches) - epoch + 1, epoch):
            rows = np.concatenate(batches[at : at + epoch])
            assert np.array_equal(np.sort(rows), own)
    # Another course gives equal rows for any step alone: nothing is kept from step to step.
    other = course(clients=3, local_steps=4)
    for step in (77, 3, 50):
        assert np.array_equal(other.rows(step), c.rows(step))


def test_a_client_of_few_rows_trains_on_batches_of_all_of_them() -> None:
    c = course(batch_size=64, clients=3, local_steps=4)
    for step in range(1, 13):
        own = c.federation.rows[c.federation.place(step).client]
        assert len(c.rows(step)) <= min(64, len(own))


def test_rates_follow_one_schedule_over_all_rounds_or_one_in_each() -> None:
    c = course(clients=2, local_steps=5)  # 12 rounds, 60 steps of each client
    plain = Course(c.config, c.lengths, 60)
    whole = [plain.share(i) for i in range(1, 61)]
    for slot in range(2):
        mine = [s for s in range(1, 121) if c.federation.place(s).slot == slot]
        assert [c.share(s) for s in mine] == pytest.approx(whole)
    each = course(clients=2, local_steps=5, restart="round")
    part = [Course(c.config, c.lengths, 5).share(i) for i in range(1, 6)]
    assert [each.share(s) for s in range(1, 121)] == pytest.approx(part * 24)
    # A warm-up in steps is in proportion to what a client takes of the run.
    steps = course(clients=2, local_steps=5, warmup=24)
    assert [steps.share(s) for s in range(1, 121)] == [c.share(s) for s in range(1, 121)]


def test_only_rounds_ends_are_evaluated_and_saved() -> None:
    c = course(clients=2, local_steps=5)
    assert [s for s in range(1, 121) if c.whole(s)] == list(range(10, 121, 10))
    assert [s for s in range(1, 121) if c.crosses(s, 25)] == [30, 50, 80, 100]
    assert [s for s in range(1, 121) if c.crosses(s, 3)] == list(range(10, 121, 10))


# --- the loop ---


def attach(model: nn.Module, name: str = "fedit", budget: str = "r2", **given: Any) -> Method:
    """Returns a method attached to the model, whose head is trained too."""
    train_head_only(model)
    chosen = packaged(name, **given)
    run = RunInfo(40, 3)
    plan = chosen.kind.plan(chosen.settings, Budget.parse(budget), linears(model), run)
    return chosen.kind(chosen.settings, model, plan, run)


def federated(
    model: nn.Module, method: Method, train: Tokens, steps: int, batch_size: int, **fed: Any
) -> FederatedLoop:
    """Returns a federated loop that keeps no record and evaluates nothing."""
    plain = loop_of(model, method, train, steps, lr=0.1, batch_size=batch_size)
    config = Config(
        task=TaskConfig("sst2"),
        method=MethodChoice("any", type(method), None),
        batch_size=batch_size,
        schedule="constant",
        warmup=0,
        clip=0,
        fed=FedConfig(**fed),
    )
    assert train.label is not None
    f = Federation.of(config.fed, train.label, config.seed, steps)
    own = FederatedCourse(config, train.lengths, f)
    world = World(0, 1, torch.device("cpu"))
    setup = Setup(
        config,
        config.kind,
        model,
        plain.setup.head,
        method,
        None,
        0.1,
        train,
        {},
        {},
        f.total_steps,
        world,
        own,
    )
    return FederatedLoop(setup, None, print)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Returns copies of the trained tensors."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.usefixtures("float64")
def test_one_local_sgd_step_is_one_step_on_the_union() -> None:
    train = tokens(40)
    ends = []
    for clients in (3, 1):
        model = tiny("roberta")
        loop = federated(
            model, attach(model), train, 4 * clients, 64, clients=clients, local_steps=1
        )
        loop.stepper.optimizer = torch.optim.SGD(
            [{"params": list(loop.stepper.parameters.values()), "peak": 0.1}], lr=0.1
        )
        for step in range(1, 4 * clients + 1):
            loop.train_step(step)
        ends.append(trained(model))
    for name, p in ends[0].items():
        torch.testing.assert_close(p, ends[1][name], rtol=0, atol=1e-12)


def test_one_client_is_plain_training_with_a_fresh_optimizer_in_each_round() -> None:
    train, model = tokens(40), tiny("roberta")
    loop = federated(model, attach(model), train, 12, 8, clients=1, local_steps=4)
    for step in range(1, 13):
        loop.train_step(step)
    other = tiny("roberta")
    plain = loop_of(
        other, attach(other), train, 12, lr=0.1, batch_size=8, schedule="constant", warmup=0, clip=0
    )
    plain.stepper.course = loop.course  # equal rows and rates
    for step in range(1, 13):
        if step in (5, 9):
            plain.stepper.optimizer.state.clear()
        plain.train_step(step)
    for name, p in trained(model).items():
        torch.testing.assert_close(p, trained(other)[name], rtol=0, atol=1e-6)


def test_clients_start_from_the_global_weights_and_are_averaged_by_rows() -> None:
    train, model = tokens(40), tiny("roberta")
    method = attach(model)
    loop = federated(model, method, train, 24, 8, clients=3, local_steps=4)
    start, ends = trained(model), []
    begun: list[dict[str, Tensor]] = []
    forward = loop.stepper.take

    def take(step: int) -> Any:
        begun.append(trained(model))
        assert (not loop.stepper.optimizer.state) == (step % 4 == 1)
        found = forward(step)
        ends.append(trained(model))
        return found

    loop.stepper.take = take  # type: ignore[method-assign]
    for step in range(1, 13):
        loop.train_step(step)
    for first in (0, 4, 8):
        assert all(torch.equal(begun[first][n], start[n]) for n in start)
    shares = [len(rows) / 40 for rows in loop.course.federation.rows]
    for name, p in trained(model).items():
        want = sum(share * ends[i][name] for share, i in zip(shares, (3, 7, 11), strict=True))
        torch.testing.assert_close(p, want, rtol=0, atol=1e-6)
    assert not loop.stepper.optimizer.state


# --- whole runs ---

WORDS = (
    "method=fedit",
    "budget=r2",
    "lr=1e-2",
    "max_steps=26",
    "fed.clients=2",
    "fed.local_steps=3",
    "eval_every=7",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains four rounds of six steps; returns the run's directory."""
    place = tmp_path_factory.mktemp("fedit")
    run(small(place, *WORDS))
    return only_run(place)


def lines(folder: Path, split: str) -> list[dict[str, Any]]:
    """Returns the journal's lines of a split."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def test_a_run_is_whole_rounds_evaluated_at_their_ends(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["total_steps"] == 24
    assert [line["step"] for line in lines(finished, "dev")] == [12, 18, 24]
    server = lines(finished, "server")
    assert [(line["step"], line["round"]) for line in server] == [(6, 1), (12, 2), (18, 3), (24, 4)]
    assert all(0 <= line["bias"] < 1 for line in server)


def test_the_record_tells_clients_and_communication(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    f, params = record["federation"], record["params"]
    assert sum(client["rows"] for client in f["clients"]) == record["data"]["train"] == 96
    for client in f["clients"]:
        assert sum(client["classes"].values()) == client["rows"]
    assert (f["rounds"], f["selected"], f["local_steps"]) == (4, 2, 3)
    assert f["sequential_steps"] == 12
    each = params["trained_at_once"] + params["head"]
    assert f["values_up_a_round"] == f["values_down_a_round"] == 2 * each
    assert f["bytes_in_all"] == 4 * f["values_in_all"] == 4 * 4 * 4 * each


@pytest.mark.parametrize("method", ["fedit", "ffa_lora", "lora_fair"])
@pytest.mark.parametrize(("step", "resumed"), [(11, 6), (12, 12), (13, 12), (5, 0)])
def test_a_run_cut_about_a_rounds_end_ends_as_one_left_alone(
    method: str, step: int, resumed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, f"method={method}")
    run(small(tmp_path / "alone", *words))
    cut(tmp_path / "cut", step, monkeypatch, *words)
    again = run(small(tmp_path / "cut", *words))
    assert again["resumed_from"] == ([resumed] if resumed else [])
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "cut"))


def test_a_signal_inside_a_round_stops_at_once_and_the_round_is_repeated(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FederatedLoop.train_step
    signals = StopSignals()

    def signalled(self: FederatedLoop, step: int) -> Any:
        if step == 9:
            signals.received = 15
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(FederatedLoop, "train_step", signalled)
        with pytest.raises(Stopped, match="after step 9 of 24"):
            run(small(tmp_path, *WORDS, "checkpoint_every=1"), signals)
    assert run(small(tmp_path, *WORDS))["resumed_from"] == [6]
    same_files(finished, only_run(tmp_path))


def test_two_processes_train_the_same_rounds(tmp_path: Path) -> None:
    # Each process draws dropout of its own, so that there is none here.
    words = (*WORDS, "head_dropout=0")
    run(small(tmp_path / "one", *words))
    ended = together(tmp_path, *small_words(tmp_path / "two", *words))
    assert ended.returncode == 0, ended.stdout
    ours, theirs = (lines(only_run(tmp_path / name), "server") for name in ("one", "two"))
    assert [line["round"] for line in theirs] == [1, 2, 3, 4]
    for a, b in zip(ours, theirs, strict=True):
        assert a["bias"] == pytest.approx(b["bias"], rel=0.05)
