"""Differences between two models measured on the same samples, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["Estimate", "paired_ratio", "spearman", "t_quantile"]

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A difference and how well it is known.

    Attributes:
        n: Samples (clusters) behind it.
        value: The difference.
        stderr: Its standard error; ``None`` with fewer than two samples.
        low: Lower end of the 95 % interval; ``None`` without a standard error.
        high: Upper end of the 95 % interval.
        differs: The interval excludes zero. Unrounded numbers are compared.
    """

    n: int
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    differs: bool


def paired_ratio(differences: Sequence[float], sizes: Sequence[float]) -> Estimate:
    r"""Difference of two ratios of sums over the same samples, clustered by sample.

    With :math:`d_i` the difference of the two numerators in sample *i* and :math:`t_i` the
    denominator both share, the difference of the ratios is itself a ratio of sums, and its
    variance follows from linearising it (the delta method; Cochran, *Sampling Techniques*,
    3rd ed., section 6.4, without finite-population correction):

    .. math::
        D = \frac{\sum d_i}{\sum t_i}, \qquad
        \mathrm{se}^2 = \frac{n}{n-1} \frac{\sum (d_i - D t_i)^2}{(\sum t_i)^2}, \qquad
        D \pm t_{0.975,\,n-1}\,\mathrm{se}

    With every :math:`t_i = 1` this is the paired difference of means with its usual error.

    Args:
        differences: ``d_i``, variant minus baseline.
        sizes: ``t_i``; their sum is positive.
    """
    d = np.asarray(differences, dtype=np.float64)
    t = np.asarray(sizes, dtype=np.float64)
    assert d.shape == t.shape, "one size per difference"
    assert t.sum() > 0, "sizes are not all zero"
    n = len(d)
    value = math.fsum(d) / math.fsum(t)
    if n < 2:
        return Estimate(n=n, value=value, stderr=None, low=None, high=None, differs=False)
    residual = d - value * t
    stderr = math.sqrt(n / (n - 1) * math.fsum(residual**2)) / math.fsum(t)
    reach = t_quantile(n - 1) * stderr
    low, high = value - reach, value + reach
    return Estimate(
        n=n, value=value, stderr=stderr, low=low, high=high, differs=low > 0 or high < 0
    )


@lru_cache
def t_quantile(degrees: int) -> float:
    r"""Value that Student's t stays within with probability 0.95 (:math:`t_{0.975,\nu}`).

    Bisects the finite series for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and
    26.7.4) in :math:`\theta = \arctan(t / \sqrt{\nu})`.
    """
    assert degrees >= 1
    odd = degrees % 2 == 1
    k = np.arange(1, (degrees - 1) // 2 if odd else degrees // 2)
    factors = 2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k)
    coefficients = np.concatenate(([1.0], np.cumprod(factors)))
    powers = np.arange(len(coefficients))

    def within(theta: float) -> float:
        sine, cosine = math.sin(theta), math.cos(theta)
        series = float(np.sum(coefficients * (cosine * cosine) ** powers))
        if not odd:
            return sine * series
        return 2 / math.pi * (theta + (sine * cosine * series if degrees > 1 else 0.0))

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < CONFIDENCE else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties sharing the mean of their ranks; ``None`` where undefined.

    It is undefined for fewer than two pairs and where one side is constant.
    """
    assert len(a) == len(b), "one value of each side per item"
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    norm = math.sqrt(float((x**2).sum()) * float((y**2).sum()))
    return float((x * y).sum()) / norm if norm > 0 else None


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    data = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(data, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray[tuple[int], np.dtype[np.float64]] = (last - (counts - 1) / 2)[inverse]
    return ranks
