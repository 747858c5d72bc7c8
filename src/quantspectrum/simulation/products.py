"""The product of an op, of values or of integer codes, and what quantizing adds to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantspectrum.integer import IntegerKernel, weight_codes
from quantspectrum.kernels.linear import linear
from quantspectrum.models.placement import tensor_of, weight_of
from quantspectrum.quantizer import fake_quantize_weight
from quantspectrum.simulation.plan import OpPlan, output_quantizer, serving_input_quantizer

__all__ = ["Multiply", "applied", "in_integers", "op_error"]

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``x W^T + b`` of input, weight and bias."""


def op_error(module: nn.Module, plan: OpPlan, x: Tensor) -> Tensor:
    r"""What quantizing an op adds to its output, of the output's shape.

    :math:`e = Q(x)\,(Q(W) - W)^\top + (Q(x) - x)\,W^\top`, which keeps its precision where the
    difference of two outputs in the model's type would lose it; with a quantized output
    :math:`y`, :math:`Q(y + e) - y`. It can be asked for while the weights are offloaded.
    """
    weight = weight_of(module).to(x.device)
    if plan.format.integer:
        kernel, codes = plan.integer_kernel(), weight_codes(weight, plan.format.weight)
        quantized = in_integers(module, kernel, kernel.codes(x), codes)
        return (quantized - applied(module, x, weight).float()).to(x.dtype)
    plan = plan.for_weight(weight)
    quantized = serving_input_quantizer(plan)(x)
    moved = fake_quantize_weight(weight, plan.format.weight, plan.scale_dtype) - weight
    error = applied(module, quantized, moved, bias=False)
    if plan.format.activation is not None:
        error = error + applied(module, quantized - x, weight, bias=False)
    if plan.format.output is not None:
        y = applied(module, x, weight)
        error = output_quantizer(plan)(y + error) - y
    return error


def in_integers(
    module: nn.Module, kernel: IntegerKernel, codes: Tensor, weight: tuple[Tensor, Tensor]
) -> Tensor:
    """An op's output from codes of its input, and codes and scales of its weight."""

    def product(x: Tensor, integers: Tensor, bias: Tensor | None) -> Tensor:
        return _product(module, x, integers, bias, linear)

    return kernel.apply(product, codes, weight, _bias_of(module, codes.device))


def applied(
    module: nn.Module, x: Tensor, weight: Tensor, *, bias: bool = True, multiply: Multiply = linear
) -> Tensor:
    """An op's output from another weight than its own."""
    added = _bias_of(module, x.device) if bias else None
    return _product(module, x, weight, added, multiply)


def _bias_of(module: nn.Module, device: torch.device) -> Tensor | None:
    if getattr(module, "bias", None) is None:
        return None
    return tensor_of(module, "bias").to(device)


def _product(
    module: nn.Module,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    multiply: Multiply,
) -> Tensor:
    if isinstance(module, nn.Linear):
        return multiply(x, weight, bias)
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    output: Tensor = module._conv_forward(x, weight, bias)
    return output
