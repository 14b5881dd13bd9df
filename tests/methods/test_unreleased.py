"""A method that lies in the package and is not released yet breaks no test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Those that list the suite's methods, or go through a list of them.
LISTS = (
    "tests/test_pages.py::test_the_page_on_running_lists_every_choice",
    "tests/test_pages.py::test_the_page_of_methods_has_a_row_for_each_and_no_other",
    "tests/test_experiments.py::test_a_small_model_has_a_rate_for_every_method_or_says_for_which_not",
    "tests/analysis/test_names.py",
    "tests/analysis/figures/test_figures.py::test_each_of_the_suites_methods_has_a_look_of_its_own",
    "tests/attaching/test_own_methods.py::test_the_suites_methods_that_may_go_by_the_runs_length",
    "tests/attaching/test_tour.py::test_the_methods_that_can_be_attached_are_named_wherever_they_are_listed",
    "tests/scripts/test_settings_page.py",
    "tests/timing/test_bench.py::test_every_method_can_be_timed_but_those_with_a_reason",
)


@pytest.mark.slow
def test_a_file_and_a_yaml_in_the_package_break_no_test(tmp_path: Path) -> None:
    for name in ("conf", "docs", "dora", "scripts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    manual = (ROOT / "docs" / "adding-a-method.md").read_text()
    for language, file in (
        ("python", "dora/methods/shrunk.py"),
        ("yaml", "conf/method/shrunk.yaml"),
    ):
        (text,) = re.findall(rf"^```{language}\n(.*?)^```", manual, re.S | re.M)[:1]
        (tmp_path / file).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *LISTS]
    path = os.pathsep.join([str(tmp_path), str(tmp_path / "tests")])
    ended = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'base'}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
