"""An exported adapter is one that stock PEFT loads, with the logits that the run recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from dora import backbone
from dora.backbone import load_model, locate
from dora.prepare import prepare
from runs import only_run, run, small


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # read by PEFT
@pytest.mark.parametrize(("model", "method"), [("tiny_roberta", "dora"), ("tiny_deberta", "dora"),
                                               ("tiny_roberta", "adalora"), ("tiny_deberta", "lora")])  # fmt: skip
def test_pefts_logits_equal_the_recorded_ones(model: str, method: str, tmp_path: Path) -> None:
    config = small(tmp_path, f"model={model}", f"method={method}", "budget=1500")
    record = run(config)
    assert 0 in record["ranks"]["end"].values()  # a matrix without a component, which PEFT would refuse
    prepared = prepare(config)
    base, _ = load_model(locate(None, model, None, None, "main", False), 2, None, seed=99)
    peft = PeftModel.from_pretrained(base, only_run(tmp_path) / "adapter").eval()
    tokenizer = backbone.load_tokenizer(prepared.model)
    dev = prepared.rows["dev"]
    recorded = np.load(only_run(tmp_path) / "predictions.npz")["best/dev/logits"]
    batch = tokenizer(dev.first[:32], dev.second[:32], truncation=True, max_length=config.max_length,
                      padding=True, return_tensors="pt", return_token_type_ids=False)  # fmt: skip
    with torch.no_grad():
        logits = peft(**batch).logits.numpy()
    assert np.abs(logits - recorded[:32]).max() < 1e-5
