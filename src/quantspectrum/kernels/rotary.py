"""Rotary embedding of a vision tower's queries and keys, with rows put into another order.

One read and one write of the joint query, key and value projection; with torch it takes some twenty
passes over float32 copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.kernels.language import jit, launch, tl, triton

__all__ = ["rotated"]


def rotated(qkv: Tensor, order: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    r"""Queries, keys and values of the rows in ``order``, queries and keys rotated.

    With the two halves :math:`x_1, x_2` of a head, :math:`(x_1 c_1 - x_2 s_1,\; x_2 c_2 + x_1 s_2)`,
    computed in float32.

    Args:
        qkv: ``(rows, 3 * heads * size)``: queries, keys and values one after another.
        order: Row of ``qkv`` that each row of the result is of, ``(rows,)`` int64.
        cos: Cosines ``(rows, size)``, by row of ``qkv``.
        sin: Sines, of the same shape.
        heads: Number of heads.

    Returns:
        ``(3, rows, heads, size)``, of the type of ``qkv``.
    """
    rows, width = qkv.shape
    size = width // (3 * heads)
    out = torch.empty((3, rows, heads, size), dtype=qkv.dtype, device=qkv.device)
    numbers = (
        rows,
        heads,
        size // 2,
        triton.next_power_of_2(heads),
        triton.next_power_of_2(size // 2),
    )
    tensors = (qkv.contiguous(), order, cos.float().contiguous(), sin.float().contiguous(), out)
    launch(_kernel, (rows, 3), tensors, numbers)
    return out


@jit
def _kernel(
    qkv,
    order,
    cos,
    sin,
    out,
    rows,
    heads: tl.constexpr,
    half: tl.constexpr,
    heads_block: tl.constexpr,
    half_block: tl.constexpr,
):
    """A program handles one row's queries, keys or values."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    source = tl.load(order + row)
    head = tl.arange(0, heads_block)[:, None]
    column = tl.arange(0, half_block)[None, :]
    inside = (head < heads) & (column < half)
    place = head * (2 * half) + column
    start = (source * 3 + part) * (heads * 2 * half) + place
    first = tl.load(qkv + start, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(qkv + start + half, mask=inside, other=0.0).to(tl.float32)
    if part < 2:
        at = source * (2 * half) + column
        within = column < half
        c1 = tl.load(cos + at, mask=within, other=0.0)
        c2 = tl.load(cos + at + half, mask=within, other=0.0)
        s1 = tl.load(sin + at, mask=within, other=0.0)
        s2 = tl.load(sin + at + half, mask=within, other=0.0)
        turned = first * c1 - second * s1
        second = second * c2 + first * s2
        first = turned
    end = (part * rows + row) * (heads * 2 * half) + place
    kind = out.dtype.element_ty
    tl.store(out + end, first.to(kind), mask=inside)
    tl.store(out + end + half, second.to(kind), mask=inside)
