"""The methods that are released with the suite, each with the title that papers print.

Figures give the n-th method the n-th look (`dora/analysis/figures/style.py`): only append. Imports
no method, so that tables and figures know the titles without PyTorch.
"""

from __future__ import annotations

RELEASED = {
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "dora": "DoRA (dynamic rank)",
    "full": "full fine-tuning",
    "sora": "SoRA",
    "melora": "MELoRA",
    "lora_pro": "LoRA-Pro",
    "flat_lora": "Flat-LoRA",
    "bitfit": "BitFit",
    "houlsby": "Houlsby adapters",
    "pfeiffer": "Pfeiffer adapters",
    "chain": "Chain of LoRA",
    "xgblora": "XGBLoRA",
    "nora": "NoRA",
    "cora": "CoRA",
    "lora_fair": "LoRA-FAIR",
    "fedit": "FedIT",
    "ffa_lora": "FFA-LoRA",
    "weight_decomposed": "weight-decomposed DoRA",
}
