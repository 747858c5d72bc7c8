"""Dynamic fake-quantization of rows, or of groups along rows, in one read and one write.

Computes, for every group of a row, what ``quantizer.qparams`` and ``quantizer.fake_quantize``
compute: extremes in float32, the scale rounded to the type it is kept in, codes, values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.formats import TensorScheme
from quantspectrum.kernels.codes import clip, nearest, through_codes
from quantspectrum.kernels.language import jit, on_device_of, tl, triton

__all__ = ["fake_quantize_rows"]

LONGEST = 16384  # Elements of a group that are held in registers.
BLOCK = 4096  # Elements a program handles at a time otherwise, and with many short groups.


def fake_quantize_rows(
    x: Tensor, scheme: TensorScheme, scale_dtype: torch.dtype, group_size: int | None = None
) -> Tensor:
    """Fake-quantize each row with its own range.

    Args:
        x: Rows ``(rows, columns)``, float32, bfloat16 or float16.
        scheme: Kind, bits and symmetry; the granularity is that of the rows.
        scale_dtype: Type whose numbers the scales are.
        group_size: Columns that share a scale; by default all of them. The last group of a row
            may be smaller.

    Returns:
        The values, in the shape and type of ``x``, contiguous.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    rows, columns = x.shape
    group_size = min(group_size or columns, columns)
    groups = triton.cdiv(columns, group_size)
    numbers = (
        float(scheme.qmin),
        float(scheme.qmax),
        float(scheme.qmax - scheme.qmin),
        torch.finfo(torch.float32).eps,
        torch.finfo(scale_dtype).tiny,
        getattr(tl, str(scale_dtype).removeprefix("torch.")),
        scheme.symmetric,
        scheme.kind == "float",
    )
    units = rows * groups
    with on_device_of(x):
        if group_size > LONGEST:
            _long[(units,)](x, out, groups, columns, group_size, *numbers, BLOCK, num_warps=4)
            return out
        block = triton.next_power_of_2(group_size)
        per_program = max(1, BLOCK // block)
        _short[(triton.cdiv(units, per_program),)](
            x,
            out,
            units,
            groups,
            columns,
            group_size,
            *numbers,
            block,
            per_program,
            num_warps=max(4, per_program * block // 1024),
        )
    return out


@jit
def _qparams(
    low, high, odd, qmin, qmax, levels, eps, tiny, scale_type: tl.constexpr, symmetric: tl.constexpr
):
    """``quantizer.qparams`` of extremes that include 0; ``odd`` where a value is no number."""
    width = 2.0 * tl.maximum(-low, high) if symmetric else high - low
    scale = tl.div_rn(width, levels)
    scale = tl.where(scale == 0.0, eps, scale).to(scale_type).to(tl.float32)
    scale = tl.where(scale == 0.0, tiny, scale)
    scale = tl.where(odd > 0, float("nan"), scale)
    if symmetric:
        zero_point = scale * 0.0
    else:
        zero_point = nearest(clip(qmin - tl.div_rn(low, scale), qmin, qmax), 1.0)
    return scale, zero_point


@jit
def _short(
    x,
    out,
    units,
    groups,
    columns,
    group_size,
    qmin,
    qmax,
    levels,
    eps,
    tiny,
    scale_type: tl.constexpr,
    symmetric: tl.constexpr,
    is_float: tl.constexpr,
    block: tl.constexpr,
    per_program: tl.constexpr,
):
    """``per_program`` groups a program, each of at most ``block`` elements."""
    unit = tl.program_id(0).to(tl.int64) * per_program + tl.arange(0, per_program)[:, None]
    first = (unit % groups) * group_size
    column = first + tl.arange(0, block)[None, :]
    inside = (unit < units) & (column < tl.minimum(first + group_size, columns))
    place = (unit // groups) * columns + column
    tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    low = tl.minimum(tl.min(tile, axis=1, keep_dims=True), 0.0)
    high = tl.maximum(tl.max(tile, axis=1, keep_dims=True), 0.0)
    odd = tl.max((tile != tile).to(tl.int32), axis=1, keep_dims=True)
    scale, zero_point = _qparams(
        low, high, odd, qmin, qmax, levels, eps, tiny, scale_type, symmetric
    )
    values = through_codes(tile, scale, zero_point, qmin, qmax, symmetric, is_float)
    tl.store(out + place, values.to(out.dtype.element_ty), mask=inside)


@jit
def _long(
    x,
    out,
    groups,
    columns,
    group_size,
    qmin,
    qmax,
    levels,
    eps,
    tiny,
    scale_type: tl.constexpr,
    symmetric: tl.constexpr,
    is_float: tl.constexpr,
    block: tl.constexpr,
):
    """One group a program, in blocks: once for its range, once (from the cache) for its values."""
    unit = tl.program_id(0).to(tl.int64)
    first = (unit % groups) * group_size
    end = tl.minimum(first + group_size, columns)
    row = (unit // groups) * columns
    lows = tl.zeros((block,), tl.float32)
    highs = tl.zeros((block,), tl.float32)
    odds = tl.zeros((block,), tl.int32)
    for start in range(0, group_size, block):
        column = first + start + tl.arange(0, block)
        tile = tl.load(x + row + column, mask=column < end, other=0.0).to(tl.float32)
        lows = tl.minimum(lows, tile)
        highs = tl.maximum(highs, tile)
        odds = odds | (tile != tile).to(tl.int32)
    low, high, odd = tl.min(lows, axis=0), tl.max(highs, axis=0), tl.max(odds, axis=0)
    scale, zero_point = _qparams(
        low, high, odd, qmin, qmax, levels, eps, tiny, scale_type, symmetric
    )
    for start in range(0, group_size, block):
        column = first + start + tl.arange(0, block)
        tile = tl.load(x + row + column, mask=column < end, other=0.0).to(tl.float32)
        values = through_codes(tile, scale, zero_point, qmin, qmax, symmetric, is_float)
        tl.store(out + row + column, values.to(out.dtype.element_ty), mask=column < end)
