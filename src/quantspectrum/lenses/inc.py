"""Intel Neural Compressor 3.7 as a lens, in an environment of its own.

3.7 is the last line with ``mse_v2`` and ``hawq_v2``. Its int8 runs on the CPU, from float32 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quantspectrum.errors import UserError
from quantspectrum.lenses.isolated import ask_worker
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.scan import Base

__all__ = ["MSE_V2"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "reduce_range": ("true", "false", "host"),
    "engine": ("qnnpack", "x86", "fbgemm"),
    "observer": ("minmax", "kl"),
    "fast": ("auto", "true", "false"),
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
            environment="inc",
            worker="inc_mse_v2",
            framework="Intel Neural Compressor",
            settings=settings,
            notes=(
                "each batch calibrates its own activation ranges, as INC does",
                "padding counts, and the score is per sample, not per token",
            ),
        )


MSE_V2 = _MseV2()
