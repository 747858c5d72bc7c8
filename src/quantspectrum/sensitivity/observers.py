"""Observers: what is kept of the values a static scheme is calibrated on, and their range."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from quantspectrum.formats import TensorScheme

__all__ = ["MinMaxObserver", "Observer", "PercentileObserver", "observer_of"]

PATTERNS = 2**16  # Numbers of bfloat16, by their bits.
CHUNK = 2**24


class Observer(Protocol):
    """Takes in tensors one after the other; then knows the range to quantize them with."""

    def observe(self, x: Tensor) -> None:
        """Take in the values of ``x``, any shape."""

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value seen; not a number when one of them is not."""

    def range(self) -> tuple[float, float]:
        """The range to quantize with, inside the extremes."""


def observer_of(scheme: TensorScheme) -> Observer:
    """A new observer as the scheme wants it."""
    if scheme.observer == "percentile":
        assert scheme.percentile is not None
        return PercentileObserver(scheme.percentile, symmetric=scheme.symmetric)
    return MinMaxObserver()


class MinMaxObserver:
    """Running extremes, those of ``torch.ao.quantization.MinMaxObserver``."""

    def __init__(self) -> None:
        self._bounds: tuple[Tensor, Tensor] | None = None

    def observe(self, x: Tensor) -> None:
        """Widen the extremes to those of ``x``."""
        low, high = torch.aminmax(x)
        if self._bounds is not None:
            low = torch.minimum(low, self._bounds[0])
            high = torch.maximum(high, self._bounds[1])
        self._bounds = low, high

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value seen."""
        assert self._bounds is not None
        return self._bounds[0].item(), self._bounds[1].item()

    def range(self) -> tuple[float, float]:
        """The extremes."""
        return self.extremes()


class PercentileObserver:
    """The range that ``percentile`` % of all values seen lie in, whatever batch they came in.

    Every value is counted under the bfloat16 number next to it, one counter for each of the 2**16
    there are (512 KiB), so that no range has to be known beforehand and nothing is averaged over
    batches: the result is the exact order statistic of bfloat16 values, and within ``2**-8`` of
    itself for float16 and float32 ones. With ``n`` values,

    * symmetric: the range is ``(-b, b)``, with ``b`` the ``ceil(n * percentile / 100)``-th
      smallest magnitude;
    * affine: ``floor(n * (100 - percentile) / 200)`` values are left out on each side;

    cut to the extremes. This is the rule of ONNX Runtime's ``PercentileCalibrater``
    (``onnxruntime/python/tools/quantization/calibrate.py``, ``compute_percentile``), whose
    histogram has 2048 bins of equal width.
    """

    def __init__(self, percentile: float, *, symmetric: bool) -> None:
        self._inside = Fraction(str(percentile)) / 100
        self._symmetric = symmetric
        self._minmax = MinMaxObserver()
        self._counts: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Count the values of ``x``."""
        self._minmax.observe(x)
        values = x.flatten()
        for start in range(0, len(values), CHUNK):
            rounded = values[start : start + CHUNK].to(torch.bfloat16)
            patterns = rounded.view(torch.int16).int() & (PATTERNS - 1)
            counts = torch.bincount(patterns, minlength=PATTERNS)
            self._counts = counts if self._counts is None else self._counts.add_(counts)

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value seen."""
        return self._minmax.extremes()

    def range(self) -> tuple[float, float]:
        """The percentile's range; finite values only."""
        assert self._counts is not None
        # Magnitudes in rising order: the pattern of a number without its sign bit.
        positive, negative = self._counts.cpu().reshape(2, -1)
        count = int(self._counts.sum())
        if self._symmetric:
            bound = _value(positive + negative, -int(-count * self._inside // 1))
            low, high = -bound, bound
        else:
            left_out = int(count * (1 - self._inside) / 2)
            low = -_value_below(negative, positive, left_out + 1)
            high = _value_below(positive, negative, left_out + 1)
        smallest, largest = self.extremes()
        return max(low, smallest), min(high, largest)


def _value(counts: Tensor, rank: int) -> float:
    """The ``rank``-th smallest magnitude (from 1), of ``counts`` in rising order."""
    pattern = torch.searchsorted(counts.cumsum(0), rank).to(torch.int16)
    return pattern.view(torch.bfloat16).item()


def _value_below(this: Tensor, other: Tensor, rank: int) -> float:
    """The ``rank``-th largest value, given magnitudes of ``this`` sign and of the ``other``."""
    there = int(this.sum())
    if rank <= there:
        return _value(this, there - rank + 1)
    return -_value(other, rank - there)
