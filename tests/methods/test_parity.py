"""Whole runs beside the released DoRA code's recipe, written down in NumPy.

The recipe comprises schedule, decay, clip, AdamW, DEM, scores and masks. At T = 130 every rounding
in it shows: 0.06 T = 7.8 warm-up steps, a window from 0.15 T = 19.5 over 0.35 T = 45.5 steps. The
task's gradient of each plain weight comes from PyTorch on an unadapted model; the rest is NumPy in
float64.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from encoders import tiny

from conftest import METHODS, linears, loop_of, tokens, train_head_only
from dora.adapters.budget import Budget
from dora.backbones.architectures import ARCHITECTURES
from dora.methods.base import RunInfo
from dora.methods.dora import DoRA

# R0: the rank at the start, 1.5 times r2.
T, INTERVAL, R0, LR, DECAY, DEM = 130, 10, 3, 5e-3, 0.01, 0.1


def released_rate(step):
    """Returns the rate of a step: linear warm-up over int(0.06 T) steps, then linear decay to 0."""
    done, warmup = step - 1, int(0.06 * T)
    return LR * (done / warmup if done < warmup else (T - done) / (T - warmup))


class Released:
    """The recipe of one run.

    `plain`: an unadapted model whose weights are set to W0 + s B diag(g) A in each step. `factors`:
    {matrix: {"A", "B", "g"}} and `head`: {name: array}, which are trained in place.
    """

    def __init__(self, plain, factors, head):
        self.plain, self.factors, self.head = plain, factors, head
        self.base = {
            name: plain.get_submodule(name).weight.detach().numpy().copy() for name in factors
        }
        self.scores = {name: np.zeros(R0) for name in factors}
        self.moments = {}
        self.final = None

    def tensors(self):
        """Returns all trained arrays by name."""
        named = {f"{name}.{k}": t for name, own in self.factors.items() for k, t in own.items()}
        return named | self.head

    def step(self, step, ids, mask, labels):
        """Takes step `step`, counted from 1."""
        gradients = self.task_gradients(ids, mask, labels)
        if step <= math.ceil(0.15 * T) + int(0.35 * T):
            self.add_equilibrium(gradients)
        # clip_grad_norm_ with a limit of 1; its 1e-6 keeps a norm of 0 from dividing.
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        for name, value in self.tensors().items():
            self.adamw(name, value, gradients[name] * min(1.0, 1.0 / (norm + 1e-6)), step)
        self.prune(step)

    def task_gradients(self, ids, mask, labels):
        """Returns the task loss's gradients of factors and head, by the product rule from dL/dW."""
        scale = 8 / R0
        with torch.no_grad():
            for name, f in self.factors.items():
                weight = self.base[name] + scale * (f["B"] * f["g"]) @ f["A"]
                self.plain.get_submodule(name).weight.copy_(torch.from_numpy(weight))
            for name, value in self.head.items():
                self.plain.get_parameter(name).copy_(torch.from_numpy(value))
        self.plain.zero_grad()
        F.cross_entropy(self.plain(input_ids=ids, attention_mask=mask).logits, labels).backward()
        found = {name: self.plain.get_parameter(name).grad.numpy() for name in self.head}
        # W = W0 + s B diag(g) A and G = s dL/dW, (d_out, d_in).
        for name, f in self.factors.items():
            G = scale * self.plain.get_submodule(name).weight.grad.numpy()
            found[f"{name}.A"] = f["g"][:, None] * (f["B"].T @ G)
            found[f"{name}.B"] = G @ f["A"].T * f["g"]
            found[f"{name}.g"] = np.einsum("oi,or,ri->r", G, f["B"], f["A"])
        return found

    def add_equilibrium(self, gradients):
        """Adds the gradient of DEM: the mean unbiased variance of A's rows and B's columns."""
        # The mean is over matrices and the 2 r0 vectors of each.
        share = DEM / len(self.factors) / (2 * R0)
        for name, f in self.factors.items():
            for factor, axis in (("A", 1), ("B", 0)):
                x, key = f[factor], f"{name}.{factor}"
                centred = x - x.mean(axis=axis, keepdims=True)
                # d var(x) / dx = 2 (x - mean) / (n - 1); the mean's own derivative sums to 0.
                gradients[key] = gradients[key] + share * 2 * centred / (x.shape[axis] - 1)

    def adamw(self, name, value, gradient, step):
        """Updates an array by AdamW, in place, with decay on everything, biases included."""
        m, v = self.moments.get(name, (np.zeros_like(value), np.zeros_like(value)))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        self.moments[name] = m, v
        rate = released_rate(step)
        value *= 1 - rate * DECAY
        value -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    def prune(self, step):
        """Smooths the scores, and masks at allocations and from the window's end on."""
        # The released code's own roundings: t' = int(step - 0.15 T), T' = int(0.35 T).
        window = int(0.35 * T)
        into = int(step - 0.15 * T) if step >= 0.15 * T else -1
        if into <= window and self.final is None:
            for name, f in self.factors.items():
                parts = [f["g"][i] * np.outer(f["B"][:, i], f["A"][i]) for i in range(R0)]
                whole = np.linalg.norm(sum(parts)) + 1e-8
                share = np.array([np.linalg.norm(part) / whole for part in parts])
                self.scores[name] = 0.9 * self.scores[name] + 0.1 * share
            if into >= 0 and (into % INTERVAL == 0 or into == window):
                flat = np.concatenate(list(self.scores.values()))
                # As released: the lowest scores go. numpy's sort has to be stable for ties.
                surplus = R0 * len(self.factors) - 2 * len(self.factors)
                out = np.argsort(flat, kind="stable")[: surplus * into**3 // window**3]
                keep = np.ones(len(flat))
                keep[out] = 0
                self.mask(keep)
                if into == window:
                    self.final = keep
        elif self.final is not None:
            self.mask(self.final)

    def mask(self, keep):
        """Sets g to 0 where `keep`, over all matrices, is 0."""
        for f, k in zip(self.factors.values(), np.split(keep, len(self.factors)), strict=True):
            f["g"] *= k


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in ("roberta", "modernbert") else pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_a_whole_run_of_the_parity_settings_equals_the_released_recipe(architecture):
    # Two copies of one model: `tiny` draws with a fixed seed.
    model, plain = (tiny(architecture, hidden_size=16, num_hidden_layers=2) for _ in range(2))
    # No dropout anywhere: the settings below turn the adapter's off too.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain.eval()
    train_head_only(model)
    kind, kinds = METHODS["dora"][0], tuple(ARCHITECTURES[architecture].linears)
    settings = kind(dropout=0.0, dem=DEM, prune_interval=INTERVAL, remove=False)
    plan = DoRA.plan(settings, Budget(rank=2), linears(model, kinds), RunInfo(100, 3))
    method = DoRA(settings, model, plan, RunInfo(T, 3))
    loop = loop_of(
        model,
        method,
        tokens(48),
        T,
        lr=LR,
        batch_size=4,
        weight_decay=DECAY,
        warmup=int(0.06 * T),
        decay_all=True,
        batching="random",
    )
    factors = {
        name: {k: p.detach().numpy().copy() for k, p in layer.factors().items()}
        for name, layer in method.layers.items()
    }
    head = {name: model.get_parameter(name).detach().numpy().copy() for name in loop.setup.head}
    released = Released(plain, factors, head)
    live = []
    for step in range(1, T + 1):
        rows = loop.setup.course.rows(step)
        batch = {k: torch.from_numpy(v) for k, v in loop.setup.train.batch(rows).items()}
        loop.train_step(step)
        labels = torch.from_numpy(loop.setup.train.label[rows])
        released.step(step, batch["input_ids"], batch["attention_mask"], labels)
        live.append(sum(int(layer.live().sum()) for layer in method.layers.values()))
        assert live[-1] == sum(int((f["g"] != 0).sum()) for f in factors.values()), step
    assert live[-1] == 2 * len(factors)
    assert min(live[1:]) == live[-1]  # at step 1 the rate is 0 and so is every g
    for name, layer in method.layers.items():
        for k, p in layer.factors().items():
            # 130 steps of float64 in another order of sums.
            np.testing.assert_allclose(p.detach().numpy(), factors[name][k], rtol=0, atol=5e-13)
    for name, value in head.items():
        np.testing.assert_allclose(
            model.get_parameter(name).detach().numpy(), value, rtol=0, atol=5e-13
        )
