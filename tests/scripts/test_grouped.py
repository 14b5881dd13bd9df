"""Runs in one pass give the outputs that each of them gives alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from runs import load_script


def test_a_group_gives_each_run_s_rows_the_adapter_of_that_run() -> None:
    grouped = load_script("grouped")
    layer = grouped.Grouped(nn.Linear(6, 5), 3, torch.float32)
    nn.init.normal_(layer.B)
    x = torch.randn(3 * 2, 4, 6)  # two rows of each of three runs
    y = layer(x)
    for i, rows in enumerate(x.split(2)):
        weight = layer.base.weight + layer.B[i] @ layer.A[i]
        expected = nn.functional.linear(rows, weight, layer.base.bias)
        torch.testing.assert_close(y[2 * i : 2 * i + 2], expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_script_times_groups_beside_runs_in_turn(
    tmp_path: Path,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = f"--runs 2 --size tiny --batch 2 --length 4 --rounds 1 --precision {precision}"
    monkeypatch.setattr(sys, "argv", ["grouped", *words.split(), "--to", str(tmp_path / "g.json")])
    load_script("grouped").main()
    assert "| grouped " in capsys.readouterr().out
    assert (tmp_path / "g.json").exists()
