"""A linear layer whose sizes suit the matrix units.

cuBLAS has its fast kernels for 16-bit matrices whose rows begin on 16-byte boundaries. A layer such as
Qwen2.5-VL's vision MLP, 3420 wide, falls off them and takes several times as long. Padding its weight
with zeros to the next multiple changes no sum, and costs one pass over the smaller tensors.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["linear", "suits"]

MULTIPLE = 8
"""Elements of two bytes in 16 bytes."""


def suits(weight: Tensor) -> bool:
    """Whether a weight ``(out, in)`` needs no padding where it is."""
    aligned = weight.shape[0] % MULTIPLE == 0 and weight.shape[1] % MULTIPLE == 0
    return aligned or not weight.is_cuda or weight.element_size() != 2


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b``; where sizes do not suit, computed with zeros added and cut off again.

    Args:
        x: ``(..., in)``.
        weight: ``(out, in)``.
        bias: ``(out,)``.
    """
    if suits(weight):
        return functional.linear(x, weight, bias)
    rows, columns = (-size % MULTIPLE for size in weight.shape)
    padded = functional.pad(weight, (0, columns, 0, rows))
    if bias is not None and rows:
        bias = functional.pad(bias, (0, rows))
    if columns:
        x = functional.pad(x, (0, columns))
    return functional.linear(x, padded, bias)[..., : weight.shape[0]]
