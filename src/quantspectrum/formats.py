"""What an op can be turned into: a :class:`Format` and its presets. Holds no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["PRESETS", "Format", "TensorScheme", "preset"]

Granularity = Literal["tensor", "channel", "token", "group"]
Observer = Literal["minmax", "percentile"]

FLOAT8_MAX = 448  # Largest finite number of E4M3 (OCP 8-bit floating point, 2023, table 2).


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorScheme(_Frozen):
    """How one tensor is represented.

    Attributes:
        kind: ``int`` codes, or ``float``: FP8 E4M3 codes (8 bits, symmetric, largest 448).
        bits: Bits per element.
        granularity: What shares one scale: the ``tensor``, an output ``channel`` of a weight,
            a ``group`` of ``group_size`` inputs of one output channel, or a ``token`` (row) of
            an activation.
        group_size: Elements of a group; where it does not divide the inputs, the last group of
            a channel is smaller. Only for granularity ``group``.
        symmetric: Symmetric schemes have zero point 0.
        dynamic: The range is measured at run time on each input (activations only).
        observer: How a static activation range is found in calibration: ``minmax`` takes the
            extremes, ``percentile`` leaves out the rarest values.
        percentile: Percentage of the values that lies inside the range of the ``percentile``
            observer.
    """

    kind: Literal["int", "float"] = "int"
    bits: int = Field(default=8, ge=2, le=8)
    granularity: Granularity = "tensor"
    group_size: int | None = Field(default=None, ge=1)
    symmetric: bool = True
    dynamic: bool = False
    observer: Observer = "minmax"
    percentile: float | None = Field(default=None, gt=50, lt=100)

    @model_validator(mode="after")
    def _consistent(self) -> TensorScheme:
        if self.kind == "float" and (self.bits != 8 or not self.symmetric):
            raise ValueError("a float scheme is FP8 E4M3: 8 bits and symmetric")
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError("granularity group and group_size go together")
        if (self.observer == "percentile") != (self.percentile is not None):
            raise ValueError("observer percentile and a percentile go together")
        if self.dynamic and self.observer != "minmax":
            raise ValueError("a dynamic range is that of each input: its observer is minmax")
        return self

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -FLOAT8_MAX if self.kind == "float" else -int(2 ** (self.bits - 1))

    @property
    def qmax(self) -> int:
        """Largest code."""
        return FLOAT8_MAX if self.kind == "float" else int(2 ** (self.bits - 1)) - 1


class Format(_Frozen):
    """How an op is represented: its weight and, where they are quantized too, input and output.

    Attributes:
        name: Preset name, the key used in spectra and reports.
        weight: Scheme of the weight.
        activation: Scheme of the op's input; ``None`` keeps it in high precision.
        output: Scheme of the op's output; ``None`` keeps it in high precision.
    """

    name: str
    weight: TensorScheme
    activation: TensorScheme | None = None
    output: TensorScheme | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Format:
        if self.weight.dynamic or self.weight.granularity == "token":
            raise ValueError(f"format {self.name}: a weight's scale is static, never per token")
        if self.weight.observer != "minmax":
            raise ValueError(f"format {self.name}: a weight's range is that of all its values")
        act = self.activation
        if act is not None and act.granularity not in ("tensor", "token"):
            raise ValueError(f"format {self.name}: an activation is quantized per tensor or token")
        if act is not None and act.granularity == "token" and not act.dynamic:
            raise ValueError(f"format {self.name}: per-token activation scales are dynamic")
        out = self.output
        if out is not None and (out.granularity != "tensor" or out.dynamic):
            raise ValueError(f"format {self.name}: an output is quantized per tensor, statically")
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether input or output ranges must be observed on calibration data first."""
        static_input = self.activation is not None and not self.activation.dynamic
        return static_input or self.output is not None

    @property
    def integer(self) -> bool:
        """Whether an op computes in integers from input to output (:mod:`quantspectrum.integer`).

        So it does where PyTorch has an integer kernel for it: affine static activations in and
        out, and a weight that is symmetric per channel.
        """
        schemes = (self.activation, self.output)
        activations = all(
            act is not None
            and (act.kind, act.granularity, act.symmetric, act.dynamic)
            == ("int", "tensor", False, False)
            for act in schemes
        )
        weight = self.weight
        return activations and (weight.kind, weight.granularity, weight.symmetric) == (
            "int",
            "channel",
            True,
        )


_CHANNEL = TensorScheme(granularity="channel")
_TOKEN = TensorScheme(granularity="token", dynamic=True)
_GROUPS_OF_4_BITS = TensorScheme(bits=4, granularity="group", group_size=128)


def _inc(name: str, bits: int) -> Format:
    """INC 3.7's static scheme for PyTorch FX, with its ``minmax`` algorithm for activations.

    Activations are uint8 and per-tensor affine, weights int8 and per-channel symmetric
    (``neural_compressor/adaptor/pytorch_cpu.yaml``; observers in ``adaptor/pytorch.py``,
    ``_observer``). On uint8 or on int8 the grid is the same, with the zero point shifted by 128.
    """
    activation = TensorScheme(bits=bits, symmetric=False)
    return Format(name=name, weight=_CHANNEL, activation=activation, output=activation)


PRESETS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        Format(name="w8a8", weight=_CHANNEL, activation=_TOKEN),
        Format(name="w8a8-static", weight=_CHANNEL, activation=TensorScheme()),
        Format(
            name="w8a8-static-affine",
            weight=_CHANNEL,
            activation=TensorScheme(symmetric=False),
        ),
        Format(
            name="w8a8-static-percentile",
            weight=_CHANNEL,
            activation=TensorScheme(observer="percentile", percentile=99.99),
        ),
        # compressed-tensors' preset FP8_DYNAMIC.
        Format(
            name="fp8",
            weight=TensorScheme(kind="float", granularity="channel"),
            activation=TensorScheme(kind="float", granularity="token", dynamic=True),
        ),
        Format(name="w8a16", weight=_CHANNEL),
        # compressed-tensors' presets W4A16 and W4A8.
        Format(name="w4a16", weight=_GROUPS_OF_4_BITS),
        Format(name="w4a8", weight=_GROUPS_OF_4_BITS, activation=_TOKEN),
        _inc("inc", bits=8),
        # REDUCE_RANGE, INC's default on a CPU without VNNI, takes one bit off the activations.
        _inc("inc-reduce-range", bits=7),
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
