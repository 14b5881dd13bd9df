"""Imports within the package point one way, from the commands down."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dora"
# The rows begin with the lowest, and a lower row may not import a higher one. A name is a wing (a
# folder), a room of one, or a module at the top of dora/.
ORDER = (
    ("errors", "package", "plain"),
    ("process",),
    ("files", "checked_files"),
    ("data",),
    ("adapters",),
    ("backbones",),
    # `method` stands beside it: what authors import, in this package or outside.
    ("methods", "method"),
    ("configuration",),
    ("guarding",),
    ("records",),
    ("preparing",),
    ("training",),
    ("analysis",),
    ("analysis.tables",),
    ("analysis.figures",),
    ("analysis.page",),
    ("sharing",),
    ("cli",),
    ("python",),
    ("attaching",),
    ("timing",),
    (*("run", "tables", "plots", "report", "status", "export"), "submit", "bench", "torchrun"),
    ("collect",),
    ("tune",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
MATHEMATICS = [name for name in FILES if name.startswith(("methods.", "adapters."))]


def imported(path: Path) -> set[str]:
    """Returns the dotted name of every module that a file imports, wherever in the file."""
    tree = ast.parse(path.read_text())
    found = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(path: Path) -> set[str]:
    """Returns the modules of this package that a file imports, without `dora.` before them."""
    return {name.removeprefix("dora.") for name in imported(path)} & FILES.keys()


def level(module: str) -> int:
    """Returns the row of a module: that of its room, else of its wing."""
    wing, *inner = module.split(".")
    return LEVEL.get(".".join([wing, *inner[:-1]]), LEVEL[wing])


def test_a_module_imports_nothing_above_its_wing() -> None:
    higher = {
        module: above
        for module, path in FILES.items()
        if (above := {name for name in inside(path) if level(name) > level(module)})
    }
    assert higher == {}


# The prepare() of a TopologicalSorter raises CycleError, which names the circle.
def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: inside(path) - {module} for module, path in FILES.items()}).prepare()


@pytest.mark.parametrize("module", MATHEMATICS)
def test_methods_and_adapters_need_torch_and_numpy_alone(module: str) -> None:
    # A method reads like its paper: no Hydra, no Transformers.
    standard = {
        "__future__",
        "abc",
        "collections",
        "contextlib",
        "dataclasses",
        "fractions",
        "functools",
        "warnings",
    }
    standard |= {"hashlib", "itertools", "json", "math", "pathlib", "re", "types", "typing"}
    allowed = {"dora", "numpy", "safetensors", "torch", *standard}
    assert {name.split(".")[0] for name in imported(FILES[module])} <= allowed


def test_only_config_commands_and_cli_know_hydra() -> None:
    def knows(path: Path) -> bool:
        return any(library.startswith(("hydra.", "omegaconf")) for library in imported(path))

    knowing = {name for name, path in FILES.items() if knows(path)}
    outside_cli = {name for name in knowing if not name.startswith("cli.")}
    assert outside_cli == {
        "configuration.config",
        "configuration.groups",
        "configuration.method_choice",
        "python.restored",
        "python.train",
        "run",
    }
