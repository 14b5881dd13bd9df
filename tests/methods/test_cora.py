"""CoRA: a case worked by hand, bases from weights and from runs, and what a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import attach_method, loop_of, settings_of, tiny, tokens
from dora.adapters.budget import Budget, Matrix
from dora.adapters.peft import factor_name
from dora.adapters.singular import common_basis, common_basis_of_weights
from dora.methods.base import RunInfo
from dora.methods.cora import CoRA
from runs import cut, only_run, refused, run, same_files, small, small_words


def attach(model: nn.Module, budget: str = "r2", **given: Any) -> CoRA:
    """Returns the method attached to the model, whose head is trained too."""
    return attach_method(model, "cora", budget, RunInfo(20, 3), **given)


def factors(M: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (A, B) with B A = M."""
    return torch.eye(M.shape[1], dtype=M.dtype), M


@pytest.mark.parametrize("basis", ["fixed", "init"])
def test_the_published_case_of_two_updates(basis: str) -> None:
    first = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    second = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    common = common_basis([factors(first), factors(second)], 1)
    torch.testing.assert_close(common, torch.full((2, 1), 0.5).double().sqrt())
    torch.testing.assert_close(common_basis_of_weights([first, second], 1), common)

    model = nn.ModuleDict({"w": nn.Linear(2, 2, bias=False)})
    settings, run = settings_of("cora", alpha=1.0, basis=basis), RunInfo(20, 3)
    plan = CoRA.plan(settings, Budget.parse("r1"), (Matrix("w", 2, 2),), run)
    layer = CoRA(settings, model, plan, run).layers["w"]
    layer.B.data = common.float()
    layer(torch.tensor([[1.0, 3.0]])).backward(torch.tensor([[1.0, 2.0]]))
    want = torch.tensor([[1.0, 3.0]]) * 3 / math.sqrt(2)
    torch.testing.assert_close(layer.A.grad, want)
    if basis == "init":
        assert layer.B.grad.tolist() == [[0.0], [0.0]]
    else:
        assert layer.B.grad is None


def test_a_basis_equals_the_singular_vectors_of_updates_side_by_side() -> None:
    torch.manual_seed(0)
    pairs = [(torch.randn(3, 7), torch.randn(6, 3) * scale) for scale in (1.0, 100.0, 0.01)]
    whole = [(B @ A).double() for A, B in pairs]
    side = torch.cat([M / torch.linalg.matrix_norm(M) for M in whole], dim=1)
    U = torch.linalg.svd(side).U[:, :4]
    found = common_basis(pairs, 4)
    torch.testing.assert_close(found.t() @ found, torch.eye(4).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found @ found.t(), U @ U.t(), rtol=0, atol=1e-6)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()
    other = common_basis_of_weights([*whole, torch.zeros(6, 7)], 4)  # zeros count not at all
    torch.testing.assert_close(other, found, rtol=0, atol=1e-6)


def test_directions_that_would_come_from_rounding_are_refused() -> None:
    torch.manual_seed(1)
    A, B = torch.randn(2, 9), torch.randn(7, 2)
    assert common_basis([(A, B)], 2).shape == (7, 2)
    # A weak direction is still one: 1e-5 of the first is a hundred times the rounding.
    weak = torch.diag(torch.tensor([1.0, 1e-5]))
    torch.testing.assert_close(common_basis([factors(weak)], 2), torch.eye(2).double())
    # The same update twice, once in other factors.
    turn = torch.linalg.qr(torch.randn(2, 2))[0]
    with pytest.raises(ValueError, match="span 2 directions, 3 are needed"):
        common_basis([(A, B), (turn.t() @ A, B @ turn)], 3)


def test_a_run_that_left_a_matrix_as_it_was_adds_nothing_to_its_basis(tmp_path: Path) -> None:
    torch.manual_seed(0)
    files = []
    for name, B in (("moved", torch.randn(5, 2)), ("still", torch.zeros(5, 2))):
        files.append(tmp_path / f"{name}.safetensors")
        pair = {factor_name("w", "A"): torch.randn(2, 4), factor_name("w", "B"): B}
        save_file(pair, files[-1])
    settings, bases = settings_of("cora"), []
    for sources in (files[:1], files):
        run = RunInfo(20, 3, sources=tuple(sources))
        plan = CoRA.plan(settings, Budget.parse("r1"), (Matrix("w", 4, 5),), run)
        method = CoRA(settings, nn.ModuleDict({"w": nn.Linear(4, 5)}), plan, run)
        method.begin(lambda n: pytest.fail("no rows are needed"))
        bases.append(method.layers["w"].B.detach())
    assert torch.equal(*bases)
    assert bases[0].norm().item() == pytest.approx(1)


def test_a_whole_models_change_is_its_weight_less_the_backbones(tmp_path: Path) -> None:
    model = nn.ModuleDict({"w": nn.Linear(4, 5)})
    change = torch.zeros(5, 4)
    change[2] = 1.0
    file = tmp_path / "best.safetensors"
    save_file({"w.weight": model.get_parameter("w.weight").detach() + change}, file)
    settings, run = settings_of("cora"), RunInfo(20, 3, sources=(file,))
    plan = CoRA.plan(settings, Budget.parse("r1"), (Matrix("w", 4, 5),), run)
    method = CoRA(settings, model, plan, run)
    method.begin(lambda n: pytest.fail("no rows are needed"))
    B = method.layers["w"].B.detach()
    torch.testing.assert_close(B[:, 0], torch.eye(5)[2], rtol=0, atol=1e-6)


def test_a_smaller_rank_takes_the_first_columns_of_its_kinds_basis() -> None:
    method = attach(tiny("roberta"), "2k")
    method.begin(lambda n: pytest.fail("no rows are needed"))
    layers = list(method.layers.values())
    pairs = list(zip(layers[:6], layers[6:], strict=True))
    assert any(0 < min(a.rank, b.rank) < max(a.rank, b.rank) for a, b in pairs)
    for a, b in pairs:
        rank = min(a.rank, b.rank)
        assert torch.equal(a.B[:, :rank], b.B[:, :rank])


@pytest.mark.parametrize("basis", ["fixed", "init"])
@pytest.mark.parametrize("architecture", ["roberta", "bert", "deberta-v2"])
def test_training_begins_at_the_backbone_from_one_basis_a_kind(
    architecture: str, basis: str
) -> None:
    model = tiny(architecture)
    batch = {"input_ids": torch.arange(5, 25).view(2, 10)}
    before = model.eval()(**batch).logits
    method = attach(model, basis=basis)
    method.begin(lambda n: pytest.fail("no rows are needed"))
    torch.testing.assert_close(model.eval()(**batch).logits, before, rtol=1e-5, atol=1e-6)
    layers = list(method.layers.values())
    starts = [layer.B.detach().clone() for layer in layers]
    # Two layers of six kinds: equal in both layers, other for each kind of one shape.
    assert all(torch.equal(a, b) for a, b in zip(starts[:6], starts[6:], strict=True))
    assert not torch.equal(starts[0], starts[1])
    loop = loop_of(model, method, tokens(32), 20, lr=1e-2, batch_size=8)
    for step in range(1, 6):
        loop.train_step(step)
    still = [torch.equal(layer.B, B) for layer, B in zip(layers, starts, strict=True)]
    assert still == [basis == "fixed"] * 12
    assert all(layer.delta().any() for layer in layers)
    assert len(method.frozen()) == (12 if basis == "fixed" else 0)


WORDS = ("method=cora", "budget=r2", "lr=1e-2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Trains a LoRA of rank 2 and a whole model, both on RTE; returns their directories."""
    found = []
    for words in (("method=lora", "budget=r2"), ("method=full", "keep_model=true")):
        place = tmp_path_factory.mktemp("source")
        run(small(place, "task=rte", "max_steps=4", "lr=1e-2", *words))
        found.append(only_run(place))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run; returns its directory."""
    place = tmp_path_factory.mktemp("cora")
    run(small(place, *WORDS))
    return only_run(place)


@pytest.mark.parametrize("step", [1, 13])
def test_a_run_cut_at_any_point_ends_as_one_left_alone(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, step, monkeypatch, *WORDS)
    monkeypatch.setattr(CoRA, "begin", lambda *_: pytest.fail("decomposed again"))
    run(small(tmp_path, *WORDS))
    same_files(finished, only_run(tmp_path))


def test_the_record_tells_stored_from_trained(finished: Path) -> None:
    params = json.loads((finished / "run.json").read_text())["params"]
    assert params["stored"] == params["in_peft_file"] == params["adapter_end"]
    # A alone: of a matrix as many columns as it has inputs.
    assert params["trained_at_once"] == params["trained_in_all"] == params["stored"] // 2


def test_a_run_goes_on_from_one_whose_basis_is_trained_as_its_own(
    finished: Path, tmp_path: Path
) -> None:
    words = small_words(tmp_path, *WORDS, "task=rte", f"init_from={finished}", "method.basis=init")
    [said] = refused(*words)
    assert "has another method.basis (fixed); this run has init" in said


def test_a_basis_of_runs_is_theirs_and_part_of_the_runs_identity(
    sources: list[Path], finished: Path, tmp_path: Path
) -> None:
    whole = f"method.runs=[{sources[0]},{sources[1]}]"
    record = run(small(tmp_path, *WORDS, whole))
    assert [s["task"] for s in record["sources"]] == ["rte", "rte"]
    assert [s["method"] for s in record["sources"]] == ["lora", "full"]
    assert only_run(tmp_path).parent.name != finished.parent.name
    assert "runs" not in record["config"]["method"]
    # LoRA's rank is 2: its basis spans the columns of s B.
    one = tmp_path / "one"
    run(small(one, *WORDS, f"method.runs=[{sources[0]}]"))
    from safetensors.torch import load_file

    ours = load_file(only_run(one) / "best.safetensors")
    theirs = load_file(sources[0] / "best.safetensors")
    names = [name for name in ours if name.endswith(".B")]
    assert len(names) == 12
    for name in names:
        Q, _ = torch.linalg.qr(theirs[name])
        torch.testing.assert_close(ours[name] @ ours[name].t(), Q @ Q.t(), rtol=0, atol=1e-4)
    # From another folder the same run is the same directory.
    moved = tmp_path / "moved"
    moved.symlink_to(sources[0])
    assert run(small(one, *WORDS, f"method.runs=[{moved}]"))["status"] == "done"
    only_run(one)


def test_a_run_that_began_from_one_on_this_task_is_refused(
    sources: list[Path], tmp_path: Path
) -> None:
    for task, earlier in (("stsb", sources[0]), ("wnli", tmp_path / "stsb")):
        started = f"init_from={earlier if earlier in sources else only_run(earlier)}"
        words = (f"task={task}", "max_steps=4", "lr=1e-2", "method=lora", "budget=r2", started)
        run(small(tmp_path / task, *words))
    last = only_run(tmp_path / "wnli")
    words = small_words(tmp_path, *WORDS, f"method.runs=[{last}]")
    [leak] = refused(*words, "task=rte")
    assert leak.endswith(f"{last} began from a run on rte, this run's own task; name another run")
    only_run(tmp_path / "stsb").rename(tmp_path / "moved")
    [gone] = refused(*words, "task=mnli")
    assert "which may be a run on this run's own task" in gone


def test_runs_that_do_not_fit_are_refused(sources: list[Path], tmp_path: Path) -> None:
    words = small_words(tmp_path, *WORDS[:2])
    assert refused(*words, "task=rte", f"method.runs=[{sources[0]}]")[0].endswith(
        "is a run on rte, this run's own task; name runs on other tasks"
    )
    [missing] = refused(*words, "method.runs=[nowhere]")
    assert missing.startswith("method.runs must name directories of finished runs: nowhere")
    [twice] = refused(*words, f"method.runs=[{sources[0]},{sources[0]}]")
    assert twice.endswith("name each run once")
    few = refused(*words, f"method.runs=[{sources[0]}]", "budget=r3")
    assert "in method.runs have 2 directions: name more runs" in few[0]
    file = sources[0] / "adapter" / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "adapter_model.safetensors" in refused(*words, f"method.runs=[{sources[0]}]")[0]
    file.write_bytes(whole)
    other = refused(*words, f"method.runs=[{sources[0]}]", "model=tiny_deberta")
    assert other[0].endswith("adapts another model than tiny_deberta")
