"""Quantization arithmetic: tensors and a scheme in, tensors out; no state, no modules.

The conventions are those of compressed-tensors, whose checkpoints the default backend writes, so
that a simulated op and a reloaded one compute the same numbers:

* symmetric:  ``scale = 2 * max|x| / (qmax - qmin)``, zero point 0;
* affine:     ``scale = (max - min) / (qmax - qmin)``, ``zero_point = round(qmin - min / scale)``,
  with 0 always inside ``[min, max]``;
* ``q = round(clamp(x / scale + zero_point, qmin, qmax))`` with ties to even;
* ``x' = (q - zero_point) * scale``.

All of it is computed in float32 whatever the type of ``x``, as serving kernels do; results come
back in the type of ``x``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.formats import TensorScheme

__all__ = ["dequantize", "fake_quantize", "input_qparams", "qparams", "quantize", "weight_qparams"]

QParams = tuple[Tensor, Tensor]


def qparams(
    low: Tensor, high: Tensor, scheme: TensorScheme, dtype: torch.dtype = torch.float32
) -> QParams:
    """Scale and zero point for values between ``low`` and ``high``.

    Args:
        low: Smallest values, any shape.
        high: Largest values, same shape.
        scheme: How many levels there are and whether they are symmetric.
        dtype: Type the scale will be kept in; it is rounded to one of its numbers, so that
            the codes are made with the scale they will be read with.

    Returns:
        ``(scale, zero_point)``, float32, of the shape of ``low``. A range of zero width gets
        the float32 epsilon as its scale, so that zeros stay zeros.
    """
    low = low.float().clamp(max=0.0)
    high = high.float().clamp(min=0.0)
    levels = scheme.qmax - scheme.qmin
    width = 2 * torch.maximum(-low, high) if scheme.symmetric else high - low
    scale = width / levels
    scale = torch.where(scale == 0, torch.finfo(torch.float32).eps, scale).to(dtype).float()
    # What is too small for the type would be rounded to a scale that divides by zero.
    scale = torch.where(scale == 0, torch.finfo(dtype).tiny, scale)
    if scheme.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, torch.round((scheme.qmin - low / scale).clamp(scheme.qmin, scheme.qmax))


def weight_qparams(
    weight: Tensor, scheme: TensorScheme, dtype: torch.dtype | None = None
) -> QParams:
    """Scale and zero point of a weight ``(out, ...)``; shape ``(out, 1, ...)`` per channel.

    The scale is a number of ``dtype``, by default the weight's own type.
    """
    if scheme.granularity == "tensor":
        low, high = weight.amin(), weight.amax()
    else:
        inner = tuple(range(1, weight.ndim))
        low, high = weight.amin(inner, keepdim=True), weight.amax(inner, keepdim=True)
    return qparams(low, high, scheme, dtype or weight.dtype)


def input_qparams(x: Tensor, scheme: TensorScheme) -> QParams:
    """Scale and zero point measured on ``x`` itself (dynamic schemes).

    Per token they have the shape ``(..., 1)``: one for each vector along the last dimension.
    """
    if scheme.granularity == "token":
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    else:
        low, high = x.amin(), x.amax()
    return qparams(low, high, scheme)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme) -> Tensor:
    """Integer codes of ``x`` (int8)."""
    return _codes(x, scale, zero_point, scheme).to(torch.int8)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype) -> Tensor:
    """The values the codes stand for."""
    return ((codes.float() - zero_point) * scale).to(dtype)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme) -> Tensor:
    """``dequantize(quantize(x))`` without the integer type in between."""
    return ((_codes(x, scale, zero_point, scheme) - zero_point) * scale).to(x.dtype)


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme) -> Tensor:
    scaled = x.float() / scale
    if not scheme.symmetric:
        scaled = scaled + zero_point
    return scaled.clamp_(scheme.qmin, scheme.qmax).round_()
