"""What a saved adapter holds: all that training has changed, in a form that PEFT reads, or none of it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

import dora
from dora.errors import UserError
from own_models import batch, build, rows, train

X = 3 * torch.randn(64, 12, generator=torch.Generator().manual_seed(0)) + 1


def normed() -> nn.Sequential:
    """Returns a model with running averages in the backbone and in the head; always equal."""
    torch.manual_seed(0)
    top = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 3))
    parts = {"first": nn.Linear(12, 12), "norm": nn.BatchNorm1d(12), "top": top}
    return nn.Sequential(OrderedDict(parts))


def trained(model: nn.Module, **given: Any) -> dora.Adapter:
    """Returns an adapter of the model after five steps."""
    adapter = dora.attach(model, "lora", "r2", **given)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for _ in range(5):
        model(X).pow(2).sum().backward()
        optimizer.step()
        adapter.step()
        optimizer.zero_grad()
    return adapter


def test_running_averages_of_what_is_trained_whole_are_saved_with_it(tmp_path: Path) -> None:
    model, fresh, again = normed(), normed(), normed()
    adapter = trained(model, head=["norm", "top"])
    adapter.save(tmp_path)
    expected = model.eval()(X)
    torch.testing.assert_close(PeftModel.from_pretrained(fresh, tmp_path).eval()(X), expected)
    other = dora.attach(again, "lora", "r2", head=["norm", "top"])
    other.load_state_dict(copy.deepcopy(adapter.state_dict()))
    assert torch.equal(again.eval()(X), expected)


def test_running_averages_that_pefts_file_has_no_place_for_are_told_and_in_the_state(
    tmp_path: Path,
) -> None:
    model, again = normed(), normed()
    adapter = trained(model, head=["top"])
    with pytest.raises(
        UserError, match=r"moved the running averages of norm.*in head=, or hold it"
    ):
        adapter.save(tmp_path)
    dora.attach(again, "lora", "r2", head=["top"]).load_state_dict(adapter.state_dict())
    assert torch.equal(again.eval()(X), model.eval()(X))


def test_running_averages_that_were_held_are_no_hindrance(tmp_path: Path) -> None:
    model, fresh = normed(), normed()
    model.norm.eval()  # and stays so: nothing below calls train()
    trained(model, head=["top"]).save(tmp_path)
    loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(loaded(X), model.eval()(X))


def test_a_parameter_that_the_file_would_leave_out_is_named(tmp_path: Path) -> None:
    model = build("bert")
    adapter = dora.attach(model, "lora", "r2")
    norm = model.get_submodule("bert.embeddings.LayerNorm").requires_grad_(True)
    assert any(p is norm.weight for p in adapter.parameters())
    with pytest.raises(UserError, match=r"embeddings.LayerNorm.bias are trained too, and PEFT's"):
        adapter.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_head_whose_weight_is_anothers_too_is_told_before_training_and_not_saved(
    tmp_path: Path,
) -> None:
    model = build("gpt2")  # its output is its embedding
    with pytest.warns(UserWarning, match="save.. will be refused: lm_head.weight is transformer.w"):
        adapter = dora.attach(model, "lora", "r2", head=["lm_head"])
    with pytest.raises(UserError, match=r"leave it out of head=, or keep state_dict\(\)"):
        adapter.save(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_model_that_takes_no_text_is_read_without_a_text_models_task(tmp_path: Path) -> None:
    def whisper() -> Any:
        torch.manual_seed(0)
        layers = {"encoder_layers": 1, "decoder_layers": 1, "max_source_positions": 10}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_mel_bins": 8}
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        config = WhisperConfig(vocab_size=9, d_model=16, **layers, **heads, **ids)
        return WhisperForConditionalGeneration(config).eval()

    model, fresh = whisper(), whisper()
    adapter = dora.attach(model, "lora", "r2")
    for p in adapter.parameters():
        nn.init.normal_(p, std=0.1)
    adapter.save(tmp_path)
    loaded = PeftModel.from_pretrained(fresh, tmp_path)
    given = {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": torch.ones(2, 3).long()}
    torch.testing.assert_close(loaded(**given).logits, model(**given).logits)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("head", [[], pytest.param(["bert.pooler"], marks=pytest.mark.slow)])
def test_a_classifier_that_is_adapted_is_not_taken_for_one_that_is_trained_whole(
    head: list[str], tmp_path: Path
) -> None:
    model, fresh = build("bert"), build("bert")
    adapter = dora.attach(model, "lora", "r2", head=head)
    assert "classifier" in adapter.ranks()
    for p in adapter.parameters():
        nn.init.normal_(p, std=0.1)
    adapter.save(tmp_path)
    given = batch(rows("bert"), 1)
    loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(loaded(**given).logits, model.eval()(**given).logits)


def test_a_state_that_is_loaded_over_evaluated_weights_is_computed_with() -> None:
    saved = build("mlp")
    dora.attach(saved, "lora", "r2", init="pissa")
    model: Any = nn.Module.apply(build("mlp"), lambda m: [p.data.mul_(2) for p in m.parameters()])
    dora.attach(model, "lora", "r2", init="pissa")
    given = batch(rows("mlp"), 1)
    assert not torch.equal(model(**given)["logits"], saved(**given)["logits"])
    model.load_state_dict(saved.state_dict())
    assert torch.equal(model(**given)["logits"], saved(**given)["logits"])


@pytest.mark.parametrize("wrap", [pytest.param("compile", marks=pytest.mark.slow), "parallel"])
def test_a_wrapper_whose_names_are_not_the_models_is_refused(wrap: str) -> None:
    inner = build("mlp")
    model: Any = (
        torch.compile(inner, backend="eager") if wrap == "compile" else nn.DataParallel(inner)
    )
    with pytest.raises(UserError, match="attach to the model itself"):
        dora.attach(model, "lora", "r2")
    assert type(inner.first) is nn.Linear


def test_a_model_that_is_one_linear_is_told_to_stand_in_a_module() -> None:
    with pytest.raises(UserError, match=r"as torch.nn.Sequential\(linear\)"):
        dora.attach(nn.Linear(8, 8), "lora", "r2")
    assert list(dora.attach(nn.Sequential(nn.Linear(8, 8)), "lora", "r2").ranks()) == ["0"]


def test_a_state_of_the_best_checkpoint_brings_its_ranks_back_behind_a_pruning() -> None:
    held, model = rows("mlp"), build("mlp")
    adapter = dora.attach(model, "dora", "r4", 16)
    optimizer = train(model, adapter, held, 4)
    best = copy.deepcopy(model.state_dict())
    assert sum(adapter.ranks().values()) == 18
    train(model, adapter, held)
    assert sum(adapter.ranks().values()) == 12
    model.load_state_dict(best)
    assert (adapter.taken, sum(layer.rank for layer in adapter.method.layers.values())) == (4, 18)
    assert optimizer.param_groups
