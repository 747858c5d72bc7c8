"""Running a model as if some of its ops were quantized, without changing the model.

A :class:`Simulation` replaces the forward of the planned ops while it is entered. An op that is
*active* computes with its input and weight fake-quantized; one that is not computes as before.
The model's own weights are never written: an active op holds integer codes of its weight beside
them (one byte per element), made when it becomes active and dropped when it no longer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantspectrum.formats import Format
from quantspectrum.quantizer import (
    dequantize,
    fake_quantize,
    input_qparams,
    qparams,
    quantize,
    weight_qparams,
)

__all__ = ["InputQuantizer", "OpPlan", "Simulation", "serving_input_quantizer"]

InputQuantizer = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class OpPlan:
    """How one op is quantized.

    Attributes:
        format: Format of its weight and input.
        input_range: Smallest and largest input; needed where activations are static.
        scale_dtype: Type a checkpoint keeps scales in; ``None`` is the weight's own.
    """

    format: Format
    input_range: tuple[float, float] | None = None
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


class _QuantizedWeight:
    """Codes of a weight and what they mean."""

    def __init__(self, weight: Tensor, plan: OpPlan) -> None:
        scheme = plan.format.weight
        self._scale, self._zero_point = weight_qparams(weight, scheme, plan.scale_dtype)
        self._codes = quantize(weight, self._scale, self._zero_point, plan.format.weight)
        self._dtype = weight.dtype

    def values(self) -> Tensor:
        return dequantize(self._codes, self._scale, self._zero_point, self._dtype)


class Simulation:
    """Context in which chosen ops of a model compute as if quantized.

    Args:
        model: The model; it is as it was once the context is left, also after an exception.
        plans: How each op is quantized, by its qualified name. No op is active at first.

        input_quantizer: Makes the function that fake-quantizes an op's input from its plan; by
            default in float32, as serving kernels do.

    Simulations nest: an op inactive in the inner one computes as the outer one says.
    """

    def __init__(
        self,
        model: nn.Module,
        plans: Mapping[str, OpPlan],
        input_quantizer: Callable[[OpPlan], InputQuantizer] | None = None,
    ) -> None:
        """Check the plans; nothing is replaced before the context is entered."""
        self._input_quantizer = input_quantizer or serving_input_quantizer
        self._modules = {name: model.get_submodule(name) for name in plans}
        self._plans = {
            name: plan.for_weight(self._modules[name].get_parameter("weight"))
            for name, plan in plans.items()
        }
        self._weights: dict[str, _QuantizedWeight] = {}
        self._replaced: list[tuple[nn.Module, Callable[..., Any] | None]] = []
        for name, plan in plans.items():
            if plan.format.needs_calibration and plan.input_range is None:
                raise ValueError(f"op {name}: format {plan.format.name} needs a calibrated range")

    def __enter__(self) -> Simulation:
        """Put the simulated forwards in place."""
        try:
            for name, module in self._modules.items():
                own = module.__dict__.get("forward")
                forward = self._forward(name, module, module.forward)
                self._replaced.append((module, own))
                module.forward = forward
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
        for module, own in reversed(self._replaced):
            if own is None:
                del module.forward
            else:
                module.forward = own
        self._replaced.clear()
        self._weights.clear()

    def activate(self, names: Iterable[str]) -> None:
        """Make exactly these ops compute as quantized."""
        wanted = set(names)
        unknown = wanted - self._plans.keys()
        assert not unknown, f"no plan for {sorted(unknown)}"
        for name in self._weights.keys() - wanted:
            del self._weights[name]
        for name in self._plans.keys() & (wanted - self._weights.keys()):
            weight = self._modules[name].weight
            assert isinstance(weight, Tensor)
            self._weights[name] = _QuantizedWeight(weight.detach(), self._plans[name])

    def activate_all(self) -> None:
        """Make every planned op compute as quantized."""
        self.activate(self._plans)

    def _forward(
        self, name: str, module: nn.Module, before: Callable[..., Any]
    ) -> Callable[..., Any]:
        quantize_input = self._input_quantizer(self._plans[name])

        def forward(x: Tensor) -> Any:
            weight = self._weights.get(name)
            if weight is None:
                return before(x)
            return _apply(module, quantize_input(x), weight.values())

        return forward


def serving_input_quantizer(plan: OpPlan) -> InputQuantizer:
    """Fake-quantization of an op's input in float32, per token or with the calibrated range."""
    scheme = plan.format.activation
    if scheme is None:
        return lambda x: x
    if scheme.dynamic:
        return lambda x: fake_quantize(x, *input_qparams(x, scheme), scheme)
    scale, zero_point = plan.input_qparams()

    def static(x: Tensor) -> Tensor:
        # Zero-dimensional tensors stay on the CPU: torch passes them to GPU kernels by value.
        return fake_quantize(x, scale, zero_point, scheme)

    return static


def _apply(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight, module.bias)
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    output: Tensor = module._conv_forward(x, weight, module.bias)
    return output
