"""Fused Triton kernels, used only for CUDA tensors; each has an eager twin of the same numbers.

A kernel saves passes over memory, nothing else: without Triton, on a CPU or for types it does not
know, the callers compute with torch what the kernel would.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache

import torch
from torch import Tensor

__all__ = ["available", "takes"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def available() -> bool:
    """Whether Triton is installed with the C compiler that it builds its launchers with."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return importlib.util.find_spec("triton") is not None and compiler is not None


@cache
def _supported(device: torch.device) -> bool:
    """Triton compiles for compute capability 8.0 and newer; on ROCm for all that torch runs on."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def takes(x: Tensor) -> bool:
    """Whether the kernels compute on ``x``; they do not pass gradients on."""
    if not x.is_cuda or x.dtype not in DTYPES or (torch.is_grad_enabled() and x.requires_grad):
        return False
    return available() and _supported(x.device)
