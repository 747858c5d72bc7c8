"""Layers of transformers' decoders in one pass each, rounded where transformers rounds.

Between matrix products a decoder spends its time reading and writing: transformers' RMS norm takes six
passes and as many launches, its rotary embedding twelve. Each kernel here reads its inputs and writes its
output once. Intermediate results are rounded to the type of the input at the same places, so that what
differs is the order of the additions inside a norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.kernels.language import jit, launch, tl, triton

__all__ = ["LONGEST_ROW", "rms_norm", "rotary", "swiglu"]

LONGEST_ROW = 16384
"""Elements of a row that a program holds in registers."""

BLOCK = 2048


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    r"""``weight * round(x / sqrt(mean(x^2) + eps))`` along the last dimension.

    Args:
        x: ``(..., size)``, at most :data:`LONGEST_ROW` long.
        weight: ``(size,)``, of the type of ``x``.
        eps: Added to the mean square.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    size = x.shape[-1]
    block = triton.next_power_of_2(size)
    warps = min(16, max(1, block // 512))
    launch(_rms_norm, (x.numel() // size, 1), (x, weight, out), (size, eps, block), num_warps=warps)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``round(silu(gate)) * up``, element by element; both ``(..., size)`` with rows in one piece."""
    rows, size = gate.numel() // gate.shape[-1], gate.shape[-1]
    flat = [x if x.stride(-1) == 1 else x.contiguous() for x in (gate, up)]
    flat = [x.reshape(rows, size) for x in flat]
    out = torch.empty((rows, size), dtype=gate.dtype, device=gate.device)
    numbers = (flat[0].stride(0), flat[1].stride(0), size, BLOCK)
    launch(_swiglu, (rows, triton.cdiv(size, BLOCK)), (*flat, out), numbers)
    return out.view(gate.shape)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x * cos + rotate_half(x) * sin``, each product rounded.

    Args:
        x: ``(batch, heads, tokens, size)``, of any strides but 1 along ``size``.
        cos: ``(batch or 1, tokens, size)``, of the type of ``x``.
        sin: Of the same shape and type.

    Returns:
        The shape of ``x``, laid out as ``(batch, tokens, heads, size)``.
    """
    batch, heads, tokens, size = x.shape
    cos, sin = (table.expand(batch, tokens, size).contiguous() for table in (cos, sin))
    out = torch.empty((batch, tokens, heads, size), dtype=x.dtype, device=x.device)
    numbers = (
        *x.stride()[:3],
        tokens,
        heads,
        size // 2,
        triton.next_power_of_2(heads),
        triton.next_power_of_2(size // 2),
    )
    launch(_rotary, (batch * tokens, 1), (x, cos, sin, out), numbers)
    return out.transpose(1, 2)


@jit
def _rms_norm(x, weight, out, size: tl.constexpr, eps, block: tl.constexpr):
    """A program handles one row."""
    start = tl.program_id(0).to(tl.int64) * size
    column = tl.arange(0, block)
    inside = column < size
    row = tl.load(x + start + column, mask=inside, other=0.0)
    values = row.to(tl.float32)
    scale = 1.0 / tl.sqrt_rn(tl.sum(values * values, axis=0) / size + eps)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = (values * scale).to(row.dtype).to(tl.float32)
    tl.store(out + start + column, (factor * normed).to(row.dtype), mask=inside)


@jit
def _swiglu(gate, up, out, gate_stride, up_stride, size, block: tl.constexpr):
    """A program handles a part of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < size
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    wide = g.to(tl.float32)
    opened = (wide / (1.0 + tl.exp(-wide))).to(g.dtype).to(tl.float32)
    tl.store(out + row * size + column, (opened * u).to(g.dtype), mask=inside)


@jit
def _rotary(
    x,
    cos,
    sin,
    out,
    batch_stride,
    head_stride,
    token_stride,
    tokens,
    heads: tl.constexpr,
    half: tl.constexpr,
    heads_block: tl.constexpr,
    half_block: tl.constexpr,
):
    """A program handles all heads of one token."""
    place = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, heads_block)[:, None]
    column = tl.arange(0, half_block)[None, :]
    inside = (head < heads) & (column < half)
    start = (place // tokens) * batch_stride + (place % tokens) * token_stride
    source = x + start + head * head_stride + column
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + half, mask=inside, other=0.0)
    kind = first.dtype
    at = place * (2 * half) + column
    within = column < half
    c1 = tl.load(cos + at, mask=within, other=0.0).to(tl.float32)
    c2 = tl.load(cos + at + half, mask=within, other=0.0).to(tl.float32)
    s1 = tl.load(sin + at, mask=within, other=0.0).to(tl.float32)
    s2 = tl.load(sin + at + half, mask=within, other=0.0).to(tl.float32)
    x1, x2 = first.to(tl.float32), second.to(tl.float32)
    y1 = (x1 * c1).to(kind).to(tl.float32) - (x2 * s1).to(kind).to(tl.float32)
    y2 = (x2 * c2).to(kind).to(tl.float32) + (x1 * s2).to(kind).to(tl.float32)
    target = out + place * (heads * 2 * half) + head * (2 * half) + column
    tl.store(target, y1.to(kind), mask=inside)
    tl.store(target + half, y2.to(kind), mask=inside)
