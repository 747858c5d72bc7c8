"""Rank statistics of two score lists, with bootstrap intervals over the items ranked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from quantspectrum.artifacts import RankInterval
from quantspectrum.statistics import spearman

__all__ = ["RESAMPLES", "kendall", "kendall_interval", "spearman_interval", "top_interval", "top_k"]

RESAMPLES = 1000
LEAST = 4
"""Fewer items than this give no interval: their resamples are mostly constant."""

Floats = NDArray[np.float64]


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    r"""Kendall's tau-b, which corrects for ties; ``None`` where one side is constant.

    .. math:: \tau_b = \frac{\sum_{i<j} s_{ij} t_{ij}}{\sqrt{\sum_{i<j} s_{ij}^2 \sum_{i<j} t_{ij}^2}}

    with :math:`s_{ij}, t_{ij}` the signs of the differences. Source: Kendall, *Rank Correlation
    Methods*, chapter 3.
    """
    weights = np.ones((1, len(a)))
    value = _kendall_of(np.asarray(a, float), np.asarray(b, float), weights)[0]
    return None if np.isnan(value) else float(value)


def _kendall_of(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Tau-b of each row of ``weights``, how often each item was drawn: ``(resamples, items)``."""
    s, t = (np.sign(np.subtract.outer(x, x)) for x in (a, b))

    def total(matrix: Floats) -> Floats:
        found: Floats = ((weights @ matrix) * weights).sum(1)
        return found

    norm = np.sqrt(total(s * s) * total(t * t))
    found: Floats = np.divide(total(s * t), norm, out=np.full(len(weights), np.nan), where=norm > 0)
    return found


def _draws(items: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, items, size=(RESAMPLES, items))


def _percentiles(value: float | None, found: Floats) -> RankInterval:
    told = found[~np.isnan(found)]
    if value is None or len(told) < RESAMPLES / 2:
        return RankInterval(value=value)
    low, high = np.percentile(told, [2.5, 97.5])
    return RankInterval(value=value, low=float(low), high=float(high))


def kendall_interval(a: Sequence[float], b: Sequence[float], *, seed: int) -> RankInterval:
    """Kendall's tau-b and its percentile interval."""
    value = kendall(a, b)
    if len(a) < LEAST:
        return RankInterval(value=value)
    drawn = _draws(len(a), seed)
    weights = np.stack([np.bincount(row, minlength=len(a)) for row in drawn]).astype(float)
    return _percentiles(value, _kendall_of(np.asarray(a, float), np.asarray(b, float), weights))


def _resampled(
    a: Sequence[float],
    b: Sequence[float],
    seed: int,
    statistic: Callable[[Floats, Floats], float | None],
) -> RankInterval:
    x, y = np.asarray(a, float), np.asarray(b, float)
    value = statistic(x, y)
    if len(a) < LEAST:
        return RankInterval(value=value)
    found = [statistic(x[row], y[row]) for row in _draws(len(a), seed)]
    return _percentiles(value, np.array([np.nan if v is None else v for v in found]))


def spearman_interval(a: Sequence[float], b: Sequence[float], *, seed: int) -> RankInterval:
    """Spearman's rank correlation and its percentile interval."""
    return _resampled(a, b, seed, lambda x, y: spearman(x.tolist(), y.tolist()))


def top_k(a: Sequence[float], b: Sequence[float], k: int) -> float:
    """Share of the ``k`` highest of one list that are among the ``k`` highest of the other.

    Ties are broken by position, in both lists alike.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    highest = [set(np.argsort(-v, kind="stable")[:k].tolist()) for v in (x, y)]
    return len(highest[0] & highest[1]) / k


def top_interval(a: Sequence[float], b: Sequence[float], k: int, *, seed: int) -> RankInterval:
    """Overlap of the ``k`` highest and its percentile interval."""
    return _resampled(a, b, seed, lambda x, y: top_k(x.tolist(), y.tolist(), k))
