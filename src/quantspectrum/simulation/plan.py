"""How one op is quantized, and what that makes of its input and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from quantspectrum.formats import Format
from quantspectrum.integer import IntegerKernel
from quantspectrum.quantizer import fake_quantize, fake_quantize_input, qparams

__all__ = ["InputQuantizer", "OpPlan", "Part", "output_quantizer", "serving_input_quantizer"]

InputQuantizer = Callable[[Tensor], Tensor]

Part = Literal["both", "weight", "activation"]
"""What of an op is quantized."""

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class OpPlan:
    """How one op is quantized.

    Attributes:
        format: Format of its weight, input and output.
        input_range: Smallest and largest input; needed where activations are static.
        output_range: Smallest and largest output; needed where the output is quantized.
        scale_dtype: Type a checkpoint keeps scales in; ``None`` is the weight's own.
        rounds_bias: Whether an integer kernel rounds the bias; see :class:`.integer.IntegerKernel`.
    """

    format: Format
    input_range: Range | None = None
    output_range: Range | None = None
    scale_dtype: torch.dtype | None = None
    rounds_bias: bool = True

    def for_weight(self, weight: Tensor) -> OpPlan:
        """The plan with ``scale_dtype`` settled."""
        return replace(self, scale_dtype=self.scale_dtype or weight.dtype)

    def input_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a static input; zero-dimensional, on the CPU."""
        assert self.format.activation is not None
        assert self.input_range is not None
        low, high = (torch.tensor(bound) for bound in self.input_range)
        return qparams(low, high, self.format.activation, self.scale_dtype or torch.float32)

    def output_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a quantized output; zero-dimensional, on the CPU."""
        assert self.format.output is not None
        assert self.output_range is not None
        low, high = (torch.tensor(bound) for bound in self.output_range)
        return qparams(low, high, self.format.output)

    def integer_kernel(self) -> IntegerKernel:
        """How the op computes where its format is an integer one."""
        assert self.input_range is not None
        assert self.output_range is not None
        return IntegerKernel.of(
            self.format, self.input_range, self.output_range, rounds_bias=self.rounds_bias
        )

    def check(self, name: str) -> None:
        """Raise ``ValueError`` when a range that the format needs is missing."""
        act = self.format.activation
        if act is not None and not act.dynamic and self.input_range is None:
            raise ValueError(f"op {name}: format {self.format.name} needs a calibrated range")
        if self.format.output is not None and self.output_range is None:
            raise ValueError(f"op {name}: format {self.format.name} needs a calibrated range")


def serving_input_quantizer(plan: OpPlan) -> InputQuantizer:
    """Fake-quantization of an op's input in float32, per token or with the calibrated range."""
    scheme = plan.format.activation
    if scheme is None:
        return lambda x: x
    if scheme.dynamic:
        return lambda x: fake_quantize_input(x, scheme)
    # Zero-dimensional tensors stay on the CPU: torch passes them to GPU kernels by value.
    scale, zero_point = plan.input_qparams()
    return lambda x: fake_quantize(x, scale, zero_point, scheme)


def output_quantizer(plan: OpPlan) -> InputQuantizer:
    """Fake-quantization of an op's output with the calibrated range, where the format has one."""
    scheme = plan.format.output
    if scheme is None:
        return lambda y: y
    scale, zero_point = plan.output_qparams()
    return lambda y: fake_quantize(y, scale, zero_point, scheme)
