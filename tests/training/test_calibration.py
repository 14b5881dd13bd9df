"""Training rows before the first step: the gradients that they leave, and LoRA-GA, which begins at
these, written as docs/adding-a-method.md has it. Inputs of layers: tests/methods/test_nora.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_outsider import example, put
from torch import Tensor, nn

import dora
from conftest import ARCHITECTURES, attach_method, config_of, tiny, tokens
from dora.backbones.attention import speed_up
from dora.backbones.backbone import load_model, load_tokenizer
from dora.data.order import order
from dora.methods.lora import LoRA
from dora.preparing.prepare import prepare
from dora.training.calibration import calibrator
from runs import only_run, small, small_glue, together

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_plain_autograds_by_the_whole_weights_and_the_factors(
    architecture: str,
) -> None:
    model, plain, train = tiny(architecture), tiny(architecture).double().eval(), tokens(40)
    # Few parameters: some matrices have no component, and their weights get gradients all the same.
    method = attach_method(model, "lora", "0.5k")
    layers = method.layers
    assert {layer.rank for layer in layers.values()} == {0, 1}
    for name, layer in layers.items():
        nn.init.normal_(layer.B, std=0.02)  # an update that is not 0
        plain.get_submodule(name).weight.data += layer.delta().double()
    speed_up(model, CPU)
    required = {name: p.requires_grad for name, p in model.named_parameters()}
    config = config_of(LoRA, seed=1, batch_size=8, batching="length")
    forward = calibrator(config, model, layers.values(), train, CPU)
    state = torch.get_rng_state()
    forward(5, backward=True)
    forward(12, backward=True)  # gradients of the call before don't count
    assert torch.equal(torch.get_rng_state(), state)  # no stream of training's was drawn from
    rows = np.concatenate(order(1, 0, train.lengths, 8, "length"))[:12]
    batch = {name: torch.from_numpy(values) for name, values in train.batch(rows).items()}
    logits = plain(**batch).logits  # padded, in one batch
    F.cross_entropy(logits, torch.from_numpy(np.asarray(train.label)[rows])).backward()
    for name, layer in layers.items():
        dW = plain.get_submodule(name).weight.grad
        near(layer.weight.grad, dW)
        if layer.rank:
            near(layer.A.grad, layer.scale * layer.B.detach().double().t() @ dW)
            near(layer.B.grad, layer.scale * dW @ layer.A.detach().double().t())
    for name, p in plain.named_parameters():
        if required.get(name):  # the head's
            near(model.get_parameter(name).grad, p.grad)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == required
    assert not any(layer._forward_hooks for layer in layers.values())


def test_a_weight_that_no_row_comes_through_has_a_gradient_of_zeros() -> None:
    model = tiny("roberta")
    layers = attach_method(model, "lora", "r2").layers.values()
    config = config_of(LoRA, seed=1, batch_size=8)
    calibrator(config, model, layers, tokens(8), CPU)(0, backward=True)
    assert not any(layer.weight.grad.any() for layer in layers)


def test_rows_of_one_length_are_run_in_batches_of_32_and_each_once() -> None:
    model, train = tiny("roberta"), tokens(500)
    layers = list(attach_method(model, "lora", "r2").layers.values())
    sizes: list[int] = []
    layers[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    calibrator(config_of(LoRA, seed=1, batch_size=8), model, layers, train, CPU)(500)
    assert (sum(sizes), max(sizes)) == (500, 32)


def near(found: Tensor, want: Tensor) -> None:
    """Asserts that they differ by less than rounding makes of them, 1e-5 of the norm."""
    assert (found.double() - want).norm() <= 1e-5 * want.norm()


# Training begins without a gradient, and with the tensors that the method trains alone.
BEGUN = """

class Watched(LoRAGA):
    def __init__(self, settings, model, plan, run):
        super().__init__(settings, model, plan, run)
        self._model = model

    def noise(self, step):
        parameters = dict(self._model.named_parameters())
        factors = {f"{n}.{f}" for n, layer in self.layers.items() for f in layer.factors()}
        trained = {name for name, p in parameters.items() if p.requires_grad}
        assert {name for name in trained if "classifier" not in name} == factors
        assert step > 1 or all(p.grad is None for p in parameters.values())
"""


def lora_ga(folder: Path) -> dict[str, Any]:
    """Writes the manual's LoRA-GA to a folder, and returns the arguments of its smallest run."""
    code, yaml = example(2)
    yaml = yaml.replace("mypackage.lora_ga.LoRAGA", "lora_ga_of_mine.Watched")
    put(folder, "lora_ga_of_mine.py", code + BEGUN, "lora_ga", yaml)
    return {
        "data": "dir",
        "data__dir": small_glue(),
        "max_steps": 2,
        "max_length": 48,
        "method__rows": 1000,  # all that there are: their order plays no part
        "config_dir": folder / "conf",
    }


def kept(folder: Path) -> dict[str, Tensor]:
    """Returns the start values that a run has kept: A0 and −s B0 of each matrix."""
    held = load_file(folder / "best.safetensors")
    return {name: t for name, t in held.items() if ".kept_" in name}


def test_lora_ga_begins_at_the_singular_vectors_of_the_first_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = lora_ga(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = dora.train("wnli", "lora_ga", "r2", results=str(tmp_path / "r"), **given)
    found = kept(run.folder)
    p = prepare(small(tmp_path, "method=lora", "budget=r2", "limit_train=null"))
    model, _ = load_model(p.model, 2, None, 1)
    rows = p.rows["train"]
    batch = load_tokenizer(p.model)(
        rows.first, rows.second, truncation=True, max_length=48, padding=True, return_tensors="pt"
    )
    logits = model.double().eval()(**batch).logits
    F.cross_entropy(logits, torch.from_numpy(np.asarray(rows.label))).backward()
    assert len(found) == 2 * len(run.record["ranks"]["end"])
    for name, rank in run.record["ranks"]["end"].items():
        assert rank == 2
        dW = model.get_submodule(name).weight.grad
        U, _, Vt = torch.linalg.svd(dW, full_matrices=False)
        size = len(dW) ** 0.25 / 4  # gamma = 16
        same_lines(found[f"{name}.kept_A"], size * Vt[:2])
        same_lines(found[f"{name}.kept_B"].t(), -16 / 2**0.5 * size * U[:, 2:4].t())


def test_a_run_that_begins_at_another_keeps_that_ones_start_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = lora_ga(tmp_path) | {"results": str(tmp_path / "r")}
    monkeypatch.syspath_prepend(str(tmp_path))
    first = dora.train("wnli", "lora_ga", "r2", **given)
    then = dora.train("rte", "lora_ga", "r2", init_from=str(first.folder), **given)
    before, after = kept(first.folder), kept(then.folder)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())


@pytest.mark.parametrize(("size", "precision"), [(1, "bf16"), (2, "fp32")])
def test_start_values_are_to_the_bit_those_of_one_process_in_32_bits(
    size: int, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = lora_ga(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given |= {"limit_train": 20, "batch_size": 8, "seed": 3}
    alone = dora.train("wnli", "lora_ga", "r2", results=str(tmp_path / "r"), **given)
    del given["config_dir"]
    said = [f"{key.replace('__', '.')}={value}" for key, value in given.items()]
    words = ["task=wnli", "method=lora_ga", "budget=r2", *said, f"precision={precision}"]
    words += [f"--config-dir={tmp_path / 'conf'}", f"results={tmp_path / 'other'}"]
    done = together(tmp_path, *words, size=size)
    assert done.returncode == 0, done.stdout
    found, want = kept(only_run(tmp_path / "other")), kept(alone.folder)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], t) for name, t in want.items())


def same_lines(found: Tensor, want: Tensor) -> None:
    """Asserts that rows agree, each up to its sign, which a decomposition leaves open."""
    signs = (found.double() * want).sum(1, keepdim=True).sign()
    torch.testing.assert_close(found.double() * signs, want, rtol=0, atol=1e-4)
