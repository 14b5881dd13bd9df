"""precision=auto: what it stands for on which machine, and how a run stays one run beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dora.cli.sweep import Sweep, plan
from dora.errors import UserError
from dora.preparing import precision
from dora.preparing.prepare import prepare
from dora.records import gaps
from dora.training import one_run
from runs import configure, cut, only_run, run, small, small_words

ZEN4 = "model name : AMD EPYC\nflags : fpu avx2 avx512f avx512_bf16 avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags : avx512f avx512_bf16 amx_bf16 amx_tile amx_int8\n"
SKYLAKE = "flags : fpu avx2 avx512f avx512bw\n"  # oneDNN takes bf16 here, and emulates it
GRAVITON3 = "Features : fp asimd sve bf16 i8mm\n"

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Returns a function that makes this process see another processor and other GPUs."""

    def fake(cpuinfo: str = SKYLAKE, onednn: bool = True, gpus: tuple[int, ...] = ()) -> None:
        """Fakes a machine. `gpus`: the first number of each GPU's compute capability."""
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(precision, "cpuinfo", lambda: cpuinfo)
        monkeypatch.setattr(precision, "_onednn_takes_bf16", lambda: onednn)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda n: (gpus[n], 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda n: f"GPU {n}")

    return fake


@pytest.mark.parametrize(
    ("cpuinfo", "stands_for", "reason"),
    [
        (ZEN4, "bf16", "this processor has AVX512-BF16"),
        (SAPPHIRE_RAPIDS, "bf16", "this processor has AMX-BF16"),
        (GRAVITON3, "bf16", "this processor has Arm's BF16"),
        (SKYLAKE, "fp32", "this processor has no bf16 products"),
        ("", "fp32", "this processor has no bf16 products"),
    ],
)
def test_auto_on_a_cpu_asks_for_instructions_that_multiply_16_bit_numbers(
    cpuinfo: str, stands_for: str, reason: str, machine: Machine
) -> None:
    machine(cpuinfo)
    for device in ("cpu", "auto"):
        assert precision.automatic(device) == stands_for
        assert precision.line(stands_for, device, auto=True) == f"precision {stands_for}: {reason}"


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "onednn", "stands_for"),
    [
        # oneDNN's answers on an AMD EPYC with AVX512-BF16, PyTorch 2.13.
        ("AVX512_CORE", True, "fp32"),
        ("avx512_core_vnni", True, "fp32"),
        ("AVX2", False, "fp32"),
        ("AVX512_CORE_BF16", True, "bf16"),
        ("DEFAULT", True, "bf16"),
    ],
)
def test_a_limit_on_onednn_takes_native_bf16_away(
    name: str,
    limit: str,
    onednn: bool,
    stands_for: str,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(ZEN4, onednn)
    monkeypatch.setenv(name, limit)
    assert precision.automatic("cpu") == stands_for
    if stands_for == "fp32":
        assert precision.native("cpu")[1] == f"{name}={limit} rules out AVX512-BF16"


def test_of_both_limits_onednn_reads_the_one_of_its_present_name(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(ZEN4)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "DEFAULT")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX512_CORE")
    assert precision.automatic("cpu") == "bf16"


def test_a_pytorch_without_onednn_has_no_native_bf16(machine: Machine) -> None:
    machine(ZEN4, onednn=False)
    assert precision.native("cpu") == (False, "this PyTorch rules out AVX512-BF16")


@pytest.mark.parametrize(
    ("device", "gpus", "stands_for"),
    [
        ("cuda", (8,), "bf16"),
        ("auto", (9, 9), "bf16"),
        ("cuda", (9, 7), "fp32"),  # the run may get either
        ("cuda:0", (9, 7), "bf16"),
        ("cuda:1", (9, 7), "fp32"),
        ("cpu", (9,), "fp32"),
        ("cuda", (), "fp32"),
        ("cuda:2", (9, 9), "fp32"),
    ],
)
def test_auto_on_a_gpu_asks_for_compute_capability_8(
    device: str, gpus: tuple[int, ...], stands_for: str, machine: Machine
) -> None:
    machine(SKYLAKE, gpus=gpus)
    assert precision.automatic(device) == stands_for


@pytest.mark.parametrize(
    ("setting", "older", "said"),
    [("tf32", True, "on"), ("none", False, "off"), ("ieee", False, "off"), (None, True, "on")],
)
def test_fp32_on_a_gpu_says_whether_tf32_is_on(
    setting: str | None,
    older: bool,
    said: str,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Matmul:
        allow_tf32 = older

    if setting is not None:  # PyTorch before 2.9 has the older name alone
        Matmul.fp32_precision = setting  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.backends.cuda, "matmul", Matmul)
    machine(gpus=(8, 7))
    have = "precision fp32; GPU 0 has bf16 products, for precision=bf16"
    assert precision.line("fp32", "cuda:0", auto=False) == f"{have}; TF32 is {said}"
    # A GPU before Ampere has no TF32, whatever is set.
    assert precision.line("fp32", "cuda:1", auto=False) == "precision fp32; TF32 is off"
    assert "TF32" not in precision.line("bf16", "cuda:0", auto=False)


@pytest.mark.parametrize(("cpuinfo", "stands_for"), [(ZEN4, "bf16"), (SKYLAKE, "fp32")])
def test_auto_is_the_same_run_as_the_precision_that_it_stands_for(
    cpuinfo: str, stands_for: str, tmp_path: Path, machine: Machine
) -> None:
    machine(cpuinfo)
    auto, bf16, fp32 = (
        prepare(small(tmp_path, f"precision={p}")) for p in ("auto", "bf16", "fp32")
    )
    assert auto.folder == {"bf16": bf16, "fp32": fp32}[stands_for].folder
    assert bf16.folder != fp32.folder
    assert auto.settings["precision"] == stands_for
    assert auto.words(["precision=auto", "seed=1"]) == ("seed=1", f"precision={stands_for}")
    assert bf16.words(["precision=bf16", "seed=1"]) == ("precision=bf16", "seed=1")


def test_auto_leaves_a_run_alone_that_the_other_precision_was_asked_for(
    tmp_path: Path, machine: Machine
) -> None:
    machine(SKYLAKE)
    run(small(tmp_path, "method=lora", "max_steps=2"))
    machine(ZEN4)
    asked = prepare(small(tmp_path, "method=lora", "max_steps=2", "precision=auto"))
    assert asked.config.precision == "bf16"
    assert not asked.folder.exists()


def test_another_machine_resumes_the_run_that_auto_began_in_its_precision(
    tmp_path: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("method=lora", "max_steps=4", "precision=auto")
    machine(ZEN4)
    cut(tmp_path, 2, monkeypatch, *words)
    machine(SKYLAKE)
    capsys.readouterr()
    record = run(small(tmp_path, *words))
    assert (record["config"]["precision"], record["resumed_from"]) == ("bf16", [2])
    said = (
        "precision bf16, as this run was begun or planned: slow here, because this processor has "
        "no bf16 products; precision=fp32 is the way out"
    )
    assert capsys.readouterr().out.count(said) == 1
    assert record["precision"] == said
    assert only_run(tmp_path).exists()


def test_bf16_that_is_emulated_says_once_that_it_is_slow(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(SKYLAKE)
    record = run(small(tmp_path, "method=lora", "max_steps=2", "precision=bf16"))
    said = (
        "precision bf16: slow here, because this processor has no bf16 products; "
        "precision=fp32 is the way out"
    )
    assert capsys.readouterr().out.count("slow") == 1
    assert record["precision"] == said


def swept(results: Path, *words: str, here: bool = True) -> Sweep:
    """Plans a sweep over seeds 1 and 2."""
    jobs = [small_words(results, "method=lora", "max_steps=2", *words, f"seed={s}") for s in (1, 2)]
    return plan(jobs, lambda given: configure(*given), here=here)


def test_a_sweep_hands_its_runs_the_precision_that_auto_stands_for_and_says_it_once(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(ZEN4)
    pending = swept(tmp_path, "precision=auto").begin()
    assert [words[-2:] for words in pending] == [
        ["seed=1", "precision=bf16"],
        ["seed=2", "precision=bf16"],
    ]
    assert capsys.readouterr().out.count("precision bf16: this processor has AVX512-BF16") == 1
    # One of its runs, in a worker: the sweep has said it.
    one_run.run(prepare(configure(*pending[0])), pending[0], label="[1/2 wnli lora s1]")
    assert "precision" not in capsys.readouterr().out
    # The commands that dora.status prints name it as well.
    assert all("precision=bf16" in seen.command for seen in gaps.scan(tmp_path))
    # Typed again on another machine, the sweep goes on with both: the one done, the one planned.
    machine(SKYLAKE)
    again = swept(tmp_path, "precision=auto")
    assert {p.settings["precision"] for p in again.runs.values()} == {"bf16"}
    assert len(again.begin()) == 1
    assert "seed=2" in again.begin()[0]


def test_auto_stands_for_fp32_in_a_sweep_whose_machines_are_not_known(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(ZEN4)
    (first, second) = swept(tmp_path, "precision=auto", here=False).begin()
    assert first[-1] == second[-1] == "precision=fp32"
    said = "precision fp32 for precision=auto: the machines that train are not known here"
    assert capsys.readouterr().out.count(said) == 1
    # Asked for by name, it is the job that says what its machine makes of it.
    swept(tmp_path, "precision=bf16", here=False).begin()
    assert "precision" not in capsys.readouterr().out


def test_another_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision=fp16 must be one of auto, fp32, bf16"):
        prepare(small(tmp_path, "precision=fp16"))


def left(folder: Path) -> dict[str, Any]:
    """Returns the dtype and shape of every tensor that a run leaves, and its JSON files."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(file.relative_to(folder))
        if file.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(file)
            found[name] = {key: (t.dtype, tuple(t.shape)) for key, t in tensors.items()}
            assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}
        elif file.suffix == ".json" and file.name != "run.json":
            found[name] = json.loads(file.read_text())
        else:
            found[name] = None
    return found


# dora prunes: its ranks may differ between precisions, so it keeps all of them here.
@pytest.mark.parametrize(
    "words",
    [
        ("method=lora",),
        ("method=dora", "method.start_factor=1", "max_steps=12"),
        ("method=full", "keep_model=true"),
    ],
)
def test_a_run_in_bf16_leaves_the_files_of_one_in_fp32_all_in_float32(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    folders = []
    for name in ("fp32", "bf16"):
        run(small(tmp_path / name, "max_steps=2", *words, f"precision={name}"))
        folders.append(only_run(tmp_path / name))
    one, two = map(left, folders)
    assert one == two
    assert any(name.endswith(".safetensors") for name in one)
