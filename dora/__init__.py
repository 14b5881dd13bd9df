"""A GLUE benchmark suite for LoRA, AdaLoRA, DoRA and full fine-tuning at equal parameter budgets.

DoRA here is *dynamic rank distribution* (Mao et al., ACL 2024, arXiv 2405.17357), not the
weight-decomposed DoRA of Liu et al. (arXiv 2402.09353) that PEFT calls `use_dora`.
"""

from pathlib import Path

__version__ = "0.1.0"
# In a wheel conf/ lies inside the package, in a checkout beside it.
PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parent
ASSETS = PACKAGE / "assets"
PLUGINS = PACKAGE / "cli" / "plugin"  # for sys.path, where Hydra finds hydra_plugins
CONF = next(d for d in (PACKAGE / "conf", CHECKOUT / "conf") if d.is_dir())
