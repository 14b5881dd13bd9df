"""LoRA-Pro beside cases worked out in numbers, a NumPy reference, and the tangent space."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from conftest import attach_method, batches, settings_of, tiny, trained
from dora.adapters.budget import Budget, Matrix
from dora.methods.base import RunInfo
from dora.methods.lora_pro import CHOICES_OF_X, LoRAPro, adjusted, equivalent_gradient
from runs import cut, only_run, run, same_files, small

G1 = [[1, 2], [3, 4], [5, 6]]
G2 = [[1, -1], [0.5, 2], [-1, 0]]
B1 = [1, 0, 1]


def attach(model, budget, **settings):
    """Returns LoRA-Pro attached to the model, whose head is trained too."""
    return attach_method(model, "lora_pro", budget, **settings)


def one_matrix(A, B, **settings):
    """Returns (LoRA-Pro on one linear of 2 inputs, its layer), with s = 2 and one component."""
    settings = settings_of("lora_pro", alpha=2.0, **settings)
    matrix = Matrix("0", d_in=2, d_out=3)
    plan = LoRAPro.plan(settings, Budget.parse("r1"), (matrix,), RunInfo(100, 3))
    method = LoRAPro(settings, nn.Sequential(nn.Linear(2, 3)), plan, RunInfo(10, 0))
    layer = method.layers["0"]
    with torch.no_grad():
        layer.A.copy_(torch.tensor([A]))
        layer.B.copy_(torch.tensor([B]).T)
    return method, layer


def step(method, layer, G, number, optimizer, lr=0.1):
    """Takes a step on the weight's gradient G, in the loop's order; returns A and B, flat."""
    G, s = torch.tensor(G, dtype=layer.A.dtype), layer.scale
    layer.A.grad, layer.B.grad = (s * layer.B.T @ G).detach(), (s * G @ layer.A.T).detach()
    method.adjust_clipped_gradients(number)
    if optimizer is not None:
        optimizer.step()
    method.update(number, lr)
    return layer.A.detach().flatten().tolist(), layer.B.detach().flatten().tolist()


@pytest.mark.parametrize(
    ("x", "g_A", "g_B"),
    [
        ("zero", [1.5, 2], [-1, 1.75, 1]),
        ("sylvester", [0.625, 1.125], [-0.125, 1.75, 1.875]),
    ],
)
@pytest.mark.usefixtures("float64")
def test_the_adjusted_gradients_of_a_case_worked_by_hand(x, g_A, g_B):
    A, B, G = torch.ones(1, 2), torch.tensor([B1]).T.double(), torch.tensor(G1).double()
    G_A, G_B = 2 * B.T @ G, 2 * G @ A.T
    assert (G_A.tolist(), G_B.flatten().tolist()) == ([[12, 16]], [6, 14, 22])
    of_A, of_B = adjusted(A, B, G_A, G_B, 2, x)
    assert of_A.flatten().tolist() == pytest.approx(g_A, abs=1e-7)
    assert of_B.flatten().tolist() == pytest.approx(g_B, abs=1e-7)
    got = equivalent_gradient(A, B, of_A, of_B, 2)
    assert got.flatten().tolist() == pytest.approx([1, 2, 3.5, 3.5, 5, 6], abs=1e-7)


@pytest.mark.parametrize(
    ("x", "g_A", "g_B"),
    [
        ("zero", [2500, 5000], [1250, 7500, 12_500]),
        # X = -0.25 / 2e-8: Sylvester's equation has BᵀB and AAᵀ without δ.
        ("sylvester", [1250, 5000], [2500, 7500, 12_500]),
        ("symmetry", [1875, 5000], [1875, 7500, 12_500]),  # X = ½ · -0.25 / 2e-8
    ],
)
@pytest.mark.usefixtures("float64")
def test_delta_is_added_to_both_products_of_factors(x, g_A, g_B):
    # BᵀB = AAᵀ = 1e-8, as large as δ, so that P = Q = 2e-8; with s = 2.
    A, B, G = torch.tensor([[1e-4, 0]]), torch.tensor([[1e-4], [0], [0]]), torch.tensor(G1).double()
    of_A, of_B = adjusted(A, B, 2 * B.T @ G, 2 * G @ A.T, 2, x)
    assert of_A.flatten().tolist() == pytest.approx(g_A, rel=1e-9)
    assert of_B.flatten().tolist() == pytest.approx(g_B, rel=1e-9)


@pytest.mark.usefixtures("float64")
def test_two_steps_of_full_mode_worked_by_hand():
    method, layer = one_matrix([1, 1], B1, mode="full", full_rate=1.0)
    A, B = step(method, layer, G1, 1, None)
    assert A == pytest.approx([0.975, 0.975], abs=1e-6)
    assert B == pytest.approx([0.975, -0.05, 0.975], abs=1e-6)
    A, B = step(method, layer, G2, 2, None)
    assert A == pytest.approx([0.9544967, 0.9632194], abs=1e-6)
    assert B == pytest.approx([0.9551100, -0.0960263, 0.9602457], abs=1e-6)


@pytest.mark.parametrize(
    ("start", "first", "second"),
    [
        (
            B1,
            ([0.9, 0.9], [1.1, -0.1, 0.9]),
            ([0.8220934, 0.8512840], [1.1076567, -0.1895428, 0.8412268]),
        ),
        (
            [0, 0, 0],  # where LoRA begins: g_A is 0
            ([1, 1], [-0.1, -0.1, -0.1]),
            ([0.9255863, 1.0744137], [-0.1668222, -0.1880932, -0.1599365]),
        ),
    ],
)
@pytest.mark.usefixtures("float64")
def test_two_steps_of_efficient_mode_worked_by_hand(start, first, second):
    method, layer = one_matrix([1, 1], start)
    optimizer = torch.optim.AdamW([layer.A, layer.B], lr=0.1, weight_decay=0)
    for number, (G, (A, B)) in enumerate([(G1, first), (G2, second)], 1):
        got_A, got_B = step(method, layer, G, number, optimizer)
        assert got_A == pytest.approx(A, abs=1e-6)
        assert got_B == pytest.approx(B, abs=1e-6)


def random_case(seed=0, d_out=7, d_in=9, r=3):
    """Returns (A, B, G, s) of N(0, 1)."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(r, d_in), (d_out, r), (d_out, d_in)]
    return *(torch.randn(shape, generator=random) for shape in shapes), 1.7


@pytest.mark.parametrize("x", CHOICES_OF_X)
@pytest.mark.usefixtures("float64")
def test_the_equivalent_gradient_is_the_projection_on_the_tangent_space_for_every_x(x):
    A, B, G, s = random_case()
    on_B, on_A = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
    want = on_B @ G + (torch.eye(7) - on_B) @ G @ on_A
    got = equivalent_gradient(A, B, *adjusted(A, B, s * B.T @ G, s * G @ A.T, s, x), s)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("x", CHOICES_OF_X)
def test_float32_factors_are_adjusted_in_float64(x):
    A, B, G, s = random_case()
    G_A, G_B = s * B.T @ G, s * G @ A.T
    found = adjusted(A, B, G_A, G_B, s, x)
    wanted = adjusted(A.double(), B.double(), G_A.double(), G_B.double(), s, x)
    for got, want in zip(found, wanted, strict=True):
        assert torch.equal(got, want)


@pytest.mark.usefixtures("float64")
def test_sylvesters_x_makes_the_gradients_closest_to_loras():
    A, B, G, s = random_case()
    G_A, G_B = s * B.T @ G, s * G @ A.T
    of_A, of_B = adjusted(A, B, G_A, G_B, s, "sylvester")

    def distance(X):
        """Returns the squared distance once X is added to Sylvester's."""
        return (of_A + X @ A - G_A).square().sum() + (of_B - B @ X - G_B).square().sum()

    random = torch.Generator().manual_seed(1)
    for _ in range(20):
        X = torch.randn(3, 3, generator=random)
        # At the minimum the distance grows to both sides in every direction.
        assert distance(1e-3 * X) > distance(0 * X) < distance(-1e-3 * X)


def reference_adjusted(A, B, G_A, G_B, s, x):
    """Returns the paper's closed form by inverses and SciPy's Sylvester solver."""
    eye = np.eye(len(A))
    P, Q = np.linalg.inv(B.T @ B + 1e-8 * eye), np.linalg.inv(A @ A.T + 1e-8 * eye)
    g_A, g_B = P @ G_A / s**2, (G_B - B @ P @ B.T @ G_B) @ Q / s**2
    X = {
        "zero": lambda: 0 * eye,
        "sylvester": lambda: scipy.linalg.solve_sylvester(B.T @ B, A @ A.T, -P @ G_A @ A.T / s**2),
        "symmetry": lambda: -0.5 * P @ B.T @ G_B @ Q / s**2,
    }[x]()
    return g_A + X @ A, g_B - B @ X


class Reference:
    """One matrix's A and B by NumPy: Adam written out, with weight decay in efficient mode."""

    def __init__(self, layer, mode, x):
        self.A, self.B = (p.detach().numpy().copy() for p in (layer.A, layer.B))
        self.s, self.mode, self.x, self.t, self.moments = layer.scale, mode, x, 0, {}

    def adam(self, name, g):
        """Returns Adam's step for the gradient g, before the rate."""
        m, v = self.moments.get(name, (0, 0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        self.moments[name] = m, v
        return m / (1 - 0.9**self.t) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)

    def step(self, G_A, G_B, rate):
        """Moves A and B."""
        self.t += 1
        A, B, s = self.A, self.B, self.s
        g_A, g_B = reference_adjusted(A, B, G_A, G_B, s, self.x)
        if self.mode == "efficient":
            self.A = A * (1 - rate * 0.01) - rate * self.adam("A", g_A)
            self.B = B * (1 - rate * 0.01) - rate * self.adam("B", g_B)
            return
        U = self.adam("W", s * (B @ g_A + g_B @ A))
        g_A, g_B = reference_adjusted(A, B, s * B.T @ U, s * U @ A.T, s, self.x)
        self.A, self.B = A - rate * 0.05 * g_A, B - rate * 0.05 * g_B


# 1.3k: matrices of one shape have ranks 1 and 2, so their stacks are padded. 0.5k: some have none.
@pytest.mark.parametrize(
    ("mode", "x", "budget"),
    [
        *(("efficient", x, "r3") for x in CHOICES_OF_X),
        *(("full", x, "r3") for x in CHOICES_OF_X),
        ("efficient", "sylvester", "1.3k"),
        ("full", "sylvester", "1.3k"),
        ("full", "sylvester", "0.5k"),
    ],
)
@pytest.mark.usefixtures("float64")
def test_ten_steps_equal_a_reference_in_numpy(mode, x, budget):
    model = tiny("roberta")
    method = attach(model, budget, mode=mode, x=x)
    layers = [layer for layer in method.layers.values() if layer.rank]
    held = {p for group in method.parameter_groups() if group.by_method for p in group.parameters}
    assert len(held) == (0 if mode == "efficient" else 2 * len(method.layers))
    for layer in layers:
        # Clearly away from 0: the numbers then say more about the formula than about δ.
        nn.init.normal_(layer.B, std=0.3)
    references = [Reference(layer, mode, x) for layer in layers]
    rest = [p for p in trained(model) if p not in held]
    optimizer = torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.01)
    for number, batch in enumerate(batches(10), 1):
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(trained(model), 1.0)
        for layer, reference in zip(layers, references, strict=True):
            reference.step(layer.A.grad.numpy(), layer.B.grad.numpy(), 1e-2)
        method.adjust_clipped_gradients(number)
        optimizer.step()
        method.update(number, 1e-2)
        model.zero_grad()
        for layer, reference in zip(layers, references, strict=True):
            np.testing.assert_allclose(layer.A.detach(), reference.A, rtol=0, atol=1e-8)
            np.testing.assert_allclose(layer.B.detach(), reference.B, rtol=0, atol=1e-8)


def test_the_first_steps_from_b_at_zero_are_finite_in_float32():
    for mode in ("efficient", "full"):
        model = tiny("deberta-v2", hidden=64)
        method = attach(model, "2.5k", mode=mode)  # with matrices that have no component
        held = {p for group in method.parameter_groups() for p in group.parameters}
        rest = [p for p in trained(model) if p not in held]
        optimizer = torch.optim.AdamW(rest, lr=4e-4)
        for number, batch in enumerate(batches(4), 1):
            model(**batch).loss.backward()
            method.adjust_clipped_gradients(number)
            optimizer.step()
            method.update(number, 4e-4)
            model.zero_grad()
        for layer in method.layers.values():
            assert layer.A.isfinite().all()
            assert layer.B.isfinite().all()
            assert layer.rank == 0 or layer.B.ne(0).any()


def test_full_mode_keeps_two_moments_of_the_weights_size_and_efficient_mode_none():
    assert attach(tiny("roberta"), "r2").state() == {}
    method = attach(tiny("roberta"), "1.3k", mode="full")
    want = {
        name: (2, *layer.base.weight.shape) for name, layer in method.layers.items() if layer.rank
    }
    assert {name: tuple(t.shape) for name, t in method.state().items()} == want
    assert 0 < len(want)


def test_a_run_in_full_mode_resumes_bit_for_bit(tmp_path, monkeypatch):
    words = ("method=lora_pro", "method.mode=full", "budget=r1", "max_steps=6", "eval_every=3")
    run(small(tmp_path / "alone", *words))
    cut(tmp_path / "again", 4, monkeypatch, *words)
    run(small(tmp_path / "again", *words, "checkpoint_every=1"))
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "again"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mode": "fast"}, "method.mode=fast must be one of efficient, full"),
        ({"x": "one"}, "method.x=one must be one of sylvester, zero, symmetry"),
        ({"full_rate": 0.0}, "method.full_rate=0.0 must lie in [1e-06, inf)"),
        ({"alpha": 0.0}, "method.alpha=0.0 must lie in"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_rule(changed, said):
    (problem,) = settings_of("lora_pro", **changed).problems(100)
    assert said in problem
    assert settings_of("lora_pro").problems(100) == []
