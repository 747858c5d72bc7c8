"""How large the weights and the inputs of each op are."""

from __future__ import annotations

from typing import ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Provenance, Record

__all__ = ["LOWEST", "OCTAVES", "Histogram", "Histograms", "OpHistograms"]

LOWEST, OCTAVES = -28, 48
r"""Bin *i* counts magnitudes from :math:`2^{-28+i}` up to its double; 48 bins reach :math:`2^{20}`."""


class Histogram(Record):
    """Counts of magnitudes by octave.

    Attributes:
        counts: Values in each bin, of which the first holds all smaller and the last all larger
            ones too; zeros are in none.
        zeros: Values that are 0.
        negative: Values below 0.
        low: Smallest value.
        high: Largest value.
    """

    counts: tuple[int, ...]
    zeros: int
    negative: int
    low: float
    high: float


class OpHistograms(Record):
    """One op's weight and what it received; ``None`` where nothing finite was counted."""

    weight: Histogram | None
    inputs: Histogram | None


class Histograms(Artifact):
    """Histograms of every op that may be quantized.

    Attributes:
        samples: Calibration samples behind the inputs.
        ops: Op name to its histograms.
    """

    KIND: ClassVar[str] = "histograms"
    kind: Literal["histograms"] = "histograms"
    provenance: Provenance
    samples: int
    ops: dict[str, OpHistograms]
