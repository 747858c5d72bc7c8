"""Triton where it is installed, so that files of kernels can be imported where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["jit", "launch", "tl", "triton"]

_COMPILED: dict[tuple[Any, ...], Any] = {}


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit``; without Triton the function as it is, never to be called."""
    return triton.jit(function) if triton is not None else function


def launch(
    kernel: Any,
    programs: tuple[int, int],
    tensors: Sequence[Tensor],
    numbers: Sequence[Any],
    **options: Any,
) -> None:
    """Launch a kernel of ``(*tensors, *numbers)`` on the device of its first tensor.

    Triton finds out at each launch which of the compiled kernels fits its arguments, which for small
    kernels takes longer than they do. Here the kernel compiled for the same types, alignments and
    numbers is launched as it is.
    """
    device = tensors[0].device
    if device.type != "cuda":
        kernel[programs](*tensors, *numbers, **options)
        return
    aligned = tuple(tensor.data_ptr() % 16 == 0 for tensor in tensors)
    types = tuple(tensor.dtype for tensor in tensors)
    # Triton compiles for whole numbers, but not for the values of floats.
    kinds = tuple(float if type(number) is float else number for number in numbers)
    key = (id(kernel), device.index, types, aligned, kinds, *options.items())
    compiled = _COMPILED.get(key)
    with (
        nullcontext() if torch.cuda.current_device() == device.index else torch.cuda.device(device)
    ):
        if compiled is None:
            _COMPILED[key] = kernel[programs](*tensors, *numbers, **options)
        else:
            compiled[(*programs, 1)](*tensors, *numbers)
