"""AutoRound's AutoScheme as a lens, in INC's environment with AutoRound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quantspectrum.errors import UserError
from quantspectrum.lenses.isolated import ask_worker, check_accounted
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.lenses.targets import label_tensors
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.scan import Base

__all__ = ["SCHEME"]

_SCHEMES: Mapping[str, str] = {"w8a8": "INT8", "w4a16": "W4A16"}
"""AutoRound's preset of each format (``auto_round/schemes.py``)."""

_NOTES: Mapping[str, tuple[str, ...]] = {
    "w8a8": ("scales are rounded to bfloat16 while it scores",),
    "w4a16": (
        "scales are rounded to float16 while it scores",
        "its int4 grid has the largest weight of a group, in absolute value, at -8 steps; that of the format has "
        "it at 7.5 steps",
    ),
}
"""What differs from the format itself."""

_VISION = ("vision", "visual", "image", "img")
"""Parts of names by which AutoRound knows the ops that pictures go through (``gen_layer_config``)."""


@dataclass(frozen=True, kw_only=True)
class _Scheme:
    """``autoround:scheme``: the losses that AutoScheme assigns bits by."""

    BASES: ClassVar[tuple[Base, ...]] = ("fallback",)
    FORMATS: ClassVar[tuple[str, ...]] = tuple(_SCHEMES)
    ENVIRONMENT: ClassVar[str] = "inc-autoround"
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "repaired": "count activations, which AutoScheme leaves out: true or false",
    }

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """Σ |g·(W − Ŵ)| over an op's weight, and over its input where that is quantized and counted.

        g is the gradient of a batch's mean loss with all candidates' weights quantized; sums are over
        batches (``auto_round/auto_scheme/delta_loss.py``, ``AutoSchemeWrapperLinear``).

        Raises:
            UserError: A setting is none of its choices, the model predicts no next tokens, or the
                worker failed or left out an op without a word.
        """
        name = "autoround:scheme"
        repaired = request.options.get("repaired", "false")
        if repaired not in ("false", "true"):
            raise UserError(f"--lens-option repaired={repaired}: it is one of false, true")
        scheme = _SCHEMES[request.format.name]
        if repaired == "true" and request.format.activation is None:
            raise UserError(
                f"--lens-option repaired=true counts activations, which {request.format.name} does not "
                "quantize; leave it out"
            )
        labels = label_tensors(name, request.selection, ("next-token",))
        candidates = table.candidates[: request.max_ops]
        vision = any(part in op.name.lower() for op in candidates for part in _VISION)
        if vision and not any("pixel_values" in batch.inputs for batch in request.selection):
            raise UserError(
                f"lens {name} scores vision ops on pictures; give data with pictures, or "
                "--exclude the vision ops"
            )
        found = ask_worker(
            loaded,
            table,
            request,
            environment=self.ENVIRONMENT,
            worker="autoround_scheme",
            framework="AutoRound",
            settings={
                "scheme": scheme,
                "repaired": repaired,
                "vision": "true" if vision else "false",
            },
            tensors=labels,
            notes=(
                "a first-order estimate whose terms cannot cancel (absolute values), and whose sums grow with "
                "the size of an op",
                "gradients are of each batch's mean loss, so that scores depend on the batch size",
                *_NOTES[request.format.name],
            ),
        )
        return check_accounted(name, found, table, request)


SCHEME = _Scheme()
