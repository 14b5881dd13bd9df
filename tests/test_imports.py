"""Which module may know of which: the path of DESIGN runs one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dora"
# Lower may not import higher. Modules on one line stand beside each other.
ORDER = [
    [
        "errors",
        "signals",
        "streams",
        "orphan",
        "command",
        "late",
        "machine",
        "files",
        "artefacts",
        "plain",
        "adapter_config",
        "npz",
        "lock",
        "data.tasks",
        "kinds",
        "run_json",
        "data.mini",
        "data.hub",
        "data.reading",
        "data.tsv",
        "data.mrpc",
        "data.places",
        "data.parquet",
        "data.sources",
        "data.tokens",
        "budget",
        "dropout",
        "updates",
        "lowrank",
        "stats",
        "finite",
        "provenance",
        "linears",
        "tensors",
        "grid",
        "canvas",
        "surroundings",
        "memory",
    ],
    ["model_config", "journals"],
    ["model_files"],
    ["vocabulary"],
    ["predictions", "methods", "backbone", "attention"],
    ["metrics", "rescore", "config"],
    ["check", "words"],
    ["parallel", "checkpoint", "record", "adapter", "step"],
    ["start"],
    ["evaluation"],
    ["train", "prepare", "tracking", "study"],
    ["lines"],
    ["finish", "added"],
    ["experiment", "card", "whole", "leaderboard", "contenders", "conflicts"],
    ["where"],
    ["cells"],
    ["summary"],
    ["sweep"],
    ["alike", "compare", "published"],
    ["sheets"],
    ["cli.line", "cli.choices"],
    ["cli.mistakes"],
    ["run", "tables", "status", "verify", "export", "submit", "bench", "torchrun"],
    ["plots"],
    ["report"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    tree = ast.parse(path.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level(module: str) -> int | None:
    """Where a module of the package stands; None for a name that is no module of it."""
    name = module.removeprefix("dora.")
    return next((LEVEL[n] for n in (name, name.rpartition(".")[0], name.split(".")[0]) if n in LEVEL), None)


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down_the_path(path: Path) -> None:
    own = level(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    assert own is not None, f"{path} has no place in ORDER"
    higher = {m for m in imported(path) if m.startswith("dora.") and (level(m) or 0) > own}
    assert not higher


@pytest.mark.parametrize("path", [*(PACKAGE / "methods").glob("*.py"), PACKAGE / "lowrank.py", PACKAGE / "updates.py", PACKAGE / "dropout.py", PACKAGE / "budget.py"],
                         ids=lambda p: p.name)  # fmt: skip
def test_the_mathematics_needs_torch_alone(path: Path) -> None:
    allowed = {
        "torch",
        "dora",
        "__future__",
        "collections",
        "dataclasses",
        "fractions",
        "itertools",
        "math",
        "re",
        "typing",
    }
    assert {m.split(".")[0] for m in imported(path)} <= allowed


def test_only_config_run_and_cli_know_hydra() -> None:
    others = [p for p in FILES if p.parent != PACKAGE / "cli"]
    knowing = {p.stem for p in others if any(m.startswith(("hydra", "omegaconf")) for m in imported(p))}
    assert knowing == {"config", "run"}


def test_nothing_loads_pickles_or_trusts_remote_code() -> None:
    for path in FILES:
        text = path.read_text()
        assert "pickle" not in {m.split(".")[0] for m in imported(path)}
        assert " torch.load(" not in text
        assert "trust_remote_code=True" not in text
