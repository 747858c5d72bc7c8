"""The ``fallback`` ranking again with the most sensitive groups restored, and how it changed.

INC's MSE_V2 ranks, restores the most sensitive op, and ranks again: where ops interact, one that
looked harmless may matter once another is restored. This does one such step for *N* groups at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quantspectrum.artifacts import OpScore, Rescored, RescoredOp, by_group
from quantspectrum.sensitivity.metric import Summary
from quantspectrum.statistics import spearman

__all__ = ["most_sensitive", "rescored"]


def most_sensitive(ops: Sequence[OpScore], groups: int) -> tuple[str, ...]:
    """Ops of the groups with the largest summed scores."""
    members = by_group(ops)
    total = {name: math.fsum(op.score for op in some) for name, some in members.items()}
    chosen = sorted(total, key=lambda name: (-total[name], name))[:groups]
    return tuple(op.name for name in chosen for op in members[name])


def rescored(
    before: Sequence[OpScore], restored: Sequence[str], after: Mapping[str, Summary]
) -> Rescored:
    """Compare the order of the ops that are not restored before and after."""
    remaining = [op.name for op in before if op.name in after]
    old = {name: place for place, name in enumerate(remaining, start=1)}
    order = sorted(remaining, key=lambda name: (-after[name].score, name))
    ops = tuple(
        RescoredOp(
            name=name,
            score=after[name].score,
            stderr=after[name].stderr,
            rank=place,
            rank_before=old[name],
        )
        for place, name in enumerate(order, start=1)
    )
    return Rescored(
        restored=tuple(restored),
        ops=ops,
        spearman=spearman([op.rank_before for op in ops], [op.rank for op in ops]),
    )
