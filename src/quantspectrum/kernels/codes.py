"""What the kernels share: rounding values to codes and back, with the numbers of the quantizer."""

from __future__ import annotations

from quantspectrum.kernels.language import jit, tl

__all__ = ["clip", "nearest", "through_codes"]


@jit
def clip(x, low, high):
    """``clamp`` that leaves what is not a number."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@jit
def nearest(x, step):
    """The multiple of ``step`` (a power of two) next to ``x``, ties to even; below 2**22 steps.

    Adding 1.5 * 2**23 steps leaves no bit for less than a step. A zero keeps the sign of ``x``,
    as it does in ``torch.round``.
    """
    shift = step * 12582912.0
    rounded = (x + shift) - shift
    return tl.where(rounded == 0.0, x * 0.0, rounded)


@jit
def _float8_step(x):
    """Distance of the numbers of E4M3 around ``x``: 2**(exponent - 3), at least 2**-9."""
    exponent = tl.abs(x).to(tl.int32, bitcast=True) >> 23
    return (tl.maximum(exponent - 3, 127 - 9) << 23).to(tl.float32, bitcast=True)


@jit
def through_codes(
    x, scale, zero_point, qmin, qmax, symmetric: tl.constexpr, is_float: tl.constexpr
):
    """``dequantize(quantize(x))`` of float32 values."""
    scaled = tl.div_rn(x, scale)
    if not symmetric:
        scaled = scaled + zero_point
    scaled = clip(scaled, qmin, qmax)
    codes = nearest(scaled, _float8_step(scaled)) if is_float else nearest(scaled, 1.0)
    if not symmetric:
        codes = codes - zero_point
    return codes * scale
