"""Fake-quantization with one known scale and zero point, in one read and one write."""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.formats import TensorScheme
from quantspectrum.kernels.codes import through_codes
from quantspectrum.kernels.language import jit, on_device_of, tl, triton

__all__ = ["fake_quantize_static"]

BLOCK = 2048


def fake_quantize_static(
    x: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme
) -> Tensor:
    """``quantizer.fake_quantize`` with zero-dimensional float32 ``scale`` and ``zero_point``.

    On the CPU they are handed over as numbers; on the device of ``x`` the kernel reads them, so
    that in neither case the CPU waits for the device. The values come back in the shape and type
    of ``x``, contiguous.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    in_memory = scale.device == x.device and x.is_cuda
    with on_device_of(x):
        _kernel[(triton.cdiv(x.numel(), BLOCK),)](
            x,
            out,
            scale if in_memory else scale.item(),
            zero_point if in_memory else zero_point.item(),
            x.numel(),
            float(scheme.qmin),
            float(scheme.qmax),
            symmetric=scheme.symmetric,
            is_float=scheme.kind == "float",
            in_memory=in_memory,
            block=BLOCK,
        )
    return out


@jit
def _kernel(
    x,
    out,
    scale,
    zero_point,
    count,
    qmin,
    qmax,
    symmetric: tl.constexpr,
    is_float: tl.constexpr,
    in_memory: tl.constexpr,
    block: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    if in_memory:
        step = tl.load(scale)
        zero = tl.load(zero_point)
    else:
        step = scale
        zero = zero_point
    values = tl.load(x + index, mask=inside, other=0.0).to(tl.float32)
    values = through_codes(values, step, zero, qmin, qmax, symmetric, is_float)
    tl.store(out + index, values.to(out.dtype.element_ty), mask=inside)
