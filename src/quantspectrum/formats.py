"""What an op can be turned into: a :class:`Format` and its presets. Holds no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["PRESETS", "Format", "TensorScheme", "preset"]

Granularity = Literal["tensor", "channel", "token", "group"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorScheme(_Frozen):
    """How one tensor is represented.

    Attributes:
        bits: Bits per element.
        granularity: What shares one scale: the ``tensor``, an output ``channel`` of a weight
            or a ``token`` (row) of an activation.
        symmetric: Symmetric schemes have zero point 0.
        dynamic: The range is measured at run time on each input (activations only).
        observer: How a static range is found in calibration.
    """

    bits: int = Field(default=8, ge=2, le=8)
    granularity: Granularity = "tensor"
    symmetric: bool = True
    dynamic: bool = False
    observer: Literal["minmax"] = "minmax"

    @property
    def qmin(self) -> int:
        """Smallest integer code."""
        return -int(2 ** (self.bits - 1))

    @property
    def qmax(self) -> int:
        """Largest integer code."""
        return int(2 ** (self.bits - 1)) - 1


class Format(_Frozen):
    """How an op is represented: its weight and, where it is quantized too, its input.

    Attributes:
        name: Preset name, the key used in spectra and reports.
        weight: Scheme of the weight.
        activation: Scheme of the op's input; ``None`` keeps it in high precision.
    """

    name: str
    weight: TensorScheme
    activation: TensorScheme | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Format:
        if self.weight.dynamic or self.weight.granularity == "token":
            raise ValueError(f"format {self.name}: a weight's scale is static, never per token")
        act = self.activation
        if act is not None and act.granularity not in ("tensor", "token"):
            raise ValueError(f"format {self.name}: an activation is quantized per tensor or token")
        if act is not None and act.granularity == "token" and not act.dynamic:
            raise ValueError(f"format {self.name}: per-token activation scales are dynamic")
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether activation ranges must be observed on calibration data first."""
        return self.activation is not None and not self.activation.dynamic


_CHANNEL = TensorScheme(granularity="channel")

PRESETS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        Format(
            name="w8a8",
            weight=_CHANNEL,
            activation=TensorScheme(granularity="token", dynamic=True),
        ),
        Format(name="w8a8-static", weight=_CHANNEL, activation=TensorScheme()),
        Format(
            name="w8a8-static-affine",
            weight=_CHANNEL,
            activation=TensorScheme(symmetric=False),
        ),
    )
}


def preset(name: str) -> Format:
    """Return the preset called ``name``.

    Raises:
        ValueError: No preset has that name; the message lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(PRESETS)
        raise ValueError(f"unknown format {name!r}; the formats are: {known}") from None
