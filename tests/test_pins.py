"""The lock file, the citation and git hold what pyproject.toml, the pins and the version say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dora.package import __version__

ROOT = Path(__file__).parents[1]
tomllib = pytest.importorskip("tomllib")  # Python 3.11


def named(requirement: str) -> str:
    """Returns a requirement's package in the spelling of the lock file."""
    return re.split(r"[\[<>=;~! ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def specifier(requirement: str) -> str:
    """Returns a requirement's versions, without the systems that it is for."""
    return re.sub(r"^[\w.-]+(\[.*\])?", "", requirement).partition(";")[0]


def read(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def test_the_lock_file_is_of_this_pyproject() -> None:
    project = read("pyproject.toml")["project"]
    asked = {(named(r), specifier(r)) for r in project["dependencies"]}
    for group in project["optional-dependencies"].values():
        asked |= {(named(r), specifier(r)) for r in group}
    (own,) = (p for p in read("uv.lock")["package"] if p["name"] == project["name"])
    locked = {(r["name"], r.get("specifier", "")) for r in own["metadata"]["requires-dist"]}
    # `dev` names other extras of the suite.
    assert locked == {(n, s) for n, s in asked if n != project["name"]}, "run: uv lock"
    assert sorted(own["metadata"]["provides-extras"]) == sorted(project["optional-dependencies"])
    assert read("uv.lock")["requires-python"] == project["requires-python"]


def test_the_lock_file_holds_the_tested_versions() -> None:
    locked = {(p["name"], p.get("version")) for p in read("uv.lock")["package"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert [(n, v) for n, _, v in pins if (named(n), v.partition(";")[0]) not in locked] == []


def test_the_citation_renders_with_version_and_date() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["date-released"].year >= 2026
    (paper,) = citation["references"]
    assert len(paper["authors"]) == 6
    assert paper["year"] == 2024


def test_no_large_file_is_part_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    # The largest are the embedded models; wheels and other people's weights have 100 times as much.
    assert [f.name for f in files if f.is_file() and f.stat().st_size > 2**23] == []
