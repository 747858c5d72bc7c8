"""NVIDIA ModelOpt's ``auto_quantize`` as a lens, in an environment of its own.

Its scores are of groups of ops that an engine fuses (q/k/v, gate/up); an op gets an equal part of its
group's, which ``raw`` holds whole. Vision ops are scored like all others, where samples have pictures:
ModelOpt leaves them out in its examples and presets, ``auto_quantize`` does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from quantspectrum.errors import UserError
from quantspectrum.lenses.isolated import ask_worker, check_accounted
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.lenses.targets import label_tensors
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.scan import Base

__all__ = ["GRADIENT", "KL_DIV"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "smoothquant": ("false", "true"),
    "fp8": ("per-tensor", "per-token"),
    "groups": ("fused", "single"),
}
"""For each setting what it may be, its default first."""

_SAYS: Mapping[str, tuple[str, ...]] = {
    "INT8_DEFAULT_CFG": (),
    "INT8_SMOOTHQUANT_CFG": (
        "SmoothQuant moves ranges from activations to weights before an op is scored: a checkpoint "
        "without it is more sensitive than this says",
    ),
    "FP8_DEFAULT_CFG": (
        "ModelOpt's FP8 preset has one static scale a tensor, for weights and for activations; format "
        "fp8 has one a channel and one a token: give --lens-option fp8=per-token for that",
    ),
    "FP8_PER_CHANNEL_PER_TOKEN_CFG": (),
}


@dataclass(frozen=True, kw_only=True)
class _AutoQuantize:
    """``modelopt:gradient`` and ``modelopt:kl_div``."""

    method: Literal["gradient", "kl_div"]
    says: tuple[str, ...]
    BASES: ClassVar[tuple[Base, ...]] = ("isolate",)
    FORMATS: ClassVar[tuple[str, ...]] = ("w8a8-static", "fp8")
    ENVIRONMENT: ClassVar[str] = "modelopt"
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "smoothquant": "INT8_SMOOTHQUANT_CFG in place of INT8_DEFAULT_CFG: true or false",
        "fp8": "FP8_DEFAULT_CFG (per-tensor) or FP8_PER_CHANNEL_PER_TOKEN_CFG (per-token)",
        "groups": "ModelOpt's groups of ops (fused), or every op by itself (single)",
    }

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """ModelOpt's score of each group in the format, shared out evenly among the group's ops.

        ``gradient``: Σ (g·e)² over the op's output elements, summed over batches, with its error e and
        the gradient g of the batch's mean loss. ``kl_div``: Σ KL(p ‖ p̂), nats summed over the tokens
        whose loss counts (``algorithms.py``, ``AutoQuantizeGradientSearcher``, ``…KLDivSearcher``).

        Raises:
            UserError: A setting is none of its choices, the model predicts no tokens, or the
                worker failed or left out an op without a word.
        """
        name = f"modelopt:{self.method}"
        settings = _settings(request)
        labels = label_tensors(name, request.selection, ("next-token", "same-token"))
        found = ask_worker(
            loaded,
            table,
            request,
            environment=self.ENVIRONMENT,
            worker="modelopt_auto_quantize",
            framework="NVIDIA ModelOpt",
            settings={
                **settings,
                "method": self.method,
                "predicts": request.selection[0].predicts,
            },
            tensors=labels,
            notes=(*self.says, *_SAYS[settings["preset"]]),
        )
        return check_accounted(name, found, table, request)


def _settings(request: LensRequest) -> dict[str, str]:
    """The settings of a request, with the preset of ModelOpt's that they and the format stand for."""
    found: dict[str, str] = {}
    for name, choices in _CHOICES.items():
        found[name] = request.options.get(name, choices[0])
        if found[name] not in choices:
            raise UserError(
                f"--lens-option {name}={found[name]}: it is one of {', '.join(choices)}"
            )
    fp8 = request.format.name == "fp8"
    for name, of in (("smoothquant", "w8a8-static"), ("fp8", "fp8")):
        if name in request.options and request.format.name != of:
            raise UserError(f"--lens-option {name} is of format {of}, not {request.format.name}")
    default = "FP8_DEFAULT_CFG" if fp8 else "INT8_DEFAULT_CFG"
    other = "FP8_PER_CHANNEL_PER_TOKEN_CFG" if fp8 else "INT8_SMOOTHQUANT_CFG"
    chosen = found["fp8"] == "per-token" if fp8 else found["smoothquant"] == "true"
    kept = {"groups": found["groups"]} | ({} if fp8 else {"smoothquant": found["smoothquant"]})
    return kept | {"preset": other if chosen else default}


GRADIENT = _AutoQuantize(
    method="gradient",
    says=(
        "scores are of the squared first-order change of each batch's mean loss: they depend on the batch size",
        "a group's score is shared out evenly among its ops, unless groups=single",
    ),
)
KL_DIV = _AutoQuantize(
    method="kl_div",
    says=(
        "scores are sums over tokens, of those alone whose loss counts; tokens_scored says how many",
        "a group's score is shared out evenly among its ops, unless groups=single",
    ),
)
