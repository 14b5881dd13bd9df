"""Values that are not finite are named with their step.

Nothing is trained on them, allocated by them or checkpointed with them.
"""

import shutil

import pytest
import safetensors.torch
import torch

from conftest import METHODS, linears, loop_of, tiny, tokens, train_head_only
from dora.adapters.allocation import allocate
from dora.adapters.budget import Budget
from dora.backbones import backbone
from dora.errors import RunFailed, UserError
from dora.methods.base import RunInfo
from dora.training import checkpoint
from dora.training import step as training
from dora.training.finite import FiniteWatch, not_finite
from dora.training.loop import Loop
from runs import only_run, record, run, same_files, small

NAN = float("nan")


def dora_loop(method="dora", total_steps=40):
    """Returns a loop on a small model; `method`: dora or adalora."""
    model = tiny("roberta")
    train_head_only(model)
    kind, cls = METHODS[method]
    plan = cls.plan(kind(), Budget(rank=4), linears(model), RunInfo(100, 3))
    attached = cls(kind(), model, plan, RunInfo(total_steps, 0))
    return loop_of(model, attached, tokens(64), total_steps, batch_size=8)


# Each of these lets one kind of value stop being finite. They are written in the order of a step.


def spoil_loss(loop, patch):
    """Makes every further loss NaN."""
    patch.setattr(training, "task_loss", lambda task, logits, labels: logits.sum() * NAN)


def spoil_penalty(loop, patch):
    """Makes every further penalty NaN."""
    patch.setattr(loop.setup.method, "penalty", lambda step: torch.tensor(NAN, requires_grad=True))


def spoil_gradients(loop, patch):
    """Makes one matrix's gradients infinite; loss and penalty stay finite."""
    next(iter(loop.setup.method.layers.values())).A.register_hook(lambda g: g * float("inf"))


def spoil_weights(loop, patch):
    """Makes a bias of the head infinite, as a device's fault might."""
    with torch.no_grad():
        loop.stepper.parameters["classifier.out_proj.bias"].fill_(float("inf"))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_loss, "loss not finite at step 3"),
        (spoil_penalty, "penalty not finite at step 3"),
        (spoil_gradients, "the gradients not finite at step 3"),
        (
            spoil_weights,
            r"weights not finite after step 2: classifier.out_proj.bias \(2 of its 2 values\)",
        ),
    ],
)
def test_what_is_not_finite_is_named_with_its_first_step(spoil, named, monkeypatch):
    loop = dora_loop()
    for step in range(1, 6):
        if step == 3:
            loop.stepper.check_finite(2)
            spoil(loop, monkeypatch)
            if spoil is spoil_weights:
                break  # a further step would show a loss that is not finite
        loop.train_step(step)
    with pytest.raises(RunFailed, match=f"^diverged: {named}; lower lr"):
        loop.stepper.check_finite(2)


def test_of_several_processes_the_first_to_see_it_is_believed(monkeypatch):
    found = [(5, 0), None, (3, 2), (3, 1)]
    monkeypatch.setattr("dora.training.step.World.gather", lambda world, own: found)
    with pytest.raises(RunFailed, match=r"^diverged: penalty not finite at step 3;"):
        dora_loop().stepper.check_finite(5)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_gradients_are_watched_whether_clipped_or_not(clip):
    loop = dora_loop()
    loop.setup.config.clip = clip  # 0: clip_grad_norm_, which would give the norm, is not called
    spoil_gradients(loop, None)
    loop.train_step(1)
    with pytest.raises(RunFailed, match="the gradients not finite at step 1"):
        loop.stepper.check_finite(1)


@pytest.mark.parametrize("method", ["dora", "adalora"])
def test_scores_that_are_not_finite_prune_nothing(method, monkeypatch):
    loop = dora_loop(method)
    stored = "_smoothed" if method == "dora" else "_sensitivity"

    def train():
        for step in range(1, 21):
            # The method's own averages, which nothing else watches. A sort would put NaN anywhere.
            scores = getattr(loop.setup.method, stored)[0]
            (scores if method == "dora" else scores[0])[0, 0] = NAN
            loop.train_step(step)

    with pytest.raises(
        RunFailed, match=r"diverged: importance scores not finite \(\d+ of 72\) at step \d+"
    ):
        train()
    assert all(layer.live().all() for layer in loop.setup.method.layers.values())


def test_scores_of_a_diverged_loss_blame_the_loss(monkeypatch):
    loop = dora_loop()
    spoil_loss(loop, monkeypatch)

    def train():
        for step in range(1, 8):
            loop.train_step(step)

    # The window begins at step 6: the scores fail there, of a loss that failed in step 1.
    with pytest.raises(RunFailed, match="diverged: loss not finite at step 1;"):
        train()


@pytest.mark.parametrize(
    ("moment", "named"),
    [
        ("adjust_gradients", "the gradients"),
        ("adjust_clipped_gradients", "loss"),
        ("update", "loss"),
    ],
)
def test_a_moment_that_fails_in_the_step_of_a_diverged_loss_blames_it(moment, named, monkeypatch):
    loop = dora_loop()
    spoil_loss(loop, monkeypatch)

    def fail(*_):
        raise torch.linalg.LinAlgError("the input holds NaN")

    monkeypatch.setattr(loop.setup.method, moment, fail)
    with pytest.raises(RunFailed, match=f"^diverged: {named} not finite at step 1;"):
        loop.train_step(1)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_no_component_is_chosen_by_a_score_that_is_not_finite(value):
    with pytest.raises(FloatingPointError, match="1 of 3"):
        allocate([torch.tensor([1.0, value]), torch.tensor([2.0])], [1, 1], 2)


def test_a_run_with_a_loss_that_was_not_finite_is_unsound_even_with_finite_weights():
    loop = dora_loop()
    assert loop.stepper.sound()
    loop.stepper.watch.see(1, torch.tensor(NAN), None, torch.tensor(1.0))
    assert not loop.stepper.sound()


def test_a_run_with_weights_that_are_not_finite_is_unsound_even_after_finite_losses():
    loop = dora_loop()
    loop.train_step(1)
    assert loop.stepper.sound()
    spoil_weights(loop, None)
    assert not loop.stepper.sound()


def test_the_watch_remembers_the_first_of_several():
    watch, fine, bad = FiniteWatch(torch.device("cpu")), torch.tensor(1.0), torch.tensor(NAN)
    watch.see(1, fine, None, fine)
    assert watch.found() is None
    watch.see(2, fine, fine, bad)
    watch.see(3, bad, bad, bad)  # too late: the gradients of step 2 were first
    assert watch.found() == (2, 2)


def test_tensors_of_whole_numbers_and_empty_ones_are_finite():
    assert not_finite({"ids": torch.arange(3), "empty": torch.zeros(0, 4)}) is None
    assert (
        not_finite({"a": torch.tensor([1.0, NAN]), "b": torch.tensor([NAN])})
        == "a (1 of its 2 values) and 1 more tensors"
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_that_hold_nan_are_named_and_no_learning_rate_is_blamed(method, tmp_path):
    # Three values of one tensor, as a damaged download may have.
    folder = shutil.copytree(backbone.ASSETS / "tiny_roberta", tmp_path / "model")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = next(n for n in tensors if n.endswith("layer.1.output.dense.weight"))
    tensors[name][0, :3] = NAN
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError,
        match=rf"the weights in {folder} hold NaN or infinity: "
        r".*layer.1.output.dense.weight \(3 of its",
    ):
        run(small(tmp_path, f"model.path={folder}", f"method={method}"))
    assert record(tmp_path)["status"] == "failed"


def spoiled_at(step):
    """Returns a `Loop.train_step` that loses the weights before step `step`."""
    original = Loop.train_step

    def train_step(self, number):
        if number == step:
            spoil_weights(self, None)
        return original(self, number)

    return train_step


def test_a_run_that_diverged_goes_on_once_from_its_last_sound_checkpoint(tmp_path, monkeypatch):
    words = "method=lora", "checkpoint_every=1", "max_steps=14", "eval_every=14"
    alone = run(small(tmp_path / "alone", *words))
    # Twice at step 13: the second time from the checkpoint of step 12, the last sound one.
    for number, from_step in ((1, []), (2, [12])):
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "train_step", spoiled_at(13))
            with pytest.raises(RunFailed, match="diverged: loss not finite at step 13"):
                run(small(tmp_path / "twice", *words))
        found = record(tmp_path / "twice")
        assert (found["status"], found["divergences"], found["resumed_from"]) == (
            "diverged",
            number,
            from_step,
        )
        assert checkpoint.newest(only_run(tmp_path / "twice") / "checkpoint") == 12
        if number == 1:  # the state from which a run whose cause has gone must recover
            shutil.copytree(tmp_path / "twice", tmp_path / "once")
    with pytest.raises(
        RunFailed, match=r"at step 13; lower lr .*force=true to start it anew: it diverged 2 times"
    ):
        run(small(tmp_path / "twice", *words))
    again = run(small(tmp_path / "once", *words))
    assert again["resumed_from"] == [12]
    assert again["results"] == alone["results"]
    same_files(only_run(tmp_path / "alone"), only_run(tmp_path / "once"))


def test_a_decomposition_of_values_that_are_not_finite_is_a_divergence(tmp_path):
    # Its steps decompose BᵀB, which LAPACK refuses where the step before made NaN of B.
    with pytest.raises(RunFailed, match=r"^diverged: loss not finite at step \d+; lower lr"):
        run(small(tmp_path, "method=lora_pro", "lr=1e4"))
    assert record(tmp_path)["status"] == "diverged"


def test_a_decomposition_that_fails_on_finite_values_is_no_divergence(monkeypatch):
    loop = dora_loop()

    def fail(step, rate):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(loop.setup.method, "update", fail)
    with pytest.raises(torch.linalg.LinAlgError):
        loop.train_step(1)
