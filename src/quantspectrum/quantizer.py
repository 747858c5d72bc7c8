"""Quantization arithmetic: tensors and a scheme in, tensors out; no state, no modules.

The conventions are those of compressed-tensors, whose checkpoints the default backend writes, so
that a simulated op and a reloaded one compute the same numbers:

* symmetric:  ``scale = 2 * max|x| / (qmax - qmin)``, zero point 0;
* affine:     ``scale = (max - min) / (qmax - qmin)``, ``zero_point = round(qmin - min / scale)``,
  with 0 always inside ``[min, max]``;
* ``q = round(clamp(x / scale + zero_point, qmin, qmax))``: to an integer, with ties to even, or
  to a number of FP8 E4M3;
* ``x' = (q - zero_point) * scale``.

Scales and zero points are also those of torch.ao's ``MinMaxObserver`` and
``PerChannelMinMaxObserver`` (``UniformQuantizationObserverBase._calculate_qparams``), which INC's
static scheme uses, with two exceptions: they raise scales below the float32 epsilon to it, and
they round ``min / scale`` before they subtract it, so that their zero point may be the next one
where ``min / scale`` is within ``2**-16`` of halfway between integers. Ops of INC's formats compute
as PyTorch's integer kernels do, without exceptions (:mod:`quantspectrum.integer`).

All of it is computed in float32 whatever the type of ``x``, as serving kernels do; results come
back in the type of ``x``. On CUDA, fake-quantization runs in one pass (:mod:`.kernels`), with the
same numbers. A value that is not a number makes what shares its scale not a number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from quantspectrum import kernels
from quantspectrum.formats import TensorScheme

__all__ = [
    "dequantize",
    "fake_quantize",
    "fake_quantize_input",
    "fake_quantize_weight",
    "input_qparams",
    "qparams",
    "quantize",
    "weight_qparams",
]

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
    width = 2 * torch.maximum(-low, high) if scheme.symmetric else high - low
    # A tensor on the device: CUDA multiplies by the inverse of a divisor that is a number.
    scale = width / torch.full_like(width, scheme.qmax - scheme.qmin)
    scale = torch.where(scale == 0, torch.finfo(torch.float32).eps, scale).to(dtype).float()
    # What is too small for the type would be rounded to a scale that divides by zero.
    scale = torch.where(scale == 0, torch.finfo(dtype).tiny, scale)
    if scheme.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, torch.round((scheme.qmin - low / scale).clamp(scheme.qmin, scheme.qmax))


def weight_qparams(
    weight: Tensor, scheme: TensorScheme, dtype: torch.dtype | None = None
) -> QParams:
    """Scale and zero point of a weight ``(out, ...)``.

    They have the shape ``()`` per tensor, ``(out, 1, ...)`` per channel and ``(out, groups)`` in
    groups, which are made along the inputs: all dimensions but the first, flattened. The scale is
    a number of ``dtype``, by default the weight's own type.
    """
    if scheme.granularity == "tensor":
        low, high = torch.aminmax(weight)
    elif scheme.granularity == "group":
        grouped = _to_groups(weight, scheme)
        low, high = grouped.amin(-1), grouped.amax(-1)
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
        low, high = torch.aminmax(x)
    return qparams(low, high, scheme)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme) -> Tensor:
    """Codes of ``x``, in its shape, one byte each: int8, or float8_e4m3fn of float schemes."""
    code_type = torch.float8_e4m3fn if scheme.kind == "float" else torch.int8
    if scheme.granularity == "group":
        codes = _codes(_to_groups(x, scheme), scale[..., None], zero_point[..., None], scheme)
        return _from_groups(codes, x).to(code_type)
    return _codes(x, _beside(x, scale), _beside(x, zero_point), scheme).to(code_type)


def dequantize(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    scheme: TensorScheme,
    dtype: torch.dtype,
) -> Tensor:
    """The values that codes made with ``scheme`` stand for, in their shape."""
    values = codes.float()
    if scheme.granularity != "group":
        return ((values - zero_point) * scale).to(dtype)
    grouped = _to_groups(values, scheme)
    return _from_groups((grouped - zero_point[..., None]) * scale[..., None], codes).to(dtype)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme) -> Tensor:
    """``dequantize(quantize(x))`` without the code type in between."""
    if scale.ndim == 0 and kernels.takes(x):
        from quantspectrum.kernels.static import fake_quantize_static

        return fake_quantize_static(x, scale, zero_point, scheme)
    if scheme.granularity == "group":
        scale, zero_point = scale[..., None], zero_point[..., None]
        codes = _codes(_to_groups(x, scheme), scale, zero_point, scheme)
        return _from_groups((codes - zero_point) * scale, x).to(x.dtype)
    scale, zero_point = _beside(x, scale), _beside(x, zero_point)
    return ((_codes(x, scale, zero_point, scheme) - zero_point) * scale).to(x.dtype)


def fake_quantize_weight(
    weight: Tensor, scheme: TensorScheme, scale_dtype: torch.dtype | None = None
) -> Tensor:
    """``dequantize(quantize(weight))`` with the weight's own scales, in its shape and type."""
    if scheme.granularity != "tensor" and kernels.takes(weight):
        from quantspectrum.kernels.rows import fake_quantize_rows

        rows = weight.flatten(1)
        kept = scale_dtype or weight.dtype
        return fake_quantize_rows(rows, scheme, kept, scheme.group_size).view(weight.shape)
    return fake_quantize(weight, *weight_qparams(weight, scheme, scale_dtype), scheme)


def fake_quantize_input(x: Tensor, scheme: TensorScheme) -> Tensor:
    """``fake_quantize(x)`` with the scales measured on ``x`` (dynamic schemes)."""
    if scheme.granularity == "token" and kernels.takes(x):
        from quantspectrum.kernels.rows import fake_quantize_rows

        rows = x.reshape(-1, x.shape[-1])
        return fake_quantize_rows(rows, scheme, torch.float32).view(x.shape)
    return fake_quantize(x, *input_qparams(x, scheme), scheme)


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme) -> Tensor:
    """Codes as float32; ``scale`` and ``zero_point`` broadcast to ``x`` and are on its device."""
    scaled = x.float() / scale
    if not scheme.symmetric:
        scaled = scaled + zero_point
    scaled = scaled.clamp_(scheme.qmin, scheme.qmax)
    if scheme.kind == "float":
        return scaled.to(torch.float8_e4m3fn).float()
    return scaled.round_()


def _beside(x: Tensor, value: Tensor) -> Tensor:
    """A zero-dimensional value of the CPU on the device of ``x``, without waiting for it.

    Left on the CPU, CUDA would multiply by its inverse instead of dividing by it.
    """
    if value.device == x.device:
        return value
    return torch.full((), value.item(), dtype=torch.float32, device=x.device)


def _to_groups(x: Tensor, scheme: TensorScheme) -> Tensor:
    """``(out, ...)`` to ``(out, groups, group_size)``; a smaller last group is filled with 0."""
    assert scheme.group_size is not None
    rows = x.flatten(1)
    missing = -rows.shape[1] % scheme.group_size
    # Zeros change no range: 0 is always inside.
    padded = functional.pad(rows, (0, missing)) if missing else rows
    return padded.reshape(len(rows), -1, scheme.group_size)


def _from_groups(grouped: Tensor, like: Tensor) -> Tensor:
    columns = like[0].numel()
    return grouped.flatten(1)[:, :columns].reshape(like.shape)
