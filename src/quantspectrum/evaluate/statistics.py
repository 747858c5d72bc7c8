"""Means with their standard errors, and tests of paired answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["edit_distance", "mcnemar", "mean_with_stderr", "ratio_with_stderr"]


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


def mcnemar(lost: int, won: int) -> float:
    r"""McNemar's exact test of paired answers: two-sided p that a change is as likely either way.

    Of :math:`n` discordant pairs the smaller count :math:`k` is binomial with probability one
    half: :math:`p = \min(1, 2 \cdot 2^{-n} \sum_{i \le k} \binom{n}{i})`; 1 without any.
    Source: McNemar, *Psychometrika* 12 (1947), in its exact form.
    """
    n, k = lost + won, min(lost, won)
    tail = term = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)
        tail += term
    # Whole numbers throughout: their quotient is right to the last digit for any n.
    return min(1.0, 2 * tail / 2**n) if n < 1000 else min(1.0, _ratio(2 * tail, n))


def _ratio(numerator: int, power: int) -> float:
    """``numerator / 2**power`` where the divisor is beyond what a float holds."""
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(numerator >> shift, shift - power)


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and replacements of tokens that make ``b`` of ``a``.

    Source: Wagner and Fischer, *The String-to-String Correction Problem*, JACM 21 (1974).
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            replaced = previous + (x != y)
            previous = row[j]
            row[j] = min(replaced, row[j] + 1, row[j - 1] + 1)
    return row[-1]
