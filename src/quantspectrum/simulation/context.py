"""The context in which chosen ops of a model compute as if quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from quantspectrum.kernels.linear import linear
from quantspectrum.models.placement import inner_forward_slot
from quantspectrum.simulation.kept import LastInput, WeightCodes
from quantspectrum.simulation.plan import (
    InputQuantizer,
    OpPlan,
    Part,
    output_quantizer,
    serving_input_quantizer,
)
from quantspectrum.simulation.products import applied, in_integers

__all__ = ["Simulation"]


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
        self._codes = WeightCodes(*self._room)
        self._inputs = LastInput()
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
        self._codes = WeightCodes(*self._room)

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
        quantize_output = output_quantizer(plan)

        def forward(x: Tensor) -> Any:
            part = self._active.get(name)
            if part is None:
                return before(x)
            weight = cast("nn.Parameter", module.weight).detach()
            if part != "activation":
                weight = self._codes.values(name, weight, plan)
            if part == "weight":
                return applied(module, x, weight, multiply=self._linear)
            y = applied(module, quantize_input(x), weight, multiply=self._linear)
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
                y = applied(module, kernel.values(input_codes(x)).to(x.dtype), weight)
                return kernel.rounded(y).to(x.dtype)
            codes, scale = self._codes.integers(name, weight, plan)
            if part == "weight":
                return applied(module, x, (codes * scale).to(x.dtype))
            return in_integers(module, kernel, input_codes(x), (codes, scale)).to(x.dtype)

        return forward
