"""The real kernels that PyTorch has for a linear in each format, on the device at hand.

A format without one raises :class:`Absent` with the reason: nothing here computes with
dequantized numbers. Turning the input into codes is part of a kernel's work, by PyTorch's own
operations; a serving engine fuses it into one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quantspectrum.formats import Format, TensorScheme
from quantspectrum.quantizer import input_qparams, qparams, quantize, weight_qparams

__all__ = ["Absent", "Kernel", "high_precision", "kernel_for", "static_input_qparams"]

FP8_CAPABILITY = (8, 9)
_CUDA_INT_ROWS = 32


class Absent(Exception):  # noqa: N818 - an answer, written into the table
    """No kernel of this machine computes the format; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A linear with its weight prepared.

    Attributes:
        name: Which kernel, in words.
        run: Takes ``(rows, in)`` and gives ``(rows, out)``.
        scale_dtype: The type it wants the weight's scales in.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    scale_dtype: torch.dtype = torch.float32


def high_precision(weight: Tensor) -> Kernel:
    """The linear in the weight's own type."""
    dtype = str(weight.dtype).removeprefix("torch.")
    return Kernel(
        name=f"torch.nn.functional.linear ({dtype})", run=lambda x: functional.linear(x, weight)
    )


def kernel_for(fmt: Format, weight: Tensor, x: Tensor) -> Kernel:
    """The kernel for a format.

    Args:
        fmt: The format.
        weight: ``(out, in)``, in high precision.
        x: ``(rows, in)``; static ranges are its own.

    Raises:
        Absent: There is none for this device, type or shape.
    """
    act = fmt.activation
    if fmt.output is not None:
        raise Absent("PyTorch's linears here give high-precision outputs, not quantized ones")
    if "float" in (fmt.weight.kind, act.kind if act else None):
        return _fp8(fmt, weight)
    if act is None and fmt.weight.bits == 8 and fmt.weight.granularity == "channel":
        return _int8_weights(fmt, weight)
    if act is None and fmt.weight.bits == 4 and fmt.weight.granularity == "group":
        return _int4_weights(fmt, weight)
    if act is not None and fmt.weight.bits == act.bits == 8 and fmt.weight.granularity == "channel":
        return _int8(fmt.weight, act, weight, x)
    raise Absent("PyTorch has no kernel for this pair of weights and activations")


def static_input_qparams(x: Tensor, scheme: TensorScheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a static input whose range is that of ``x``."""
    low, high = torch.aminmax(x)
    return qparams(low, high, scheme)


def _int8(scheme: TensorScheme, act: TensorScheme, weight: Tensor, x: Tensor) -> Kernel:
    r"""``_int_mm`` of codes, :math:`s_a s_w (q W - z \sum W)` from it."""
    if not scheme.symmetric:
        raise Absent("weights with zero points have no integer product here")
    scale, zero = weight_qparams(weight, scheme, torch.float32)
    codes = quantize(weight, scale, zero, scheme).t()
    outputs = scale.reshape(1, -1)
    sums = codes.sum(0, dtype=torch.int32)[None] if not act.symmetric else None
    fixed = None if act.dynamic else static_input_qparams(x, act)

    def missing(x: Tensor) -> int:
        """Rows that CUDA's product wants besides."""
        return max(0, _CUDA_INT_ROWS - len(x)) if x.is_cuda else 0

    def run(x: Tensor) -> Tensor:
        input_scale, input_zero = fixed or input_qparams(x, act)
        q = quantize(x, input_scale, input_zero, act)
        if rows := missing(x):
            q = functional.pad(q, (0, 0, 0, rows))
        product = torch._int_mm(q, codes)[: len(x)]
        if sums is not None:
            product = product - input_zero.to(torch.int32) * sums
        return (product.float() * input_scale * outputs).to(x.dtype)

    name = "torch._int_mm (int8)"
    return Kernel(name=f"{name}, rows padded to {_CUDA_INT_ROWS}" if missing(x) else name, run=run)


def _fp8(fmt: Format, weight: Tensor) -> Kernel:
    act = fmt.activation
    if act is None or not act.dynamic or fmt.weight.granularity != "channel":
        raise Absent("the FP8 kernel wants weights per channel and inputs per token")
    if not weight.is_cuda:
        raise Absent("FP8 products need CUDA; this device has none")
    capability = torch.cuda.get_device_capability(weight.device)
    if capability < FP8_CAPABILITY:
        found = ".".join(map(str, capability))
        raise Absent(f"FP8 products need compute capability 8.9; this device has {found}")
    if weight.dtype != torch.bfloat16:
        raise Absent("torch._scaled_mm with a scale a row gives bfloat16 only")
    scale, zero = weight_qparams(weight, fmt.weight, torch.float32)
    codes = quantize(weight, scale, zero, fmt.weight).t()
    outputs = scale.reshape(1, -1)

    def run(x: Tensor) -> Tensor:
        input_scale, input_zero = input_qparams(x, act)
        q = quantize(x, input_scale, input_zero, act)
        return torch._scaled_mm(
            q, codes, scale_a=input_scale, scale_b=outputs, out_dtype=torch.bfloat16
        )

    return Kernel(name="torch._scaled_mm (float8_e4m3fn, a scale a row)", run=run)


def _int8_weights(fmt: Format, weight: Tensor) -> Kernel:
    if not fmt.weight.symmetric:
        raise Absent("the int8 weight-only kernel has no zero points")
    scale, zero = weight_qparams(weight, fmt.weight, weight.dtype)
    codes = quantize(weight, scale, zero, fmt.weight)
    outputs = scale.reshape(-1).to(weight.dtype)
    return Kernel(
        name="torch._weight_int8pack_mm",
        run=lambda x: torch._weight_int8pack_mm(x, codes, outputs),
        scale_dtype=weight.dtype,
    )


def _int4_weights(fmt: Format, weight: Tensor) -> Kernel:
    size = fmt.weight.group_size
    assert size is not None
    if size not in (32, 64, 128, 256) or weight.shape[1] % size or not fmt.weight.symmetric:
        raise Absent(
            f"the int4 kernel wants whole groups of 32, 64, 128 or 256 inputs, not {size} of "
            f"{weight.shape[1]}"
        )
    if weight.is_cuda and weight.dtype != torch.bfloat16:
        raise Absent("the int4 kernel of CUDA computes in bfloat16 only")
    scale, zero = weight_qparams(weight, fmt.weight, weight.dtype)
    # The kernels' codes are from 0 to 15 and stand for (code - 8) * scale + zero.
    codes = quantize(weight, scale, zero, fmt.weight).to(torch.int32) + 8
    pairs = torch.stack([scale.t(), torch.zeros_like(scale.t())], -1).to(weight.dtype).contiguous()
    aten = torch.ops.aten
    if not weight.is_cuda:
        packed = aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        return Kernel(
            name="aten::_weight_int4pack_mm_for_cpu",
            run=lambda x: aten._weight_int4pack_mm_for_cpu(x, packed, size, pairs),
            scale_dtype=weight.dtype,
        )
    halves = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    packed = aten._convert_weight_to_int4pack(halves, 8)
    return Kernel(
        name="aten::_weight_int4pack_mm",
        run=lambda x: aten._weight_int4pack_mm(x, packed, size, pairs),
        scale_dtype=weight.dtype,
    )
