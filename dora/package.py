"""The package: its version, and where its files lie."""

from pathlib import Path

__version__ = "0.1.0"
PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parent
ASSETS = PACKAGE / "assets"
PLUGINS = PACKAGE / "cli" / "plugin"  # for sys.path, where Hydra finds hydra_plugins
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = next(d for d in (PACKAGE / "conf", CHECKOUT / "conf") if d.is_dir())
