"""The module from which authors import keeps its names, and costs PyTorch alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dora import method

PAGE = (Path(__file__).parents[1] / "docs" / "adding-a-method.md").read_text()
# A name that is taken from this list breaks methods in other people's packages.
PROMISED = {
    *("Method", "Settings", "RunInfo", "FirstRows", "ParameterGroup", "UserError"),
    *("Budget", "Matrix", "Plan", "equal_plan", "pruning_plan", "equal_ranks", "start_ranks"),
    *("LowRankLinear", "ResidualLinear", "adapt", "allocate", "Mask", "Remove", "Renew"),
    *("in_range", "interval", "fraction_or_steps", "one_of"),
    *("layer_and_kind", "packing"),
}


def test_the_names_that_authors_import_are_there() -> None:
    assert set(method.__all__) == PROMISED
    assert all(hasattr(method, name) for name in PROMISED)


def test_the_manuals_examples_import_from_this_module_alone() -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    assert set(re.findall(r"^(?:from|import) (dora\S*)", code, re.MULTILINE)) == {"dora.method"}


def test_it_is_imported_without_transformers() -> None:
    code = "import dora.method, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "torch" in modules
    assert not modules & {"transformers", "hydra", "datasets"}
