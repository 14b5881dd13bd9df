"""Flat-LoRA's noise: its size by row, its seeds, and the weights that it must leave alone."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conftest import attach_method, batches, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget, Matrix
from dora.methods.base import RunInfo
from dora.methods.flat_lora import FlatLoRA, row_norms
from dora.methods.lora import LoRA
from runs import only_run, run, small, small_words, together


def attach(model, budget="r4", total_steps=10, kind=FlatLoRA, **settings):
    """Returns Flat-LoRA (or LoRA) attached to the model, B away from 0, the head trained too."""
    name = "lora" if kind is LoRA else "flat_lora"
    method = attach_method(model, name, budget, RunInfo(total_steps, 3), **settings)
    random = torch.Generator().manual_seed(5)
    for layer in method.layers.values():
        if layer.rank:
            nn.init.normal_(layer.B, std=0.1, generator=random)
    return method


def one_matrix(W, total_steps, **settings):
    """Returns (Flat-LoRA on one linear with this weight, its layer) of one component; s = 2."""
    settings = settings_of("flat_lora", alpha=2.0, **settings)
    linear = nn.Linear(W.shape[1], W.shape[0])
    linear.weight.data = W.clone()
    plan = FlatLoRA.plan(
        settings, Budget.parse("r1"), (Matrix("0", W.shape[1], W.shape[0]),), RunInfo(100, 3)
    )
    method = FlatLoRA(settings, nn.Sequential(linear), plan, RunInfo(total_steps, 3))
    return method, method.layers["0"]


@pytest.mark.usefixtures("float64")
def test_the_noise_of_a_case_worked_by_hand():
    W = torch.tensor([[3.0, 3], [0, 1]])
    method, layer = one_matrix(W, total_steps=4)
    layer.A.data, layer.B.data = torch.tensor([[0, 0.5]]), torch.tensor([[1.0], [0]])
    assert (W + layer.delta()).tolist() == [[3, 4], [0, 1]]
    assert row_norms(W, layer.A, layer.B, 2).tolist() == [5, 1]
    method.noise(1)
    assert layer.perturbed is None  # c = 0
    shares = []
    # t at a quarter, a half, three quarters and the whole of T, and in a loop that goes on
    for step in (2, 3, 4, 5, 8):
        method.noise(step)
        drawn = torch.empty(2, 2).normal_(generator=method.run.generator("noise 0", step))
        std = (layer.perturbed - W) / drawn
        torch.testing.assert_close(std[:, 0], std[:, 1])
        shares.append(std[0, 0].item() / (0.05 * 5 / math.sqrt(2)))
        if step == 3:
            assert std[:, 0].tolist() == pytest.approx([0.088388348, 0.017677670], abs=1e-9)
    assert std[:, 0].tolist() == pytest.approx([0.176776695, 0.035355339], abs=1e-9)
    assert shares == pytest.approx([0.146446609, 0.5, 0.853553391, 1, 1], abs=1e-9)


@pytest.mark.usefixtures("float64")
def test_row_norms_are_those_of_the_merged_weight():
    layer = next(iter(attach(tiny("roberta")).layers.values()))
    W = layer.base.weight
    want = torch.linalg.vector_norm(W + layer.delta(), dim=1)
    torch.testing.assert_close(row_norms(W, layer.A, layer.B, layer.scale), want)
    # Rounding may leave a square below 0 where the update cancels the weight.
    assert row_norms(-layer.delta(), layer.A, layer.B, layer.scale).abs().max() < 1e-7


def test_each_row_s_noise_has_its_standard_deviation_and_mean_0():
    d_in = 40_000
    W = torch.randn(5, d_in, generator=torch.Generator().manual_seed(0))
    W *= torch.tensor([[0.0], [0.1], [1], [2], [30]])  # a row of zeros gets no noise
    method, layer = one_matrix(W, total_steps=10, rho=0.3)
    layer.B.data.fill_(0.0)
    drawn = []
    for step in (6, 7):
        method.noise(step)
        noise, c = layer.perturbed - W, (1 - math.cos(math.pi * (step - 1) / 10)) / 2
        want = c * 0.3 * W.norm(dim=1) / math.sqrt(d_in)
        # The deviation of 40,000 draws is off by 0.35 %, and their mean by 0.5 % of it.
        torch.testing.assert_close(noise.std(1), want, rtol=0.02, atol=0)
        assert (noise.mean(1).abs() <= 0.025 * want).all()
        drawn.append((noise[1:] / want[1:, None]).flatten())
    assert torch.corrcoef(torch.stack(drawn))[0, 1].abs() < 0.02  # steps are independent


def test_the_noise_is_a_function_of_seed_step_and_matrix():
    def drawn(seed=3, step=7, drawn_elsewhere=0):
        """Returns what is added to each weight of a fresh model."""
        method = attach(tiny("roberta"))
        torch.rand(drawn_elsewhere)
        method.run = RunInfo(10, seed)
        method.noise(step)
        return [layer.perturbed - layer.base.weight for layer in method.layers.values()]

    first = drawn()
    # Two processes, or a run and one resumed at this step, differ in draws from other generators.
    assert all(map(torch.equal, first, drawn(drawn_elsewhere=9)))
    for other in (drawn(seed=4), drawn(step=8)):
        assert not any(map(torch.equal, first, other))
    q, k = first[:2]
    assert (q.sign() == k.sign()).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_all_micro_batches_of_a_step_have_one_noise_which_is_gone_after_it():
    model = tiny("roberta")
    method = attach(model)
    loop = loop_of(model, method, tokens(16), 10, batch_size=8, grad_accum=4)
    layer = method.layers["roberta.encoder.layer.0.intermediate.dense"]
    seen = []
    layer.register_forward_pre_hook(lambda module, given: seen.append(module.operands()[0].clone()))
    for step in (1, 2, 3):
        loop.train_step(step)
        assert layer.perturbed is None
    assert len(seen) == 12
    weight = layer.base.weight
    for i in range(3):
        first, *others = seen[4 * i : 4 * i + 4]
        assert all(torch.equal(first, W) for W in others)
        assert torch.equal(first, weight) == (i == 0)  # the first step has no noise
    assert not torch.equal(seen[4], seen[8])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_leaves_the_frozen_weights_as_they_were_to_the_bit(precision):
    model = tiny("deberta-v2")
    method = attach(model, "1.5k")
    loop = loop_of(model, method, tokens(16), 6, batch_size=8, precision=precision)
    # After the loop has rounded them to its precision.
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    for step in range(1, 7):
        loop.train_step(step)
    for name, p in model.named_parameters():
        assert name not in before or torch.equal(p, before[name])
    assert len(before) > 12


def test_under_bf16_the_noise_is_added_in_float32_and_rounded_once():
    method = attach(tiny("roberta"), rho=1.0)
    layer = next(iter(method.layers.values()))
    layer.base.to(torch.bfloat16)  # as the loop does
    method.noise(5)
    name, W = next(iter(method.layers)), layer.base.weight.float()
    drawn = torch.empty(32, 32).normal_(generator=method.run.generator(f"noise {name}", 5))
    std = (1 - math.cos(math.pi * 0.4)) / 2 * (W + layer.delta()).norm(dim=1) / math.sqrt(32)
    want = W + std[:, None] * drawn
    assert layer.perturbed.dtype == torch.bfloat16
    # Rounding ε before the sum, too, would change a fifth of the sums; another order of the
    # operations in float32 changes next to none.
    assert (layer.perturbed == want.to(torch.bfloat16)).float().mean() > 0.99


def test_evaluation_is_without_noise_and_rank_0_matrices_are_left_alone():
    model, batch = tiny("roberta"), batches(1)[0]
    method = attach(model, "0.5k")
    clean = model.eval()(**batch).logits
    method.noise(8)
    assert torch.equal(model(**batch).logits, clean)
    assert not torch.equal(model.train()(**batch).logits, clean)
    layers = method.layers.values()
    assert all((layer.perturbed is None) == (layer.rank == 0) for layer in layers)
    assert {layer.rank for layer in layers} == {0, 1}


def test_without_noise_training_is_loras_bit_for_bit():
    def trained(kind, steps, **settings):
        """Returns the factors after some steps."""
        model = tiny("roberta")
        method = attach(model, kind=kind, **settings)
        loop = loop_of(model, method, tokens(16), 10, batch_size=8)
        for step in range(1, steps + 1):
            loop.train_step(step)
        return torch.cat([p.detach().flatten() for q in method.layers.values() for p in (q.A, q.B)])

    assert torch.equal(trained(FlatLoRA, 4, rho=0.0), trained(LoRA, 4))
    assert not torch.equal(trained(FlatLoRA, 4), trained(LoRA, 4))


@pytest.mark.parametrize("rho", [-0.1, math.nan])
def test_a_setting_out_of_range_is_named_with_its_rule(rho):
    (problem,) = settings_of("flat_lora", rho=rho).problems(100)
    assert problem == f"method.rho={rho} must lie in [0, inf); the paper uses 0.05"
    assert settings_of("flat_lora").problems(100) == []


@pytest.mark.slow  # two processes start: 8 s
def test_two_processes_draw_one_noise(tmp_path):
    # A step of one learning rate: with other noise in each process weights would part.
    words = ("method=flat_lora", "budget=r2", "max_steps=8", "head_dropout=0", "lr=1e-2")
    words = (*words, "method.rho=0.5", "limit_train=64")
    run(small(tmp_path / "one", *words))
    ended = together(tmp_path, *small_words(tmp_path / "two", *words))
    assert ended.returncode == 0, ended.stdout
    run(small(tmp_path / "none", *words[:-2], "method.rho=0", "limit_train=64"))
    one, two, none = (
        load_file(only_run(tmp_path / name) / "best.safetensors") for name in ("one", "two", "none")
    )
    B = [name for name in one if name.endswith(".B")]

    def apart(other):
        return sum((one[name] - other[name]).norm().item() for name in B)

    assert apart(two) < 0.02 * apart(none)
