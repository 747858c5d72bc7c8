"""Bootstrap of whole samples: their tokens are not independent, so they are drawn together."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from quantspectrum.statistics import t_quantile

__all__ = ["Spread", "interval", "percentiles", "resamples"]

Floats = NDArray[np.float64]

RESAMPLES = 1000
FEWEST = 200
WORK = 40_000_000
"""Resamples times tokens: with more tokens there are fewer resamples, but never under ``FEWEST``."""

_CHUNK = 4_000_000
"""Elements of a temporary array."""

Spread = tuple[float, float, float]
"""Standard error, lower and upper end of the 95 % interval."""


@lru_cache(maxsize=8)
def resamples(samples: int, tokens: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each of ``samples`` samples is drawn: ``(resamples, samples)``, rows sum to it.

    Args:
        samples: How many are drawn from, and how many are drawn.
        tokens: Their tokens, which decide how many resamples are affordable.
        seed: Of the draw; the same one gives the same resamples.
    """
    repeats = max(FEWEST, min(RESAMPLES, WORK // max(tokens, 1)))
    generator = np.random.default_rng(seed)
    share = np.full(samples, 1 / samples)
    return generator.multinomial(samples, share, size=repeats).astype(np.int64)


def interval(statistics: Floats, samples: int) -> Spread:
    r"""Standard error and 95 % interval from a statistic's values over resamples.

    The interval is the expanded percentile interval: with few samples percentiles are too narrow,
    as a bootstrap spreads by :math:`\sqrt{(n-1)/n}` and knows no t distribution, so the levels are
    :math:`\Phi(\mp\sqrt{n/(n-1)}\,t_{0.975,n-1})` in place of 2.5 % and 97.5 %. Source: Hesterberg,
    *What Teachers Should Know About the Bootstrap*, The American Statistician 69 (2015), section
    3.3 of the long version.
    """
    assert samples >= 2, "one sample has no spread"
    reach = math.sqrt(samples / (samples - 1)) * t_quantile(samples - 1)
    level = NormalDist().cdf(-reach)
    low, high = np.quantile(statistics, [level, 1 - level])
    return float(statistics.std(ddof=1)), float(low), float(high)


def percentiles(
    values: Floats, sample: NDArray[np.int64], counts: NDArray[np.int64], percents: list[int]
) -> tuple[Floats, Floats]:
    """Percentiles of tokens, and of those in each resample.

    A percentile is the smallest value that at least so many percent of the tokens do not exceed
    (numpy's ``inverted_cdf``), a token counting as often as its sample is drawn.

    Args:
        values: One per token, ``(tokens,)``.
        sample: Index of each token's sample, ``(tokens,)``.
        counts: Resamples, see :func:`resamples`; may have no rows.
        percents: Whole percents.

    Returns:
        ``(percents,)`` and ``(percents, resamples)``.
    """
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], sample[order]
    whole = _picked(ranked, np.ones((1, len(values)), dtype=np.int64), percents)[:, 0]
    found = np.empty((len(percents), len(counts)))
    step = max(1, _CHUNK // max(1, len(values)))
    for start in range(0, len(counts), step):
        weights = counts[start : start + step][:, owner]
        found[:, start : start + step] = _picked(ranked, weights, percents)
    return whole, found


def _picked(ranked: Floats, weights: NDArray[np.int64], percents: list[int]) -> Floats:
    total = np.cumsum(weights, axis=1)
    # In whole numbers, so that no rounding decides whether a share is reached.
    reached = [
        np.array([np.searchsorted(row, -(-percent * row[-1] // 100)) for row in total])
        for percent in percents
    ]
    return np.stack([ranked[np.minimum(places, len(ranked) - 1)] for places in reached])
