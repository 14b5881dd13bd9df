"""The moments of one optimizer step, their order, and the values that a method finds at each."""

from itertools import pairwise

import pytest
import torch

from conftest import METHODS, linears, loop_of, tiny, tokens, train_head_only, trained
from dora.adapters.budget import Budget
from dora.adapters.changes import Mask
from dora.methods.base import Method, RunInfo
from dora.training.processes import World


class Recorder(Method):
    """A method that notes when it is called and what it finds, and masks component 0 of each layer.

    An event is (moment, norm of all gradients or None, a copy of the first layer's A).
    """

    ranks_final_at = 0

    def __init__(self, model):
        self.model, self.events = model, []
        kind, cls = METHODS["dora"]
        plan = cls.plan(kind(), Budget(rank=4), linears(model), RunInfo(100, 3))
        # DoRA's layers, since they have gates to mask; nothing else of it is used.
        self.layers = cls(kind(), model, plan, RunInfo(10, 0)).layers
        for layer in self.layers.values():
            torch.nn.init.ones_(layer.g)

    def weight(self):
        return next(iter(self.layers.values())).A.detach().clone()

    def norm(self):
        grads = [p.grad for p in self.model.parameters() if p.requires_grad]
        return None if None in grads else torch.stack([g.norm() for g in grads]).norm().item()

    def observe(self, event):
        self.events.append((event, self.norm(), self.weight()))

    def penalty(self, step):
        self.events.append(("penalty", self.norm(), self.weight()))
        # A gradient whose norm is far above the clip's 1.
        return 100 * sum(layer.A.pow(2).sum() for layer in self.layers.values())

    def after_step(self, step):
        self.events.append(("after_step", self.norm(), self.weight()))
        return Mask([torch.arange(layer.rank) > 0 for layer in self.layers.values()])


def test_a_step_is_backward_clip_optimizer_after_step_applied_clear():
    model = tiny("roberta")
    train_head_only(model)
    method = Recorder(model)
    loop = loop_of(model, method, tokens(16), 10, batch_size=8)
    loop.stepper.observe = method.observe
    loop.train_step(2)  # in step 1 the warm-up's rate is 0
    names, norms, weights = zip(*method.events, strict=True)
    assert names == ("penalty", "backward", "clip", "optimizer", "after_step", "applied", "clear")

    unclipped, clipped, stepped, scored, applied, cleared = norms[1:]
    assert unclipped > 10
    assert clipped == pytest.approx(1, abs=1e-5)
    assert stepped == scored == applied == clipped  # the method finds the gradients, as clipped
    assert cleared is None

    moved = [
        b for (_, a), (b, c) in pairwise(zip(names, weights, strict=True)) if not torch.equal(a, c)
    ]
    assert moved == ["optimizer"]  # masking sets gates alone, and leaves A
    assert all(layer.live().tolist() == [False] + [True] * 5 for layer in method.layers.values())


def test_the_penalty_counts_once_a_step_whatever_the_number_of_micro_batches():
    after, given = [], []
    for parts in (1, 4):
        model = tiny("roberta")
        train_head_only(model)
        method = Recorder(model)
        loop = loop_of(model, method, tokens(16), 10, batch_size=8, grad_accum=parts, clip=0.0)
        loop.stepper.observe = method.observe
        given.append(loop.train_step(2))
        names, norms, _ = zip(*method.events, strict=True)
        assert loop.stepper.gradient_norm.item() == pytest.approx(norms[1], rel=1e-5)
        # clip=0: no moment "clip". "penalty" stands there once, with 4 micro-batches too.
        assert names == ("penalty", "backward", "optimizer", "after_step", "applied", "clear")
        after.append(norms[1])
    assert after[0] == pytest.approx(after[1], rel=1e-5)
    # Loss and penalty, as they are logged; the layers' dropout draws anew in each micro-batch.
    assert given[0][0].item() == pytest.approx(given[1][0].item(), rel=0.1)
    torch.testing.assert_close(given[0][1], given[1][1])


def test_a_step_behind_an_evaluation_trains_in_training_mode():
    model = tiny("roberta")
    train_head_only(model)
    loop = loop_of(model, Recorder(model), tokens(8), 10, batch_size=8)
    model.eval()
    loop.train_step(1)
    assert all(module.training for module in model.modules())


def test_every_micro_batch_of_every_step_and_process_draws_dropout_of_its_own_in_each_run_alike():
    def seeds(rank):
        model, found = tiny("roberta"), []
        train_head_only(model)
        loop = loop_of(model, Recorder(model), tokens(16), 10, batch_size=8, grad_accum=2)
        loop.setup.world = World(rank, 1, torch.device("cpu"))
        # Dropout draws from PyTorch's default generator.
        model.register_forward_pre_hook(lambda *_: found.append(torch.initial_seed()))
        for step in (1, 2):
            loop.train_step(step)
        return found

    alone, beside = seeds(rank=0), seeds(rank=1)
    assert seeds(rank=0) == alone
    assert len({*alone, *beside}) == 8


@pytest.mark.parametrize("method", ["adalora", "dora"])
def test_a_run_through_the_loop_ends_at_its_budget_and_goes_on_training(method):
    kind, cls = METHODS[method]
    model = tiny("deberta-v2")
    train_head_only(model)
    plan = cls.plan(kind(), Budget(rank=4), linears(model), RunInfo(100, 3))
    run = cls(kind(), model, plan, RunInfo(20, 0))
    loop = loop_of(model, run, tokens(40), 20, lr=1e-2, batch_size=8)
    losses = [loop.train_step(step)[0].item() for step in range(1, 21)]
    ranks = [layer.rank for layer in run.layers.values()]
    # 4 components a matrix on average over the model's 12 matrices.
    assert plan.missed(ranks) is None
    assert sum(ranks) == 4 * 12
    assert all(loss < 2 for loss in losses)
    # Moments have followed the removal; "step" is a scalar.
    for p in trained(model):
        assert all(
            m.shape == p.shape for k, m in loop.stepper.optimizer.state[p].items() if k != "step"
        )


@pytest.mark.parametrize("name", ["dora", "adalora"])
def test_a_methods_state_follows_its_layers_to_another_device(name: str) -> None:
    settings, method = METHODS[name]
    model = tiny("roberta")
    plan = method.plan(settings(), Budget(rank=2), linears(model), RunInfo(100, 3))
    attached = method(settings(), model, plan, RunInfo(20, 0))
    model.to("meta")  # any device but the one where start values were drawn
    attached.load(attached.state())
    assert {t.device.type for t in attached.state().values()} == {"meta"}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("method", "alone", "equal"),
    [
        ("adalora", {}, True),
        ("adalora", {"penalty": 1.0}, False),
        ("dora", {}, True),
        ("dora", {"penalty": 1.0}, True),
        ("dora", {"clip": 1e-3}, False),
    ],
)
def test_removing_gives_the_losses_of_masking_to_the_end_but_for_penalty_and_clip(
    method, alone, equal
):
    """Compares the losses of a run that removes components with those of one that masks them.

    They differ in two cases. A masked g's gradient counts in the clip's norm, and AdaLoRA's penalty
    couples the components that are there. DoRA's penalty ends where its components are removed.
    """
    losses = []
    for remove in (True, False):
        kind, cls = METHODS[method]
        own = "orthogonality" if method == "adalora" else "dem"
        # Without dropout: a matrix without components draws no random numbers, so that all later
        # draws would differ.
        settings = kind(remove=remove, dropout=0.0, **{own: alone.get("penalty", 0.0)})
        model = tiny("deberta-v2")
        train_head_only(model)
        plan = cls.plan(settings, Budget(rank=4), linears(model), RunInfo(100, 3))
        run = cls(settings, model, plan, RunInfo(30, 0))
        loop = loop_of(
            model, run, tokens(40), 30, lr=1e-2, batch_size=8, clip=alone.get("clip", 0.0)
        )
        losses.append([loop.train_step(step)[0].item() for step in range(1, 31)])
        assert sum(layer.rank for layer in run.layers.values()) == (4 if remove else 6) * 12
    assert (losses[0] == pytest.approx(losses[1], rel=1e-9)) == equal
    # Up to the removal both are one run, whatever the penalty and the clip.
    assert losses[0][: run.ranks_final_at] == pytest.approx(
        losses[1][: run.ranks_final_at], rel=1e-12
    )


def test_start_values_of_another_memory_order_are_laid_in_that_of_a_checkpoint():
    model = tiny("roberta")
    train_head_only(model)
    method = Recorder(model)
    layers = method.layers.values()
    for layer in layers:
        layer.A.data = layer.A.data.t().contiguous().t()  # as an SVD's Vᵀ, or one drawn as (d, r)
    before = [layer.A.detach().clone() for layer in layers]
    loop_of(model, method, tokens(16), 10, batch_size=8)
    assert all(layer.A.is_contiguous() for layer in layers)
    assert all(torch.equal(q.A, A) for q, A in zip(layers, before, strict=True))


class Drawing(Recorder):
    """Draws from PyTorch's default generator wherever it may change weights."""

    def __init__(self, model):
        super().__init__(model)
        self.drawn = []

    def noise(self, step):
        self.drawn.append(("noise", step, torch.rand(()).item()))

    def adjust_gradients(self, step):
        self.drawn.append(("adjust", step, torch.rand(()).item()))

    def after_step(self, step):
        self.drawn.append(("after", step, torch.rand(()).item()))


def test_what_a_method_draws_by_itself_is_a_function_of_the_step_on_every_process():
    def drawn(*steps, rank=0, disturbed=False):
        model = tiny("roberta", dropout=0.1)
        train_head_only(model)
        method = Drawing(model)
        loop = loop_of(model, method, tokens(16), 10, batch_size=8)
        loop.setup.world = World(rank, 1, torch.device("cpu"))
        for step in steps:
            if disturbed:
                torch.rand(7)  # as an evaluation, or the start of a process, may leave it
            loop.train_step(step)
        return method.drawn

    alone = drawn(1, 2, 3)
    assert drawn(2, 3, disturbed=True) == alone[3:]
    assert drawn(1, 2, 3, rank=1) == alone  # another rank drops other entries
    assert len({number for *_, number in alone}) == len(alone)
