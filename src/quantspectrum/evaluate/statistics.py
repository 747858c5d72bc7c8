"""Means with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["mean_with_stderr", "ratio_with_stderr"]


def mean_with_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error ``s / sqrt(n)``; no error for fewer than two values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def ratio_with_stderr(
    numerators: Sequence[float], denominators: Sequence[float]
) -> tuple[float, float | None]:
    r"""Ratio of sums and its standard error by linearisation (delta method), per cluster.

    With clusters *i* (samples), :math:`R = \sum a_i / \sum b_i` and residuals
    :math:`e_i = a_i - R b_i`, the error is
    :math:`\sqrt{\frac{n}{n-1} \sum e_i^2} / \sum b_i`. Source: Cochran, *Sampling Techniques*,
    3rd edition, section 2.11.
    """
    n = len(numerators)
    total = math.fsum(denominators)
    ratio = math.fsum(numerators) / total
    if n < 2:
        return ratio, None
    squares = math.fsum((a - ratio * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    return ratio, math.sqrt(n / (n - 1) * squares) / total
