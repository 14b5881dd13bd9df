"""FedIT, FFA-LoRA and LoRA-FAIR: the server's sums beside cases worked by hand and autograd."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conftest import settings_of
from dora.adapters.budget import Budget, Matrix
from dora.adapters.client_factors import ClientFactors
from dora.configuration.method_choice import packaged
from dora.methods.base import Method, RunInfo
from dora.methods.fedit import average
from dora.methods.lora_fair import cosine, gradient, objective, ridge
from runs import only_run, run, small

# The published case: A_1 = (1, 0), B_1 = (1, 0)ᵀ; A_2 = (1, 1), B_2 = (0, 2)ᵀ; p = ½.
A = [torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])]
B = [torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [2.0]])]
HALVES = [0.5, 0.5]
BIAS = 0.5590169943749475


def published() -> ClientFactors:
    """Returns the published case."""
    return ClientFactors.of(["w"], [(A, B)], HALVES)


def attached(name: str, **given: object) -> Method:
    """Returns a method on one 2 x 2 matrix, of rank 1."""
    chosen, run = packaged(name, **given), RunInfo(20, 3)
    plan = chosen.kind.plan(chosen.settings, Budget.parse("r1"), (Matrix("w", 2, 2),), run)
    return chosen.kind(chosen.settings, nn.ModuleDict({"w": nn.Linear(2, 2)}), plan, run)


UPLOADS = [
    {"w.A": a, "w.B": b, "head": torch.tensor([i])}
    for i, (a, b) in enumerate(zip(A, B, strict=True))
]


def test_fedit_averages_a_and_b_apart_and_says_how_far_that_is_off() -> None:
    new, about = attached("fedit").aggregate(
        [{**u, "head": u["head"].float()} for u in UPLOADS], HALVES, {}
    )
    assert new["w.A"].tolist() == [[1, 0.5]]
    assert new["w.B"].tolist() == [[0.5], [1]]
    assert new["head"].tolist() == [0.5]
    assert about["bias"] == pytest.approx(BIAS / 1.5)


def test_the_bias_of_factors_that_a_derived_method_freezes_is_measured_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = attached("fedit")
    monkeypatch.setattr(method, "frozen", lambda: {"w.A": A[1]})
    new, about = method.aggregate([{"w.B": b} for b in B], HALVES, {})
    # With one A for all clients the average is exact.
    assert (list(new), about["bias"]) == (["w.B"], pytest.approx(0, abs=1e-7))


def test_averages_are_summed_in_64_bits() -> None:
    torch.manual_seed(0)
    p, tensors = [0.1, 0.2, 0.7], torch.randn(3, 200)
    found = average([{"t": t} for t in tensors], p)["t"]
    terms = [share * t.double() for share, t in zip(p, tensors, strict=True)]
    assert torch.equal(found, (terms[0] + terms[1] + terms[2]).float())


def test_ffa_loras_average_is_exact() -> None:
    method = attached("ffa_lora")
    layer = method.layers["w"]
    assert not layer.A.requires_grad
    layer.A.data = torch.tensor([[1.0, 2.0]])
    new, about = method.aggregate([{"w.B": b} for b in B], HALVES, {})
    assert about == {}
    assert (new["w.B"] @ layer.A).tolist() == [[0.5, 1], [1, 2]]
    assert method.frozen()["w.A"] is layer.A
    # Whatever the factors, to float32's rounding.
    torch.manual_seed(0)
    Bs, p = [torch.randn(5, 3) for _ in range(4)], [0.1, 0.2, 0.3, 0.4]
    a = torch.randn(3, 6)
    mean = average([{"B": b} for b in Bs], p)["B"]
    exact = sum(x * (b @ a).double() for x, b in zip(p, Bs, strict=True))
    torch.testing.assert_close((mean @ a).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("init", ["kaiming", "normal"])
def test_ffa_loras_a_is_redrawn_by_seed_and_of_kaimings_spread(init: str) -> None:
    chosen = packaged("ffa_lora", init=init)
    found = []
    for seed in (1, 2):
        model = nn.ModuleDict({"w": nn.Linear(256, 64)})
        plan = chosen.kind.plan(
            chosen.settings, Budget.parse("r8"), (Matrix("w", 256, 64),), RunInfo(20, seed)
        )
        found.append(chosen.kind(chosen.settings, model, plan, RunInfo(20, seed)).layers["w"].A)
    assert not torch.equal(*found)
    assert found[0].std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.1)


def test_gathered_quantities_of_the_published_case() -> None:
    g = published()
    assert g.M[0].tolist() == [[0.5], [1.5]]
    assert g.G[0].tolist() == [[1.25]]
    assert g.w == [1.5]
    assert g.bias() == pytest.approx(BIAS / 1.5)


def test_gathered_quantities_equal_dense_ones() -> None:
    torch.manual_seed(0)
    p = [0.2, 0.5, 0.3]
    As, Bs = ([torch.randn(*s).double() for _ in p] for s in ((3, 7), (5, 3)))
    g = ClientFactors.of(["w"], [(As, Bs)], p)
    whole = sum(x * b @ a for x, a, b in zip(p, As, Bs, strict=True))
    mean = sum(x * a for x, a in zip(p, As, strict=True))
    torch.testing.assert_close(g.M[0], whole @ mean.t())
    torch.testing.assert_close(g.G[0], mean @ mean.t())
    assert g.w[0] == pytest.approx(whole.norm().item())
    assert g.bias() == pytest.approx(((whole - g.B[0] @ mean).norm() / whole.norm()).item())


def test_squares_that_rounding_leaves_below_zero_are_zero() -> None:
    torch.manual_seed(0)
    for _ in range(30):
        a, b = torch.randn(3, 7), torch.randn(5, 3)
        # One client's average is its own update, and two opposite updates have none.
        assert ClientFactors.of(["w"], [([a], [b])], [1.0]).bias() == pytest.approx(0, abs=1e-6)
        opposite = ClientFactors.of(["w"], [([a, a], [b, -b])], HALVES)
        assert opposite.w == [pytest.approx(0, abs=1e-6)]


def stacked(g: ClientFactors, regularisation: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns G, M, w and λ of a gathered layer as stacks of one."""
    w, weight = (
        torch.tensor([x], dtype=torch.float64).view(1, 1, 1) for x in (*g.w, regularisation)
    )
    return g.G[0][None], g.M[0][None], w, weight


def drifted(size: float = 1.0) -> ClientFactors:
    """Returns two layers of three clients, whose B has entries of about `size`."""
    torch.manual_seed(0)
    pairs = [
        (
            [torch.randn(r, d).double() for _ in "abc"],
            [size * torch.randn(o, r).double() for _ in "abc"],
        )
        for r, d, o in ((3, 7, 9), (2, 5, 4))
    ]
    return ClientFactors.of(["v", "w"], pairs, [0.2, 0.5, 0.3])


def test_the_servers_first_step_of_the_published_case() -> None:
    g = published()
    found = gradient(g.B[0][None], *stacked(g, 0.01)[:3])
    torch.testing.assert_close(found.flatten(), torch.tensor([8 / 75, -4 / 75]).double())
    [one] = cosine(g, 0.01, 0.01, 1, relative=False)
    torch.testing.assert_close(
        one.flatten(), torch.tensor([-0.00106667, 0.00053333]).double(), rtol=0, atol=1e-8
    )


def test_the_servers_steps_are_as_many_as_long_and_as_damped_as_its_settings_say() -> None:
    given = {"server_step": "fixed", "server_steps": 3, "server_lr": 0.05, "regularisation": 0.4}
    uploads = [{"w.A": a, "w.B": b} for a, b in zip(A, B, strict=True)]
    new, _ = attached("lora_fair", **given).aggregate(uploads, HALVES, {})
    mean = torch.tensor([[1.0, 0.5]]).double()
    start, whole = torch.tensor([[0.5], [1.0]]).double(), torch.tensor([[0.5, 0], [1, 1]]).double()
    change = torch.zeros(2, 1, dtype=torch.float64)
    for _ in range(3):
        change.requires_grad_(True)
        product = ((start + change) @ mean).flatten()
        similar = nn.functional.cosine_similarity(whole.flatten(), product, dim=0)
        [slope] = torch.autograd.grad(1 - similar + 0.4 * change.pow(2).sum(), change)
        change = (change - 0.05 * slope).detach()
    torch.testing.assert_close(new["w.B"], (start + change).float(), rtol=0, atol=1e-6)


def cos(g: ClientFactors, change: Tensor) -> float:
    """Returns the cosine of the average update and the corrected one."""
    b = g.B[0] + change
    n = (b * (b @ g.G[0])).sum().sqrt()
    return ((b * g.M[0]).sum() / (n * g.w[0])).item()


def test_the_servers_thousand_steps_of_the_published_case() -> None:
    g = published()
    assert cos(g, torch.zeros_like(g.B[0])) == pytest.approx(14 / 15)
    [found] = cosine(g, 0.01, 0.01, 1000, relative=False)
    want = torch.tensor([-0.143012269, 0.057872367], dtype=torch.float64)
    torch.testing.assert_close(found.flatten(), want, rtol=0, atol=1e-9)
    assert cos(g, found) == pytest.approx(0.942802560832591, abs=1e-12)


def test_ridge_of_the_published_case() -> None:
    g = published()
    found = ridge(g.B[0], g.G[0], g.M[0], 0.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([-0.1, 0.2]).double())
    assert cos(g, found) == pytest.approx(2 * math.sqrt(2) / 3)
    found = ridge(g.B[0], g.G[0], g.M[0], 0.01)
    torch.testing.assert_close(found.flatten(), torch.tensor([-0.125, 0.25]).double() / 1.26)


def test_objective_and_gradient_equal_dense_autograds_and_the_descent_follows_them() -> None:
    torch.manual_seed(0)
    p = [0.2, 0.5, 0.3]
    As, Bs = ([torch.randn(*s).double() for _ in p] for s in ((3, 7), (9, 3)))
    g = ClientFactors.of(["w"], [(As, Bs)], p)
    whole = sum(x * b @ a for x, a, b in zip(p, As, Bs, strict=True))
    mean = sum(x * a for x, a in zip(p, As, strict=True))

    def dense(change: Tensor) -> Tensor:
        b = g.B[0] + change
        similar = nn.functional.cosine_similarity(whole.flatten(), (b @ mean).flatten(), dim=0)
        return 1 - similar + 0.3 * change.pow(2).sum()

    change = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    [want] = torch.autograd.grad(dense(change), change)
    found = gradient((g.B[0] + change)[None], *stacked(g, 0.3)[:3])[0]
    torch.testing.assert_close(found + 2 * 0.3 * change, want, rtol=0, atol=1e-12)
    value = objective((g.B[0] + change)[None], change[None], *stacked(g, 0.3))
    torch.testing.assert_close(value[0], dense(change), rtol=0, atol=1e-12)

    change = torch.zeros(9, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(50):
        [grad] = torch.autograd.grad(dense(change), change)
        change = (change - 0.01 * grad).detach().requires_grad_(True)
    torch.testing.assert_close(
        cosine(g, 0.3, 0.01, 50, relative=False)[0], change.detach(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("solver", ["cosine", "ridge"])
def test_one_client_leaves_b_alone(solver: str) -> None:
    method = attached("lora_fair", solver=solver, regularisation=0.01)
    new, about = method.aggregate([UPLOADS[1] | {"head": torch.zeros(1)}], [1.0], {})
    torch.testing.assert_close(new["w.B"], B[1], rtol=0, atol=1e-6)
    assert about["bias"] == pytest.approx(0, abs=1e-6)


def test_a_round_that_changed_nothing_is_not_corrected() -> None:
    still = [{"w.A": a, "w.B": torch.zeros(2, 1)} for a in A]
    for solver in ("cosine", "ridge"):
        new, about = attached("lora_fair", solver=solver).aggregate(still, HALVES, {})
        assert not new["w.B"].any()
        assert about == {}


def test_a_descent_that_ends_higher_is_given_up() -> None:
    # The gradient grows as 1 / ‖B̄‖: steps of 0.01 throw a B̄ of 1e-5 far away.
    g = ClientFactors.of(["w"], [(A, [1e-5 * b for b in B])], HALVES)
    assert not cosine(g, 0.01, 0.01, 1000, relative=False)[0].any()
    assert cosine(published(), 0.01, 0.01, 1000, relative=False)[0].any()


def test_the_relative_step_moves_a_small_b_and_lowers_the_objective() -> None:
    g = ClientFactors.of(["w"], [(A, [0.01 / math.sqrt(1.25) * b for b in B])], HALVES)
    assert g.B[0].norm().item() == pytest.approx(0.01)
    change = cosine(g, 0.01, 0.01, 1000, relative=True)[0]
    before, after = (
        objective((g.B[0] + moved)[None], moved[None], *stacked(g, 0.01))
        for moved in (torch.zeros_like(change), change)
    )
    assert change.any()
    assert after < before


@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_the_relative_steps_correction_grows_with_b(regularisation: float) -> None:
    # λ ‖ΔB‖² stays as it is where ΔB is 1000 times as large and λ a millionth.
    for one, thousand in zip(
        cosine(drifted(), regularisation, 0.01, 30, relative=True),
        cosine(drifted(1000.0), regularisation / 1e6, 0.01, 30, relative=True),
        strict=True,
    ):
        assert one.any()
        torch.testing.assert_close(thousand, 1000 * one, rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [10.0, 1000.0])
def test_the_relative_step_finds_the_minimum_under_a_large_penalty(size: float) -> None:
    g = ClientFactors.of(["w"], [(A, [size * b for b in B])], HALVES)
    G, M, w, weight = stacked(g, 1.0)
    start, [found] = g.B[0][None], cosine(g, 1.0, 0.01, 1000, relative=True)
    slope = gradient(start + found, G, M, w)
    torch.testing.assert_close(2 * found[None], -slope, rtol=1e-6, atol=0)
    # ΔB is small beside B̄, so that the gradient is nearly that at B̄, which is worked by hand.
    torch.testing.assert_close(
        size * found.flatten(), torch.tensor([-4 / 75, 2 / 75]).double(), rtol=0.01, atol=0
    )
    zero = torch.zeros_like(start)
    before, after = (
        objective(start, zero, G, M, w, weight),
        objective(start + found, found[None], G, M, w, weight),
    )
    assert after < before


@pytest.mark.parametrize("solver", ["cosine", "ridge"])
def test_a_matrix_without_a_component_is_none_of_those_that_are_corrected(solver: str) -> None:
    uploads = [{"w.A": a, "w.B": b} for a, b in zip(A, B, strict=True)]
    want = attached("lora_fair", solver=solver).aggregate(uploads, HALVES, {})
    chosen, run = packaged("lora_fair", solver=solver), RunInfo(20, 3)
    matrices = (Matrix("w", 2, 2), Matrix("v", 2, 2))
    plan = chosen.kind.plan(chosen.settings, Budget(params=4), matrices, run)
    assert plan.end == (1, 0)
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in "wv"})
    method = chosen.kind(chosen.settings, model, plan, run)
    empty = {"v.A": torch.zeros(0, 2), "v.B": torch.zeros(2, 0)}
    new, about = method.aggregate([u | empty for u in uploads], HALVES, {})
    assert about == want[1]
    assert torch.equal(new["w.B"], want[0]["w.B"])


@pytest.mark.parametrize(("step", "unmoved"), [("relative", 0.0), ("fixed", 1.0)])
def test_the_server_says_how_many_matrices_stay_as_averaged(step: str, unmoved: float) -> None:
    little = [{"w.A": a, "w.B": 1e-5 * b} for a, b in zip(A, B, strict=True)]
    _, about = attached("lora_fair", server_step=step).aggregate(little, HALVES, {})
    assert about["unmoved"] == unmoved
    assert (about["bias"] == about["bias_of_averages"]) == (step == "fixed")


def test_corrections_of_several_layers_and_ranks_are_those_of_each_alone() -> None:
    torch.manual_seed(0)
    pairs = [
        ([torch.randn(r, d) for _ in range(2)], [torch.randn(o, r) for _ in range(2)])
        for r, d, o in ((2, 7, 5), (3, 4, 3), (2, 9, 6))
    ]
    together = cosine(ClientFactors.of(list("abc"), pairs, HALVES), 0.01, 0.01, 30, relative=True)
    for pair, found in zip(pairs, together, strict=True):
        [alone] = cosine(ClientFactors.of(["x"], [pair], HALVES), 0.01, 0.01, 30, relative=True)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


def test_the_correction_brings_the_update_closer_to_the_average() -> None:
    new, about = attached("lora_fair", solver="ridge").aggregate(
        [{"w.A": a, "w.B": b} for a, b in zip(A, B, strict=True)], HALVES, {}
    )
    assert about["bias"] < about["bias_of_averages"] == pytest.approx(BIAS / 1.5)
    assert new["w.A"].tolist() == [[1, 0.5]]


@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_ridges_correction_is_of_the_settings_regularisation(regularisation: float) -> None:
    method = attached("lora_fair", solver="ridge", regularisation=regularisation)
    uploads = [{"w.A": a, "w.B": b} for a, b in zip(A, B, strict=True)]
    new, _ = method.aggregate(uploads, HALVES, {})
    a, b, update = ((x + y) / 2 for x, y in (A, B, [B[0] @ A[0], B[1] @ A[1]]))
    gram = a @ a.t()  # one number, as the rank is 1
    torch.testing.assert_close(
        new["w.B"], b + (update @ a.t() - b @ gram) / (gram + regularisation)
    )


@pytest.fixture(scope="module", params=["fedit", "ffa_lora", "lora_fair"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run of each method; returns its directory."""
    place = tmp_path_factory.mktemp("federated")
    words = (
        f"method={request.param}",
        "budget=r2",
        "lr=1e-2",
        "fed.clients=2",
        "fed.local_steps=3",
    )
    run(small(place, *words))
    return only_run(place)


def test_what_is_trained_and_stored_is_in_the_record(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    params = record["params"]
    half = 2 if record["config"]["method"]["name"] == "ffa_lora" else 1
    assert params["trained_at_once"] == params["trained_in_all"] == params["stored"] // half
    assert params["stored"] == params["in_peft_file"] == params["adapter_end"]
    once = record["federation"]["values_down_once"]
    assert once == (params["stored"] // 2 * 2 if half == 2 else 0)  # A, to each of two clients
    held = load_file(finished / "best.safetensors")
    assert sum(name.endswith(".A") for name in held) == 12


def test_settings_out_of_range_are_named() -> None:
    settings = settings_of("lora_fair", solver="exact", regularisation=-1.0, server_step="1")
    assert [text.split("=")[0] for text in settings.problems(None)] == [
        "method.solver",
        "method.regularisation",
        "method.server_step",
    ]
