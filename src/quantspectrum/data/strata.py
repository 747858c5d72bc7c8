"""Sharing a number of samples among strata, evenly and exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

__all__ = ["balanced_sequence", "even_shares"]

S = TypeVar("S", bound=Hashable)


def even_shares(capacities: Mapping[S, int], total: int) -> dict[S, int]:
    """Share ``total`` among strata evenly; what a small stratum cannot give, the others do.

    The result sums to ``total`` and exceeds no capacity. Remainders go to the larger strata, and
    among equals to the later.

    Raises:
        AssertionError: The capacities sum to less than ``total``.
    """
    assert sum(capacities.values()) >= total, "the caller checks that there is enough"
    shares: dict[S, int] = {}
    left = total
    # Smallest first: what it lacks is then spread over all that are still to be served.
    for served, stratum in enumerate(sorted(capacities, key=lambda s: capacities[s])):
        shares[stratum] = min(capacities[stratum], left // (len(capacities) - served))
        left -= shares[stratum]
    return {stratum: shares[stratum] for stratum in capacities}


def balanced_sequence(shares: Mapping[S, int], lengths: Sequence[int]) -> list[Counter[S]]:
    """Cut the shares into consecutive parts of the given lengths, each with all in proportion.

    Strata are lined up by Sainte-Laguë's divisor method, which is house monotone and gives
    back exactly the shares in the end; a part is a stretch of that line.

    Raises:
        AssertionError: The lengths do not sum to the shares.
    """
    assert sum(lengths) == sum(shares.values()), "the line is exactly as long as its parts"
    taken: Counter[S] = Counter()
    line: list[S] = []
    for _ in range(sum(lengths)):
        stratum = max(shares, key=lambda s: shares[s] / (2 * taken[s] + 1))
        taken[stratum] += 1
        line.append(stratum)
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    return [
        Counter(line[start : start + length]) for start, length in zip(starts, lengths, strict=True)
    ]
