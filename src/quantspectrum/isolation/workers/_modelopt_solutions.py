"""What ModelOpt's `auto_quantize` quantizes within budgets, by its own solver, from one scoring.

Runs in ModelOpt's environment only. ModelOpt counts effective bits over all it could quantize, what it was
told to leave alone among it (0.47: an LM head). Here they are over the ops that were asked for: constraints
are restated for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import modelopt.torch.quantization as mtq
from modelopt.torch.quantization import algorithms

_WEIGHT = ".weight_quantizer"
_HIGH = 16.0


class Budgets:
    """Effective bits over the ops that were asked for, and the same as ModelOpt counts them.

    Args:
        hparams: ModelOpt's groups.
        asked: The ops that were asked for.
    """

    def __init__(self, hparams: Iterable[Any], asked: set[str]) -> None:
        none = algorithms.QuantRecipe(quant_cfg=None)
        costs = {tuple(h.quant_module_names): float(h.get_cost(none)) for h in hparams}
        self.asked = asked
        self.whole = sum(costs.values())
        self.weights = sum(cost for names, cost in costs.items() if set(names) <= asked)

    def restated(self, bits: float) -> float:
        """ModelOpt's constraint for so many effective bits over the ops that were asked for."""
        rest = self.whole - self.weights
        return (bits * self.weights + _HIGH * rest) / self.whole

    def solutions(self, state: dict[str, Any], bits: Sequence[float]) -> list[dict[str, Any]]:
        """ModelOpt's solution for each budget: the ops it quantizes, and its ``constraint``.

        Args:
            state: What ``auto_quantize`` returned; it was asked for the first budget.
            bits: The budgets; the others are solved by ``get_auto_quantize_config``.
        """
        found = []
        for each in bits:
            constraint = self.restated(each)
            ops = _enabled(state, {"effective_bits": constraint})
            found.append(
                {"effective_bits": each, "constraint": constraint, "ops": sorted(ops & self.asked)}
            )
        if found and _enabled(state, None) & self.asked != set(found[0]["ops"]):
            raise RuntimeError(
                "ModelOpt's search and its solving again from the same scores differ"
            )
        return found


def _enabled(state: dict[str, Any], constraints: dict[str, float] | None) -> set[str]:
    """Ops whose weight ModelOpt's configuration quantizes; without constraints the one it searched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That calibration algorithms are not in it.
        config = mtq.get_auto_quantize_config(state, constraints)
    names = {e["quantizer_name"] for e in config["quant_cfg"] if e.get("enable", True)}
    return {name.removesuffix(_WEIGHT) for name in names if name.endswith(_WEIGHT)}
