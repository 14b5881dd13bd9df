"""The installed wheel is complete: conf/ and the embedded models come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_installed_wheel_trains_in_an_empty_folder_without_a_network(tmp_path: Path) -> None:
    def call(*words: str, **env: str) -> str:
        """Runs `python WORDS` in the empty folder, and returns its output."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=empty,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    empty, installed = tmp_path / "empty", tmp_path / "installed"
    empty.mkdir()
    call("-m", "pip", "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    # Into a folder of its own; the dependencies are those of this environment.
    call("-m", "pip", "install", "--no-deps", "--target", str(installed), str(wheel))
    # Port 9 of this machine answers nobody: any use of the network fails.
    proxies = "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"
    alone = {"PYTHONPATH": str(installed), **dict.fromkeys(proxies, "http://127.0.0.1:9")}
    # The environment may have this checkout installed, too: the wheel must come first.
    found = call("-c", "import dora; print(dora.__file__)", **alone).strip()
    assert Path(found).is_relative_to(installed)
    words = "task=rte", "method=dora", "budget=r2", "max_steps=4"
    for model in ("tiny_roberta", "tiny_deberta"):
        call("-m", "dora.run", *words, f"model={model}", **alone)
    records = [json.loads(path.read_text()) for path in empty.glob("results/runs/**/run.json")]
    assert [record["status"] for record in records] == ["done", "done"]
    assert [path.name for path in empty.iterdir()] == ["results"]  # and nothing else was written
