"""Exports of bottleneck adapters have the `adapters` library's names and shapes, and the logits."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dora.backbones.backbone import ASSETS
from dora.data import npz
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.sharing.adapters_library import config_of, file_problems, renamed
from dora.sharing.exporting import export
from dora.sharing.form import Form
from runs import change_record, only_run, run, small, small_glue

SHORT = ("max_steps=4", "lr=1e-2", "warmup=0", "limit_train=32")


def named(sizes, at="attention.output", width=384):
    """Returns shapes of adapters with these bottlenecks, one for each layer, by name."""
    return {
        f"roberta.encoder.layer.{i}.{at}.adapter.down.weight": (m, width)
        for i, m in enumerate(sizes)
    }


def made(method, shapes, model_type=None):
    """Returns adapter_config.json of a run on RTE. `model_type`: run.json's, absent in old ones."""
    activation = {"houlsby": "swish", "pfeiffer": "relu"}[method]
    settings = {"name": method, "activation": activation, "dropout": 0.0, "layer_norm": False}
    model = {} if model_type is None else {"type": model_type}
    run = {"config": {"task": "rte", "method": settings}, "model": model}
    return config_of(run, shapes, "owner/base")


def test_tensors_have_the_librarys_names():
    place = "deberta.encoder.layer.11.attention.output"
    ours = [f"{place}.adapter.{part}" for part in ("down.weight", "down.bias", "up.weight")]
    assert [renamed(name, "rte") for name in ours] == [
        f"{place}.adapters.rte.adapter_down.0.weight",
        f"{place}.adapters.rte.adapter_down.0.bias",
        f"{place}.adapters.rte.adapter_up.weight",
    ]
    assert renamed("roberta.encoder.layer.0.output.adapter.up.bias", "x") == (
        "roberta.encoder.layer.0.output.adapters.x.adapter_up.bias"
    )
    assert renamed("classifier.dense.weight", "rte") is None


# Both have `roberta.` before their tensors' names.
@pytest.mark.parametrize(
    ("recorded", "kind", "of"),
    [
        (None, "roberta", "Roberta"),
        ("roberta", "roberta", "Roberta"),
        ("xlm-roberta", "xlm-roberta", "XLMRoberta"),
        ("mpnet", "roberta", "Roberta"),  # no record of this suite
    ],
)
def test_the_record_tells_architectures_with_equal_names_apart(recorded, kind, of):
    found = made("pfeiffer", named([24], "output"), recorded)
    assert (found["model_type"], found["model_class"]) == (kind, f"{of}ForSequenceClassification")


def test_one_bottleneck_is_one_reduction_factor():
    found = made("pfeiffer", named([24] * 6, "output"))
    assert found == {
        "config": {
            "mh_adapter": False,
            "output_adapter": True,
            "reduction_factor": 16.0,
            "non_linearity": "relu",
            "original_ln_before": True,
            "original_ln_after": True,
            "residual_before_ln": True,
            "init_weights": "bert",
            "scaling": 1.0,
            "dropout": 0.0,
        },
        "hidden_size": 384,
        "model_class": "RobertaForSequenceClassification",
        "model_name": "owner/base",
        "model_type": "roberta",
        "name": "rte",
        "version": "adapters.1.2.0",
    }
    both = made("houlsby", named([24] * 6) | named([24] * 6, "output"))["config"]
    assert (both["mh_adapter"], both["output_adapter"]) == (True, True)
    assert (both["original_ln_before"], both["non_linearity"]) == (False, "swish")


def test_unlike_bottlenecks_in_a_layer_are_a_union_of_two_configurations():
    # 3 of 4 adapters have a unit more, in layer order.
    config = made("houlsby", named([8, 8]) | named([8, 7], "output"))["config"]
    assert config["architecture"] == "union"
    attention, output = config["configs"]
    assert (attention["mh_adapter"], attention["output_adapter"]) == (True, False)
    assert (output["mh_adapter"], output["output_adapter"]) == (False, True)
    assert attention["reduction_factor"] == 48.0
    assert {k: int(384 // f) for k, f in output["reduction_factor"].items()} == {"0": 8, "1": 7}


@pytest.mark.parametrize("width", [192, 384, 768, 1024])
def test_the_librarys_rounding_gives_every_bottleneck_back(width):
    for m in range(1, width + 1):
        factor = made("pfeiffer", named([m], "output", width))["config"]["reduction_factor"]
        assert int(width // factor) == m


class ByLibrary(nn.Module):
    """The end of a half layer with an exported adapter in it, computed as the library does."""

    def __init__(self, of, tensors, config):
        super().__init__()
        self.dense, self.LayerNorm, self.config = of.dense, of.LayerNorm, config
        self.t = tensors

    def forward(self, x, residual):
        h, c, t = self.dense(x), self.config, self.t
        z = self.LayerNorm(h + residual) if c["original_ln_before"] else h
        act = {"swish": F.silu, "relu": F.relu, "gelu": F.gelu}[c["non_linearity"]]
        down = act(F.linear(z, t["adapter_down.0.weight"], t["adapter_down.0.bias"]))
        up = F.linear(down, t["adapter_up.weight"], t["adapter_up.bias"]) * c["scaling"]
        return self.LayerNorm(h + up + residual)


def by_library(folder, base):
    """Returns the base model with the export in `folder`, read by the library's rules alone."""
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    about = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter.safetensors")
    name, d = about["name"], about["hidden_size"]
    assert type(model).__name__ == about["model_class"]
    assert model.config.model_type == about["model_type"]
    configs = about["config"].get("configs", [about["config"]])
    layers = getattr(model, model.base_model_prefix).encoder.layer
    used = set()
    for config in configs:
        for i, layer in enumerate(layers):
            owners = [layer.attention] * config["mh_adapter"] + [layer] * config["output_adapter"]
            for owner in owners:
                where = "attention.output" if owner is layer.attention else "output"
                start = f"{model.base_model_prefix}.encoder.layer.{i}.{where}.adapters.{name}."
                own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
                factor = config["reduction_factor"]
                factor = factor[str(i)] if isinstance(factor, dict) else factor
                m = int(d // factor)
                assert {n: tuple(t.shape) for n, t in own.items()} == {
                    "adapter_down.0.weight": (m, d),
                    "adapter_down.0.bias": (m,),
                    "adapter_up.weight": (d, m),
                    "adapter_up.bias": (d,),
                }
                owner.output = ByLibrary(owner.output, own, config)
                used |= {start + n for n in own}
    assert used == tensors.keys()
    head = load_file(folder / "model_head.safetensors")
    inside = model.base_model_prefix + "."
    assert head.keys() == {n for n, _ in model.named_parameters() if not n.startswith(inside)}
    model.load_state_dict(head, strict=False)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "budget", "model"),
    [("houlsby", "3k", "tiny_roberta"), ("pfeiffer", "3k", "tiny_deberta")],
)
def test_an_export_read_by_the_librarys_rules_gives_the_recorded_logits(
    name, budget, model, tmp_path
):
    run(small(tmp_path, f"method={name}", f"budget={budget}", f"model={model}", *SHORT))
    folder = only_run(tmp_path)
    export(folder, tmp_path / "out", Form())
    rows = read_dir(TASKS["wnli"], small_glue())["dev"]
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / model)
    batch = tokenizer(
        rows.first, rows.second, truncation=True, max_length=48, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = by_library(tmp_path / "out", ASSETS / model)(**batch).logits.numpy()
    np.testing.assert_allclose(logits, npz.load(folder)["best/dev/logits"], rtol=0, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: adapter-transformers\n" in card
    assert "## Bottlenecks\n" in card
    assert "| adapters as stored " in card
    assert "Adapters in the layout of the `adapters` library" in card


def test_an_export_that_the_library_cannot_hold_is_refused_with_the_way_out(tmp_path):
    run(small(tmp_path, "method=pfeiffer", "budget=r1", "method.layer_norm=true", *SHORT))
    folder = only_run(tmp_path)
    with pytest.raises(UserError) as caught:
        export(folder, tmp_path / "out", Form(merge=True))
    merge, norms = caught.value.problems
    assert merge == (
        "--merge: adapters are not linear in their input, so that no weight can take them in; "
        "export without --merge, for the adapters library"
    )
    assert "train with method.layer_norm=false to export adapters" in norms
    record = json.loads((folder / "run.json").read_text())
    config = {**record["config"], "method": {"name": "other"}}
    change_record(folder, config=config)
    with pytest.raises(UserError, match=r"method=other leaves modules of its own, .*best\.safe"):
        export(folder, tmp_path / "out", Form())


def test_a_tensor_of_the_backbone_is_no_part_of_an_export(tmp_path):
    names = ["roberta.encoder.layer.0.output.adapter.up.bias", "classifier.dense.bias"]
    names += ["roberta.encoder.layer.0.output.dense.bias", "roberta.pooler.dense.bias"]
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "best.safetensors")
    assert file_problems(tmp_path) == [
        "best.safetensors holds roberta.encoder.layer.0.output.dense.bias, "
        "which is no part of an adapter"
    ]
