r"""Ops as PyTorch's integer kernels compute them: the arithmetic behind INC 3.7's static scheme.

INC converts a model with ``torch.ao.quantization.quantize_fx``, and its ops become
``torch.ao.nn.quantized.Linear``: uint8 in, int8 weights, int32 sums, uint8 out. With input scale
and zero point :math:`(s, z)`, output :math:`(s', z')` and the weight's scale :math:`s_w` per
output channel,

.. math::
    a &= \mathrm{clamp}(\mathrm{round}(x \cdot (1/s)) + z, 0, 255) - z \\
    A &= a W^\top + \mathrm{round}(b \cdot (1 / (s_w s))) \\
    y &= (\mathrm{clamp}(\mathrm{round}(A \cdot (s_w s / s')) + z', 0, 255) - z') \cdot s'

where :math:`W = \mathrm{clamp}(\mathrm{round}(w \cdot (1/s_w)), -128, 127)`. Fake quantization
(:mod:`quantspectrum.quantizer`) has the same grids. It differs in which code a value half-way
between two gets, in the bias, which it leaves as it is, and in float32 sums. None of it is too
little to matter: with :math:`s_w = 2 \max|w| / 255` every channel's extreme weight, where it is
negative, lies half-way between -128 and -127, and in a deep model one code that moves changes the
rounding of all that follows. On small models INC's numbers move by up to 15 % of themselves.

That is engine ``qnnpack``. Engine ``x86`` (FBGEMM, oneDNN) keeps the bias as it is:
:math:`A = a W^\top + b / (s_w s)` (``rounds_bias=False``). Its sums of 8-bit activations overflow on
processors without VNNI, for which there are those of 7 bits.

Sources: ``torch/ao/quantization/observer.py: UniformQuantizationObserverBase`` and
``aten/src/ATen/native/quantized/cpu/qlinear.cpp: PackedLinearWeightsQnnp::apply_impl``. The clamp
is that of uint8, also where the observer used fewer bits. ``torch.quantize_per_tensor`` of torch
2.14 adds the zero point after rounding, as here; that of 2.13 adds it before, with one rounding
for the product and the sum, which gives 4 of a million random values another code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantspectrum.formats import Format, TensorScheme

__all__ = ["IntegerKernel", "activation_qparams", "weight_codes"]

UINT8_MAX = 255
EPSILON = torch.finfo(torch.float32).eps

Range = tuple[float, float]
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def activation_qparams(bounds: Range, scheme: TensorScheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point on uint8 of values within ``bounds``: torch.ao's ``MinMaxObserver``.

    Returns:
        Zero-dimensional float32 tensors; the scale is at least the float32 epsilon.
    """
    levels = scheme.qmax - scheme.qmin
    low, high = torch.tensor(bounds).unbind()
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / levels).clamp(min=EPSILON)
    return scale, (-torch.round(low / scale)).clamp(0, levels)


def weight_codes(weight: Tensor, scheme: TensorScheme) -> tuple[Tensor, Tensor]:
    """Codes (int8) and scales of a weight ``(out, ...)``: torch.ao's ``PerChannelMinMaxObserver``.

    Returns:
        The codes in the weight's shape, and scales of the shape ``(out, 1, ...)``, float32.
    """
    flat = weight.float().flatten(1)
    scale = (2 * flat.abs().amax(1, keepdim=True) / (scheme.qmax - scheme.qmin)).clamp(min=EPSILON)
    codes = (flat * scale.reciprocal()).round_().clamp_(scheme.qmin, scheme.qmax)
    shape = (-1, *[1] * (weight.ndim - 1))
    return codes.to(torch.int8).view(weight.shape), scale.view(shape)


@dataclass(frozen=True)
class IntegerKernel:
    """The grids of one op's input and output.

    Attributes:
        input: Scale and zero point of the input.
        output: Scale and zero point of the output.
        rounds_bias: Whether the bias is rounded to integers, as engine ``qnnpack`` does.
    """

    input: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]
    rounds_bias: bool = True

    @classmethod
    def of(
        cls, fmt: Format, input_range: Range, output_range: Range, *, rounds_bias: bool = True
    ) -> IntegerKernel:
        """The kernel of an op whose format is :attr:`~quantspectrum.formats.Format.integer`."""
        assert fmt.activation is not None
        assert fmt.output is not None
        return cls(
            activation_qparams(input_range, fmt.activation),
            activation_qparams(output_range, fmt.output),
            rounds_bias,
        )

    def codes(self, x: Tensor) -> Tensor:
        """Codes of an input less its zero point, float32, in its shape."""
        return _codes(x, *self.input)

    def values(self, codes: Tensor) -> Tensor:
        """The input that codes stand for, float32."""
        return codes * self.input[0]

    def apply(
        self,
        product: Product,
        codes: Tensor,
        weight: tuple[Tensor, Tensor],
        bias: Tensor | None,
    ) -> Tensor:
        """The op's output, float32.

        Args:
            product: The op on an input, a weight and a bias. It gets integers in float32, whose
                sums are exact up to ``2**24``.
            codes: What :meth:`codes` made of the input.
            weight: What :func:`weight_codes` made of the weight.
            bias: The op's own bias, ``(out,)``.
        """
        integers, weight_scale = weight
        scale = weight_scale.flatten() * self.input[0]
        if bias is not None:
            bias = bias.float() * scale.reciprocal()
            bias = torch.round(bias) if self.rounds_bias else bias
        total = product(codes, integers.float(), bias)
        # Channels are the last dimension of a Linear's output, and before a convolution's space.
        scale = (scale / self.output[0]).view(-1, *[1] * (integers.ndim - 2))
        out_scale, zero_point = self.output
        steps = total.mul_(scale).round_()
        return steps.add_(zero_point).clamp_(0, UINT8_MAX).sub_(zero_point).mul_(out_scale)

    def rounded(self, y: Tensor) -> Tensor:
        """An output in high precision, rounded to the output's grid, float32."""
        return _codes(y, *self.output).mul_(self.output[0])


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    steps = (x.float() * scale.reciprocal()).round_()
    return steps.add_(zero_point).clamp_(0, UINT8_MAX).sub_(zero_point)
