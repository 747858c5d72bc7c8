r"""Spending measurements where the ranking matters, and scores for what was not measured.

A cheap metric ranks everything first. Where that ranking is far from a cut point, a more exact score
would not change which profile an op belongs to; so ops are measured from the cut points outwards.
Ops left over get an estimate: with cheap scores :math:`c` and measured ones :math:`m`, the line
:math:`\log m = a + b \log c` is fitted over the ops that have both (least squares, slope at least 0),
and :math:`e^a c^b` is their score. The report says of each op which kind it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from quantspectrum.artifacts import Op, by_group

__all__ = ["estimates", "measuring_order"]


def measuring_order(
    ops: Sequence[Op], cheap: Mapping[str, float], cuts: Iterable[float]
) -> list[Op]:
    """Ops in the order they should be measured, those of one group together.

    Args:
        ops: Candidates.
        cheap: Their cheap scores; ops without one, which the data does not reach, come last.
        cuts: Shares of groups, least sensitive first, at which profiles end.
    """
    groups = by_group(ops)
    known = {
        name: math.fsum(cheap[op.name] for op in members)
        for name, members in groups.items()
        if all(op.name in cheap for op in members)
    }
    ranked = sorted(known, key=lambda name: (known[name], name))
    points = [share * len(ranked) for share in cuts if 0 < share < 1] or [float(len(ranked))]
    # A cut at share s lies between the groups before and after it.
    distance = {
        name: min(abs(place + 0.5 - point) for point in points) for place, name in enumerate(ranked)
    }
    order = sorted(groups, key=lambda name: (distance.get(name, math.inf), -known.get(name, 0.0)))
    return [op for name in order for op in groups[name]]


def estimates(
    ops: Iterable[str], cheap: Mapping[str, float], measured: Mapping[str, float]
) -> dict[str, float]:
    """Scores on the scale of the measured ones, for ops that have only a cheap one."""
    both = [n for n in measured if n in cheap and measured[n] > 0 and cheap[n] > 0]
    slope, offset = 1.0, 0.0
    if both:
        x = np.log([cheap[name] for name in both])
        y = np.log([measured[name] for name in both])
        spread = float(((x - x.mean()) ** 2).sum())
        if len(both) >= 3 and spread > 0:
            slope = max(0.0, float(((x - x.mean()) * (y - y.mean())).sum()) / spread)
        offset = float(y.mean() - slope * x.mean())
    return {
        name: math.exp(offset + slope * math.log(cheap[name])) if cheap[name] > 0 else 0.0
        for name in ops
        if name in cheap and name not in measured
    }
