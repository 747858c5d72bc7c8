"""Triton where it is installed, so that files of kernels can be imported where it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["jit", "on_device_of", "tl", "triton"]


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit``; without Triton the function as it is, never to be called."""
    return triton.jit(function) if triton is not None else function


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Context in which kernels are launched on the device of ``x``."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
