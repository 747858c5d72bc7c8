"""Intel Neural Compressor 3.7 as a lens, in an environment of its own.

3.7 is the last line with ``mse_v2`` and ``hawq_v2``. Its int8 runs on the CPU, from float32 weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quantspectrum.errors import UserError
from quantspectrum.lenses.isolated import ask_worker
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.scan import Base

__all__ = ["HAWQ_V2", "MSE_V2", "TUNE"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "reduce_range": ("true", "false", "host"),
    "engine": ("qnnpack", "x86", "fbgemm"),
    "observer": ("minmax", "kl"),
    "fast": ("auto", "true", "false"),
    "repaired": ("false", "true"),
}
"""For each setting what it may be, its default first but for ``reduce_range``: that follows the format."""


def _settings(request: LensRequest, names: tuple[str, ...]) -> dict[str, str]:
    """The settings of a lens, from its options and its format.

    Raises:
        UserError: One is none of its choices, or contradicts the format.
    """
    seven_bits = request.format.name == "inc-reduce-range"
    found: dict[str, str] = {}
    for name in names:
        default = _CHOICES[name][0]
        if name == "reduce_range":
            default = "true" if seven_bits else "false"
        found[name] = request.options.get(name, default)
        if found[name] not in _CHOICES[name]:
            raise UserError(
                f"--lens-option {name}={found[name]}: it is one of {', '.join(_CHOICES[name])}"
            )
    if found.get("reduce_range") in ("true", "false"):
        wanted = "true" if seven_bits else "false"
        if found["reduce_range"] != wanted:
            other = "inc" if seven_bits else "inc-reduce-range"
            raise UserError(
                f"reduce_range={found['reduce_range']} is not format {request.format.name}; "
                f"give --format {other}"
            )
    return found


@dataclass(frozen=True, kw_only=True)
class _MseV2:
    """``inc:mse_v2``: INC's own ``calculate_op_sensitivity``, with its scores."""

    BASES: ClassVar[tuple[Base, ...]] = ("fallback",)
    FORMATS: ClassVar[tuple[str, ...]] = ("inc", "inc-reduce-range")
    ENVIRONMENT: ClassVar[str] = "inc"
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "reduce_range": "7 bits for activations: true, false, or as INC chooses on this host",
        "engine": "quantized engine of torch: qnnpack, x86 or fbgemm",
        "observer": "range of activations: minmax or kl",
        "fast": "convert only the sub-graph of the op again: true, false, or auto for large models",
    }

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """Squared error with all candidates in int8 less that with the op restored, per sample."""
        settings = _settings(request, ("reduce_range", "engine", "observer", "fast"))
        return ask_worker(
            loaded,
            table,
            request,
            environment=self.ENVIRONMENT,
            worker="inc_mse_v2",
            framework="Intel Neural Compressor",
            settings=settings,
            notes=(
                "each batch calibrates its own activation ranges, as INC does",
                "padding counts, and the score is per sample, not per token",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _HawqV2:
    """``inc:hawq_v2``: INC's own Hessian traces, its defects named."""

    BASES: ClassVar[tuple[Base, ...]] = ("isolate",)
    FORMATS: ClassVar[tuple[str, ...]] = ("inc", "inc-reduce-range")
    ENVIRONMENT: ClassVar[str] = "inc"
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "repaired": "start from zero instead of noise, and take a fixed number of probes: true, false",
        "probes": "probes a batch, where repaired",
    }

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """Average trace of the Hessian of each weight; INC multiplies by no perturbation."""
        probes = request.options.get("probes", "50")
        if not probes.isdigit() or int(probes) < 1:
            raise UserError(f"--lens-option probes={probes}: give a number of 1 or more")
        return ask_worker(
            loaded,
            table,
            request,
            environment=self.ENVIRONMENT,
            worker="inc_hawq_v2",
            framework="Intel Neural Compressor",
            settings={**_settings(request, ("repaired",)), "probes": probes},
            notes=(
                "the loss is always cross-entropy: INC drops the user's",
                "the trace is not multiplied by the weight's perturbation, which INC computes and discards: "
                "scores do not depend on the format",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _Tune:
    """``inc:tune``: the order in which INC's tuning restores ops."""

    BASES: ClassVar[tuple[Base, ...]] = ("fallback",)
    FORMATS: ClassVar[tuple[str, ...]] = ("inc", "inc-reduce-range")
    ENVIRONMENT: ClassVar[str] = "inc"
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "reduce_range": "7 bits for activations: true, false, or as INC chooses on this host",
        "engine": "quantized engine of torch: qnnpack, x86 or fbgemm",
        "tolerable_loss": "nats above the float32 loss at which tuning ends; none restores every op",
    }

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """Number of candidates less the place at which INC restored the op."""
        tolerable = request.options.get("tolerable_loss", "none")
        if tolerable != "none" and not re.fullmatch(r"\d+(\.\d*)?(e-?\d+)?", tolerable):
            raise UserError(f"--lens-option tolerable_loss={tolerable}: give nats, or none")
        settings = {
            **_settings(request, ("reduce_range", "engine")),
            "observer": "INC's own",
            "tolerable_loss": tolerable,
        }
        return ask_worker(
            loaded,
            table,
            request,
            environment=self.ENVIRONMENT,
            worker="inc_tune",
            framework="Intel Neural Compressor",
            settings=settings,
            notes=(
                "each step ranks again with the ops restored so far: places are not independent",
            ),
        )


MSE_V2 = _MseV2()
HAWQ_V2 = _HawqV2()
TUNE = _Tune()
