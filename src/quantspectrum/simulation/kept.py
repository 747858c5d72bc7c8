"""What a simulation keeps between forwards: quantized weights while there is room, the last input."""

from __future__ import annotations

import weakref

from torch import Tensor

from quantspectrum.integer import weight_codes
from quantspectrum.quantizer import dequantize, fake_quantize_weight, quantize, weight_qparams
from quantspectrum.simulation.plan import InputQuantizer, OpPlan

__all__ = ["LastInput", "WeightCodes"]


class WeightCodes:
    """Fake-quantized weights, or their integer codes, kept while there is room."""

    def __init__(self, limit: int, whole: int) -> None:
        self._left = limit
        self._whole_left = whole
        self._whole: dict[str, Tensor] = {}
        self._kept: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._integers: dict[str, tuple[Tensor, Tensor]] = {}

    def values(self, name: str, weight: Tensor, plan: OpPlan) -> Tensor:
        """The fake-quantized weight of an op."""
        whole = self._whole.get(name)
        if whole is None:
            size = weight.numel() * weight.element_size()
            if size > self._whole_left:
                return self._from_codes(name, weight, plan)
            self._whole_left -= size
            whole = fake_quantize_weight(weight, plan.format.weight, plan.scale_dtype)
            self._whole[name] = whole
        return whole

    def _from_codes(self, name: str, weight: Tensor, plan: OpPlan) -> Tensor:
        scheme = plan.format.weight
        kept = self._kept.get(name)
        if kept is None:
            if weight.numel() > self._left:
                return fake_quantize_weight(weight, scheme, plan.scale_dtype)
            self._left -= weight.numel()
            scale, zero_point = weight_qparams(weight, scheme, plan.scale_dtype)
            kept = quantize(weight, scale, zero_point, scheme), scale, zero_point
            self._kept[name] = kept
        return dequantize(*kept, scheme, weight.dtype)

    def integers(self, name: str, weight: Tensor, plan: OpPlan) -> tuple[Tensor, Tensor]:
        """Codes and scales of the weight of an op that computes in integers."""
        kept = self._integers.get(name)
        if kept is None:
            kept = weight_codes(weight, plan.format.weight)
            if weight.numel() <= self._left:
                self._left -= weight.numel()
                self._integers[name] = kept
        return kept


class LastInput:
    """The last fake-quantized input, for ops that get the same one: q, k and v; gate and up."""

    def __init__(self) -> None:
        self._of: weakref.ref[Tensor] | None = None
        self._how: object = None
        self._value: Tensor | None = None

    def remembering(self, plan: OpPlan, quantizer: InputQuantizer) -> InputQuantizer:
        """The quantizer, which makes nothing again that was made last, and in the same way."""
        fmt = plan.format
        how = (fmt.activation, fmt.integer, plan.input_range, plan.scale_dtype)

        def quantize_input(x: Tensor) -> Tensor:
            if self._value is None or self._of is None or self._of() is not x or self._how != how:
                value = quantizer(x)
                if value is x:
                    return x
                # Gone as soon as the input is, so that it takes no memory longer than that.
                self._of, self._how = weakref.ref(x, self._forget), how
                self._value = value
            return self._value

        return quantize_input

    def _forget(self, of: weakref.ref[Tensor]) -> None:
        if self._of is of:
            self._of = self._value = None
