"""Reads an export with the libraries that its users have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dora.backbones.backbone import ASSETS
from dora.data.sources import read_dir
from dora.data.tasks import TASKS
from runs import small_glue


def dev_logits(folder: Path, adapter: bool) -> np.ndarray:
    """Returns an export's logits of WNLI's development set in `small_glue`, (rows, 2).

    `adapter`: PEFT puts it on tiny_roberta; else Transformers loads it as a whole model.
    """
    base = ASSETS / "tiny_roberta"
    place = base if adapter else folder
    model = AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, folder)
    rows = read_dir(TASKS["wnli"], small_glue())["dev"]
    batch = AutoTokenizer.from_pretrained(base)(
        rows.first, rows.second, return_tensors="pt", padding=True, truncation=True, max_length=48
    )
    with torch.no_grad():
        return model.eval()(**batch).logits.numpy()
