"""Parameters that lose components: the graph of a loss that is still alive, and moments."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from conftest import layer_of
from dora.adapters.changes import Remove, Renew, apply
from dora.adapters.components import remove
from dora.adapters.resizing import lay_in_order, set_data
from dora.adapters.result import restore

KEEP = [0, 2, 3]
MASK = torch.tensor([True, False, True, True, False])


@pytest.mark.parametrize("how", ["remove", "restore"])
def test_backward_works_while_the_loss_of_before_is_alive(how: str) -> None:
    layer, x = layer_of(4, 3, 5), torch.randn(6, 4)
    loss = layer(x).pow(2).sum()  # kept to the end of the test, as by a loop's local
    loss.backward()
    if how == "remove":
        remove([layer], [MASK])
    else:
        fresh = layer_of(4, 3, 3)
        restore(layer, {}, {n: p.detach().clone() for n, p in fresh.factors().items()})
    layer(x).pow(2).sum().backward()
    assert layer.A.grad.shape == (3, 4)
    assert layer.B.grad.shape == (3, 3)
    assert loss.item() > 0


def test_a_plain_change_of_data_would_fail_there() -> None:
    # What `set_data` is for: if PyTorch no longer needs it, this test says so.
    p, x = nn.Parameter(torch.randn(5, 4)), torch.randn(6, 4)
    loss = (x @ p.t()).sum()
    loss.backward()
    p.grad = None
    p.data = p.data[:3].clone()
    with pytest.raises(RuntimeError, match="invalid gradient"):
        (x @ p.t()).sum().backward()
    set_data(p, p.data)
    (x @ p.t()).sum().backward()
    assert p.grad is not None
    assert loss.requires_grad


def test_singular_vectors_lie_in_the_order_of_their_shape_as_they_do_behind_a_checkpoint() -> None:
    values = torch.arange(12.0).view(3, 4)
    p, buffer = nn.Parameter(torch.zeros(3, 5)), values.t().contiguous().t()
    set_data(p, values.t().contiguous().t())
    lay_in_order([buffer])
    assert (p.stride(), buffer.stride()) == ((4, 1), (4, 1))
    assert torch.equal(p.data, values)
    assert torch.equal(buffer, values)


class Reduced(torch.optim.Optimizer):
    """Keeps the moments that Transformers' Adafactor keeps: means over rows and over columns."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure=None):
        """Moves by a gradient that is divided by its factored mean square."""
        for group in self.param_groups:
            for p in group["params"]:
                state, squares = self.state[p], p.grad.square()
                if p.dim() < 2:
                    state["square"] = squares
                    p.data -= 0.1 * p.grad / (squares.sqrt() + 1e-3)
                    continue
                state["row"], state["column"] = squares.mean(-1), squares.mean(-2)
                size = state["row"].unsqueeze(-1) * state["column"].unsqueeze(-2)
                p.data -= 0.1 * p.grad / (size.sqrt() + 1e-3)


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "reduced": Reduced,
}


def stepped(optimizer: str) -> tuple[Any, torch.optim.Optimizer]:
    """Returns a layer of 5 components after two steps in which each component stood for itself."""
    layer = layer_of(4, 6, 5)
    made = OPTIMIZERS[optimizer](list(layer.factors().values()))
    for _ in range(2):
        made.zero_grad()
        # A sum over components, so that each one's gradient depends on nothing but itself.
        loss = layer.A.pow(3).sum() + layer.B.pow(3).sum() + layer.g.pow(3).sum()
        loss.backward()
        made.step()
    return layer, made


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_after_a_removal_moves_the_rest_as_if_nothing_had_been_removed(name: str) -> None:
    moved = []
    for removed in (False, True):
        layer, optimizer = stepped(name)
        if removed:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # nothing begins anew
                remove([layer], [MASK], optimizer)
        for p in layer.factors().values():
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        moved.append({n: p.detach().clone() for n, p in layer.factors().items()})
    whole, rest = moved
    # A mean over all components, which Adafactor keeps, is that of another set after a removal.
    loose = {"rtol": 0.3, "atol": 0.05} if name in ("Adafactor", "reduced") else {}
    torch.testing.assert_close(rest["A"], whole["A"][KEEP], **loose)
    torch.testing.assert_close(rest["B"], whole["B"][:, KEEP], **loose)
    torch.testing.assert_close(rest["g"], whole["g"][KEEP], **loose)


@pytest.mark.parametrize(
    "held",
    [torch.ones(5, 4, dtype=torch.uint8), torch.ones(5, 5)],
    ids=["of 8 bits, whose scales are shared", "a preconditioner of components by components"],
)
def test_moments_of_an_unknown_form_begin_anew_with_a_warning(held: torch.Tensor) -> None:
    layer, optimizer = stepped("AdamW")
    optimizer.state[layer.A]["strange"] = held
    with pytest.warns(UserWarning, match="AdamW keeps moments in a form"):
        remove([layer], [MASK], optimizer)
    assert layer.A not in optimizer.state
    assert optimizer.state[layer.B]["exp_avg"].shape == layer.B.shape


def test_a_vector_beside_a_square_factor_begins_anew_as_it_may_be_of_rows_or_columns() -> None:
    layer = layer_of(5, 6, 5)  # A: (5, 5)
    optimizer = torch.optim.AdamW(layer.factors().values())
    optimizer.state[layer.A]["mean"] = torch.ones(5)
    with pytest.warns(UserWarning, match="AdamW keeps moments in a form"):
        remove([layer], [MASK], optimizer)
    assert layer.A not in optimizer.state


@pytest.mark.parametrize(
    "change",
    [
        Remove([MASK]),
        Renew([{"A": torch.ones(2, 4), "B": torch.ones(3, 2), "g": torch.ones(2)}]),
    ],
    ids=["remove", "renew"],
)
def test_lbfgs_which_keeps_all_parameters_in_one_row_begins_anew_with_a_warning(
    change: Remove | Renew,
) -> None:
    layer = layer_of(4, 3, 5)
    optimizer = torch.optim.LBFGS(layer.factors().values(), lr=0.1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = (layer(x) - 1).pow(2).sum()
        found.backward()
        return found

    optimizer.step(loss)
    with pytest.warns(UserWarning, match="LBFGS keeps moments in a form .* all of them begin anew"):
        apply(change, [layer], optimizer)
    before = loss().item()
    optimizer.step(loss)
    assert loss().item() < before
