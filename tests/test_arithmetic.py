"""The bits that small runs end with. If they change, the number that stands for them must change.

    python tests/test_arithmetic.py

writes arithmetic.json anew, after a number in dora/records/identity.py was raised. The runs use
instructions that every x86-64 processor has, since wider ones add up in another order.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dora.records.identity import ARITHMETIC, OF_ARCHITECTURE, arithmetic, identity
from dora.records.journals import JOURNALS

# The bits as committed, with the numbers of the arithmetic and PyTorch's version.
GOLDEN = Path(__file__).parent / "arithmetic.json"
NUMBERS = {"": ARITHMETIC, **OF_ARCHITECTURE}
# PyTorch, MKL, oneDNN, NumPy and its OpenBLAS (which computes Pearson's correlation) each choose
# instructions by the processor unless told otherwise.
SAME_EVERYWHERE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "OPENBLAS_CORETYPE": "Prescott",
    "OMP_NUM_THREADS": "1",
}
# Between them: every method, both kinds of task, both units of a budget, both architectures,
# dropout and micro-batches.
RUNS = {
    "full": ["method=full"],
    "lora": ["method=lora", "method.dropout=0.1", "grad_accum=2"],
    "adalora": ["method=adalora", "task=stsb"],
    "dora": ["method=dora", "target=[q,v,ffn1]"],
    "dora on DeBERTa": [
        "method=dora",
        "budget=20000",
        "model=tiny_deberta",
        "batching=random",
    ],
}
# Without its own instructions for bfloat16 a processor emulates it, which takes long.
SLOW = {"lora in bf16": ["method=lora", "precision=bf16"]}


def bits(*names: str) -> dict[str, str]:
    """Returns a hash of each run's journals and weights, from a process with those instructions."""
    # The libraries read the variables when they are loaded, so another process is needed.
    words = [sys.executable, __file__, *names]
    done = subprocess.run(
        words, env={**os.environ, **SAME_EVERYWHERE}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def trained(names: list[str]) -> dict[str, str]:
    """Returns the hashes that the instructions of this process give."""
    from runs import only_run, run, small

    found = {}
    for name in names:
        words = (RUNS | SLOW)[name]
        with tempfile.TemporaryDirectory() as results:
            run(small(Path(results), *words, "max_steps=12", "keep_model=true"))
            folder = only_run(Path(results))
            places = folder / "best.safetensors", folder / "model/model.safetensors"
            weights = next(file for file in places if file.exists())
            files = [*(folder / journal for journal in JOURNALS), weights]
            content = b"".join(file.read_bytes() for file in files)
            found[name] = hashlib.sha256(content).hexdigest()[:16]
    return found


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the bits are those of x86-64"
)
@pytest.mark.parametrize("names", [tuple(RUNS), pytest.param(tuple(SLOW), marks=pytest.mark.slow)])
def test_the_bits_are_those_that_the_number_of_the_arithmetic_stands_for(
    names: tuple[str, ...],
) -> None:
    golden = json.loads(GOLDEN.read_text())
    # Another version of PyTorch may have other kernels; this suite's arithmetic is the same then.
    if golden["torch"] != torch.__version__.partition("+")[0]:
        pytest.skip(f"the bits were made with torch {golden['torch']}")
    changed = [name for name, found in bits(*names).items() if golden["bits"].get(name) != found]
    assert not changed or golden["arithmetic"] != NUMBERS, (
        f"{', '.join(changed)}: the same configuration trains to other bits than before. "
        "If that is meant, raise ARITHMETIC in dora/records/identity.py, or an architecture's own "
        "number in OF_ARCHITECTURE if all else is as before, say in results/README.md "
        "what the new number stands for, and run python tests/test_arithmetic.py"
    )
    assert (changed, golden["arithmetic"]) == ([], NUMBERS), "run python tests/test_arithmetic.py"


def test_another_arithmetic_is_another_run() -> None:
    # Results of two arithmetics never share a directory, so no table averages over both.
    one, two = (identity({"lr": 1.0}, {"data": "a"}, number) for number in (6, 7))
    assert one != two


def test_an_architecture_that_changed_alone_has_a_number_of_its_own() -> None:
    assert arithmetic("roberta") == ARITHMETIC
    assert arithmetic("deberta-v2") == 7
    assert all(number > ARITHMETIC for number in OF_ARCHITECTURE.values())


if __name__ == "__main__":
    if sys.argv[1:]:
        print(f"\n{json.dumps(trained(sys.argv[1:]))}")
    else:
        about = {
            "arithmetic": NUMBERS,
            "torch": torch.__version__.partition("+")[0],
            "bits": bits(*RUNS, *SLOW),
        }
        GOLDEN.write_text(json.dumps(about, indent=2) + "\n")
