"""The format that a run's matrix products are computed in: fp32, or bf16 where it is native.

bf16 is native where processor or GPU multiply 16-bit numbers themselves; elsewhere PyTorch emulates
the products, which is slow. A run is never recorded as `precision=auto`, only as the
precision that auto stands for: results depend on it.
"""

from __future__ import annotations

import os

import torch

from dora.records.provenance import cpuinfo

OTHER = {"fp32": "bf16", "bf16": "fp32"}
# Flags of /proc/cpuinfo, the fastest instructions first: two of x86, one of Arm. PyTorch's own
# question, torch.cpu.get_capabilities, is absent in 2.6, the oldest version that this suite takes.
_INSTRUCTIONS = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "bf16": "Arm's BF16"}
# Values of ONEDNN_MAX_CPU_ISA under which oneDNN says that it takes bf16, but emulates it, which is
# slower than fp32 (seen on an AMD EPYC with AVX512-BF16). Below them it says that it does not.
_EMULATING = ("AVX512_CORE", "AVX512_CORE_VNNI")


def automatic(device: str) -> str:
    """Returns the precision that `precision=auto` stands for on `device`, this machine's."""
    return "bf16" if native(device)[0] else "fp32"


def native(device: str) -> tuple[bool, str]:
    """Tells whether `device` computes bf16 products natively, and by which means, or why not.

    `device`: auto, cpu, cuda, or cuda:N, as in the configuration.
    """
    if not computes_on_gpu(device):
        return _on_cpu()
    return _on_cuda(device.removeprefix("auto").removeprefix("cuda").removeprefix(":"))


def _on_cpu() -> tuple[bool, str]:
    flags = set(cpuinfo().split())
    found = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    if not found:
        return False, "this processor has no bf16 products"
    # oneDNN computes the products, whatever ATEN_CPU_CAPABILITY says; it reads the first of these.
    variables = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    limit = next((f"{name}={os.environ[name]}" for name in variables if name in os.environ), "")
    if limit.partition("=")[2].upper() in _EMULATING:
        return False, f"{limit} rules out {found[0]}"
    # True on any processor with AVX-512, hence the flags above.
    if not _onednn_takes_bf16():
        return False, f"{limit or 'this PyTorch'} rules out {found[0]}"
    return True, f"this processor has {found[0]}"


def _onednn_takes_bf16() -> bool:
    """Tells whether PyTorch has oneDNN, and oneDNN takes bf16 on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _on_cuda(number: str) -> tuple[bool, str]:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Without a number a run takes the GPU that the fewest others use, so that every one must do.
    numbers = [int(number)] if number else list(range(there))
    if not numbers or max(numbers) >= there:
        return False, "the GPU is not on this machine"
    for n in numbers:
        major, minor = torch.cuda.get_device_capability(n)
        # From Ampere on. PyTorch's is_bf16_supported asks the current device alone.
        if major < 8:
            name = torch.cuda.get_device_name(n)
            return False, f"{name} has no bf16 products (compute capability {major}.{minor})"
    return True, f"{torch.cuda.get_device_name(numbers[0])} has bf16 products"


def line(precision: str, device: str, auto: bool) -> str:
    """Returns a sentence on a run's precision and the reason for it, for the lines before training.

    `precision`: fp32 or bf16. `device`: as in `native`. `auto`: it stands for `precision=auto`.
    """
    able, why = native(device)
    # A run that was begun or planned goes on in its own precision, whatever auto stands for here.
    own = auto and precision != automatic(device)
    text = f"precision {precision}{', as this run was begun or planned' if own else ''}"
    if precision == "bf16" and not able:
        return f"{text}: slow here, because {why}; precision=fp32 is the way out"
    if precision == "bf16":
        return f"{text}: {why}"
    if able:
        text += f"; {why}, for precision=bf16"
    elif auto:
        text += f": {why}"
    if computes_on_gpu(device):
        # GPUs have TF32 from the same compute capability on as bf16, whatever is set.
        text += f"; TF32 is {'on' if able and _tf32() else 'off'}"
    return text


def computes_on_gpu(device: str) -> bool:
    """Tells whether a run with `device`, as in the configuration, computes on a GPU."""
    # As in `processes.start`.
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _tf32() -> bool:
    """Tells whether CUDA's fp32 products round their inputs to TF32's 10 bits of mantissa."""
    matmul = torch.backends.cuda.matmul
    # Since PyTorch 2.9. The older name raises there once a program has set the newer one.
    setting = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if setting is None else setting == "tf32"
