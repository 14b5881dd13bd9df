"""Federated runs: the server between clients, and what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import attach_method, loop_of, tiny, tokens
from dora.configuration.groups import FedConfig
from dora.data.tokens import Tokens
from dora.errors import Diverged, RunFailed, Stopped, UserError
from dora.methods.base import Method, RunInfo
from dora.preparing.federation import Federation
from dora.process.signals import StopSignals
from dora.training import checkpoint
from dora.training.course import FederatedCourse
from dora.training.federated_loop import FederatedLoop
from dora.training.lines import Lines
from dora.training.selection import Selection
from runs import cut, left_alone, only_run, run, same_files, small, small_words, together


def attach(model: nn.Module, name: str = "fedit", budget: str = "r2", **given: Any) -> Method:
    """Returns a method attached to the model, whose head is trained too."""
    return attach_method(model, name, budget, RunInfo(40, 3), **given)


def federated(
    model: nn.Module, method: Method, train: Tokens, steps: int, batch_size: int, **fed: Any
) -> FederatedLoop:
    """Returns a federated loop that keeps no record and evaluates nothing."""
    plain = loop_of(
        model,
        method,
        train,
        steps,
        lr=0.1,
        batch_size=batch_size,
        schedule="constant",
        warmup=0,
        clip=0,
        fed=FedConfig(**fed),
    ).setup
    assert train.label is not None
    f = Federation.of(plain.config.fed, train.label, plain.config.seed, steps)
    course = FederatedCourse(plain.config, train.lengths, f)
    return FederatedLoop(replace(plain, course=course), None, Lines(None))


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
    plain.setup.course = loop.course  # equal rows and rates
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


def test_a_server_is_given_the_weights_at_which_its_round_began() -> None:
    train, model = tokens(40), tiny("roberta")
    method = attach(model)
    loop = federated(model, method, train, 8, 8, clients=2, local_steps=2)
    aggregate, begun, given = method.aggregate, [], []

    def noted(uploads: Any, shares: Any, before: Any) -> Any:
        given.append(before)
        return aggregate(uploads, shares, before)

    method.aggregate = noted  # type: ignore[method-assign]
    for step in range(1, 9):
        if step in (1, 5):
            begun.append(trained(model))
        loop.train_step(step)
    assert len(given) == 2
    for before, want in zip(given, begun, strict=True):
        assert before.keys() == want.keys()
        assert all(torch.equal(before[name], want[name]) for name in want)


def test_a_server_averages_nothing_of_a_client_that_diverged() -> None:
    train, model = tokens(40), tiny("roberta")
    method = attach(model)
    loop = federated(model, method, train, 2, 8, clients=2, local_steps=1)
    method.aggregate = lambda *given: pytest.fail("averaged")  # type: ignore[method-assign]
    loop.train_step(1)
    loop.stepper.watch.see(1, torch.tensor(float("nan")), None, torch.tensor(1.0))
    with pytest.raises(Diverged, match="loss not finite at step 1"):
        loop.train_step(2)


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (lambda new: new, "must return the global tensors and a dict of numbers to log"),
        (lambda new: (new, 0.5), "returned a dict and a float, which must both be dicts"),
        (
            lambda new: ({n: t for n, t in new.items() if n.endswith(".B")}, {}),
            r"returned 12 tensors of the 28 that clients train, without \S+\.A: one that the server",
        ),
        (lambda new: (new | {"w": new.popitem()[1]}, {}), "without classifier"),
        (lambda new: (new | {"w": torch.zeros(1)}, {}), "returned 'w', which no client trains"),
        (
            lambda new: ({n: t.mean(-1, keepdim=True) for n, t in new.items()}, {}),
            r"as \(2, 1\), which must be a tensor of shape \(2, 32\)",
        ),
        (lambda new: (dict.fromkeys(new, 0.5), {}), "as float, which must be a tensor of shape"),
        (lambda new: (new, {"bias": "x"}), "returned bias='x' for the log, which must be a number"),
    ],
)
def test_a_server_that_returns_other_tensors_than_the_clients_is_told(
    slip: Callable[[dict[str, Tensor]], Any], said: str
) -> None:
    train, model = tokens(40), tiny("roberta")
    method = attach(model)
    loop = federated(model, method, train, 2, 8, clients=2, local_steps=1)
    aggregate = method.aggregate
    method.aggregate = lambda *given: slip(aggregate(*given)[0])  # type: ignore[method-assign]
    loop.train_step(1)
    with pytest.raises(UserError, match=rf"FedIT\.aggregate .*{said}"):
        loop.train_step(2)


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


def test_a_run_that_patience_ends_records_the_rounds_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = Selection.offer
    # All scores are equal, so that the first one that counts, that of step 14, stays best.
    monkeypatch.setattr(
        Selection, "offer", lambda self, step, score, *rest: offer(self, step, 0.5, *rest)
    )
    given: dict[int, int] = {}
    of_step = FederatedCourse.rows

    def rows(self: FederatedCourse, step: int) -> Any:
        found = of_step(self, step)
        given[step] = len(found)
        return found

    monkeypatch.setattr(FederatedCourse, "rows", rows)
    # Twelve rounds of two steps; the eighth brings nothing better.
    words = ("method=ffa_lora", "fed.local_steps=1", "fed.fraction=0.6", "eval_every=2")
    record = run(small(tmp_path, "budget=r2", *words, "patience=1"))
    assert record["results"]["last"]["step"] == 16
    assert [line["round"] for line in lines(only_run(tmp_path), "server")] == list(range(1, 9))
    f, params = record["federation"], record["params"]
    assert (record["total_steps"], f["rounds"], f["sequential_steps"]) == (24, 8, 8)
    assert f["examples"] == sum(given[step] for step in range(1, 17))
    each = params["trained_at_once"] + params["head"]
    assert f["values_in_all"] == 2 * 2 * 8 * each + f["values_down_once"]


@pytest.mark.parametrize(
    ("method", "step", "resumed"),
    [
        ("fedit", 12, 12),
        ("ffa_lora", 5, 0),
        ("lora_fair", 13, 12),
        *(
            pytest.param(method, step, resumed, marks=pytest.mark.slow)
            for method, steps in (
                ("fedit", {5: 0, 11: 6, 13: 12}),
                ("ffa_lora", {11: 6, 12: 12, 13: 12}),
                ("lora_fair", {5: 0, 11: 6, 12: 12}),
            )
            for step, resumed in steps.items()
        ),
    ],
)
def test_a_run_cut_about_a_rounds_end_ends_as_one_left_alone(
    method: str, step: int, resumed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, f"method={method}")
    alone = left_alone(*words)
    cut(tmp_path / "cut", step, monkeypatch, *words)
    again = run(small(tmp_path / "cut", *words))
    assert again["resumed_from"] == ([resumed] if resumed else [])
    same_files(only_run(alone), only_run(tmp_path / "cut"))


def test_a_checkpoint_that_falls_due_inside_a_round_is_written_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rounds end after steps 6 and 12; of the checkpoints, that of step 4 is due in the first.
    cut(tmp_path, 7, monkeypatch, *WORDS, "eval_every=24", "checkpoint_every=4")
    assert checkpoint.newest(only_run(tmp_path) / "checkpoint") == 6


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
        with pytest.raises(
            Stopped, match=r"after step 9 of 24; the same command resumes after step 6$"
        ):
            run(small(tmp_path, *WORDS, "checkpoint_every=1"), signals)
    assert run(small(tmp_path, *WORDS))["resumed_from"] == [6]
    same_files(finished, only_run(tmp_path))


@pytest.mark.parametrize("method", ["fedit", "lora_fair"])
def test_a_client_that_diverges_ends_the_run_before_the_server_averages(
    method: str, tmp_path: Path
) -> None:
    words = (*WORDS[1:], f"method={method}", "lr=1e30", "clip=0", "warmup=0")
    with pytest.raises(RunFailed, match="diverged: "):
        run(small(tmp_path, *words))


@pytest.mark.slow  # two processes start: 8 s
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
