"""Running a model as if some of its ops were quantized, without changing the model.

A :class:`Simulation` replaces the forward of the planned ops while it is entered. An op that is
*active* computes with its input and weight fake-quantized (and its output where the format says
so); one that is not computes as before. The model's own weights are never written, and a quantized
weight exists only while its op computes, unless there is room to keep integer codes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantspectrum.formats import Format
from quantspectrum.integer import IntegerKernel, weight_codes
from quantspectrum.kernels.linear import linear
from quantspectrum.models.placement import inner_forward_slot, tensor_of, weight_of
from quantspectrum.quantizer import (
    dequantize,
    fake_quantize,
    fake_quantize_input,
    fake_quantize_weight,
    qparams,
    quantize,
    weight_qparams,
)

__all__ = ["InputQuantizer", "OpPlan", "Part", "Simulation", "op_error", "serving_input_quantizer"]

InputQuantizer = Callable[[Tensor], Tensor]

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``x W^T + b`` of input, weight and bias."""

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
    """

    format: Format
    input_range: Range | None = None
    output_range: Range | None = None
    scale_dtype: torch.dtype | None = None

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
        return IntegerKernel.of(self.format, self.input_range, self.output_range)

    def check(self, name: str) -> None:
        """Raise ``ValueError`` when a range that the format needs is missing."""
        act = self.format.activation
        if act is not None and not act.dynamic and self.input_range is None:
            raise ValueError(f"op {name}: format {self.format.name} needs a calibrated range")
        if self.format.output is not None and self.output_range is None:
            raise ValueError(f"op {name}: format {self.format.name} needs a calibrated range")


class _WeightCodes:
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


class _LastInput:
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


class Simulation:
    """Context in which chosen ops of a model compute as if quantized.

    Args:
        model: The model; it is as it was once the context is left, also after an exception.
        plans: How each op is quantized, by its qualified name. No op is active at first.
        input_quantizer: Makes the function that fake-quantizes an op's input from its plan; by
            default in float32, as serving kernels do. One that is given is a loader's: products are
            then torch's own too, whatever shapes suit.
        cache_bytes: Room for integer codes of weights (one byte per element), which spare
            quantizing a weight again each time its op computes.
        weight_bytes: Room for fake-quantized weights themselves, which spare reading codes too.

    Simulations nest: an op inactive in the inner one computes as the outer one says.
    """

    def __init__(
        self,
        model: nn.Module,
        plans: Mapping[str, OpPlan],
        input_quantizer: Callable[[OpPlan], InputQuantizer] | None = None,
        *,
        cache_bytes: int = 0,
        weight_bytes: int = 0,
    ) -> None:
        """Check the plans; nothing is replaced before the context is entered."""
        self._input_quantizer = input_quantizer or serving_input_quantizer
        # What is compared with a loader digit by digit must multiply with the very kernels it does.
        self._linear = linear if input_quantizer is None else functional.linear
        self._modules = {name: model.get_submodule(name) for name in plans}
        self._plans = {
            name: plan.for_weight(self._modules[name].get_parameter("weight"))
            for name, plan in plans.items()
        }
        self._active: dict[str, Part] = {}
        self._room = cache_bytes, weight_bytes
        self._codes = _WeightCodes(*self._room)
        self._inputs = _LastInput()
        self._replaced: list[tuple[dict[str, Any], str, Callable[..., Any] | None]] = []
        for name, plan in plans.items():
            plan.check(name)

    def __enter__(self) -> Simulation:
        """Put the simulated forwards in place."""
        try:
            for name, module in self._modules.items():
                # Inside what a placed (offloaded) module does to bring its weight.
                slot = inner_forward_slot(module)
                attributes = vars(module)
                forward = self._forward(name, module, getattr(module, slot))
                self._replaced.append((attributes, slot, attributes.get(slot)))
                attributes[slot] = forward
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the forwards back as they were found and drop the codes."""
        self._restore()

    def _restore(self) -> None:
        for attributes, slot, own in reversed(self._replaced):
            if own is None:
                del attributes[slot]
            else:
                attributes[slot] = own
        self._replaced.clear()
        self._active = {}
        self._codes = _WeightCodes(*self._room)

    @property
    def names(self) -> tuple[str, ...]:
        """The planned ops."""
        return tuple(self._plans)

    def activate(self, names: Iterable[str], parts: Mapping[str, Part] | None = None) -> None:
        """Make exactly these ops compute as quantized; ``parts`` says of which only a part is."""
        active: dict[str, Part] = dict.fromkeys(names, "both")
        active.update(parts or {})
        unknown = active.keys() - self._plans.keys()
        assert not unknown, f"no plan for {sorted(unknown)}"
        self._active = active

    def activate_all(self) -> None:
        """Make every planned op compute as quantized."""
        self.activate(self._plans)

    def _forward(
        self, name: str, module: nn.Module, before: Callable[..., Any]
    ) -> Callable[..., Any]:
        plan = self._plans[name]
        if plan.format.integer:
            return self._integer_forward(name, module, before)
        quantize_input = self._inputs.remembering(plan, self._input_quantizer(plan))
        quantize_output = _output_quantizer(plan)

        def forward(x: Tensor) -> Any:
            part = self._active.get(name)
            if part is None:
                return before(x)
            weight = cast("nn.Parameter", module.weight).detach()
            if part != "activation":
                weight = self._codes.values(name, weight, plan)
            if part == "weight":
                return _apply(module, x, weight, multiply=self._linear)
            y = _apply(module, quantize_input(x), weight, multiply=self._linear)
            return quantize_output(y)

        return forward

    def _integer_forward(
        self, name: str, module: nn.Module, before: Callable[..., Any]
    ) -> Callable[..., Any]:
        plan = self._plans[name]
        kernel = plan.integer_kernel()
        input_codes = self._inputs.remembering(plan, kernel.codes)

        def forward(x: Tensor) -> Any:
            part = self._active.get(name)
            if part is None:
                return before(x)
            weight = cast("nn.Parameter", module.weight).detach()
            if part == "activation":
                y = _apply(module, kernel.values(input_codes(x)).to(x.dtype), weight)
                return kernel.rounded(y).to(x.dtype)
            codes, scale = self._codes.integers(name, weight, plan)
            if part == "weight":
                return _apply(module, x, (codes * scale).to(x.dtype))
            return _in_integers(module, kernel, input_codes(x), (codes, scale)).to(x.dtype)

        return forward


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


def _output_quantizer(plan: OpPlan) -> InputQuantizer:
    scheme = plan.format.output
    if scheme is None:
        return lambda y: y
    scale, zero_point = plan.output_qparams()
    return lambda y: fake_quantize(y, scale, zero_point, scheme)


def op_error(module: nn.Module, plan: OpPlan, x: Tensor) -> Tensor:
    r"""What quantizing an op adds to its output, of the output's shape.

    :math:`e = Q(x)\,(Q(W) - W)^\top + (Q(x) - x)\,W^\top`, which keeps its precision where the
    difference of two outputs in the model's type would lose it; with a quantized output
    :math:`y`, :math:`Q(y + e) - y`. It can be asked for while the weights are offloaded.
    """
    weight = weight_of(module).to(x.device)
    if plan.format.integer:
        kernel, codes = plan.integer_kernel(), weight_codes(weight, plan.format.weight)
        quantized = _in_integers(module, kernel, kernel.codes(x), codes)
        return (quantized - _apply(module, x, weight).float()).to(x.dtype)
    plan = plan.for_weight(weight)
    quantized = serving_input_quantizer(plan)(x)
    moved = fake_quantize_weight(weight, plan.format.weight, plan.scale_dtype) - weight
    error = _apply(module, quantized, moved, bias=False)
    if plan.format.activation is not None:
        error = error + _apply(module, quantized - x, weight, bias=False)
    if plan.format.output is not None:
        y = _apply(module, x, weight)
        error = _output_quantizer(plan)(y + error) - y
    return error


def _in_integers(
    module: nn.Module, kernel: IntegerKernel, codes: Tensor, weight: tuple[Tensor, Tensor]
) -> Tensor:
    def product(x: Tensor, integers: Tensor, bias: Tensor | None) -> Tensor:
        return _product(module, x, integers, bias, linear)

    return kernel.apply(product, codes, weight, _bias_of(module, codes.device))


def _apply(
    module: nn.Module, x: Tensor, weight: Tensor, *, bias: bool = True, multiply: Multiply = linear
) -> Tensor:
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
