"""A GLUE benchmark suite for LoRA, AdaLoRA, DoRA and full fine-tuning at equal parameter budgets.

DoRA here is *dynamic rank distribution* (Mao et al., ACL 2024, arXiv 2405.17357), not the
weight-decomposed DoRA of Liu et al. (arXiv 2402.09353) that PEFT calls `use_dora`.
"""

__version__ = "0.1.0"
