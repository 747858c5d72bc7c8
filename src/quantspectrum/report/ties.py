"""Which neighbours of a ranking cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from quantspectrum.artifacts import OpScore
from quantspectrum.report.numbers import ABSENT, count, plural

__all__ = ["Ties", "ties_of"]


@dataclass(frozen=True, kw_only=True)
class Ties:
    r"""The pairs of neighbouring ranks that cannot be told apart.

    Attributes:
        pairs: For each op but the last, whether it and the next one cannot be told apart; ``None``
            where there is nothing to tell them by.
        paired: The report says so from paired differences, sample by sample. A report that does
            not is judged by its standard errors: two scores are then alike when
            :math:`|s_1 - s_2| \le 2 \sqrt{se_1^2 + se_2^2}`.
    """

    pairs: tuple[bool | None, ...]
    paired: bool

    def neighbours(self, at: int) -> str:
        """Ranks next to the op at a place, from 0, that its score cannot be told from.

        ``none`` where both neighbours are known to be apart.
        """
        sides = {at: self.pairs[at - 1]} if at > 0 else {}
        sides |= {at + 2: self.pairs[at]} if at < len(self.pairs) else {}
        tied = [count(rank) for rank, pair in sides.items() if pair]
        return ", ".join(tied) or ("none" if set(sides.values()) == {False} else ABSENT)

    def counts(self) -> str:
        """Tied pairs of those that can be judged: ``12 of 413``."""
        known = [pair for pair in self.pairs if pair is not None]
        return f"{count(sum(known))} of {count(len(known))}" if known else ABSENT

    def sentence(self) -> str:
        """How many pairs cannot be told apart; empty where there is no pair."""
        if not self.pairs:
            return ""
        known = [pair for pair in self.pairs if pair is not None]
        if not known:
            return (
                "No neighbouring ranks can be told apart or called tied: estimates, and scores of "
                "fewer than two samples, have no error."
            )
        rule = "paired differences" if self.paired else "standard errors taken as independent"
        said = (
            f"{count(sum(known))} of {plural(len(known), 'neighbouring pair')} of ranks cannot be "
            f"told apart at 95 % ({rule})."
        )
        if silent := len(self.pairs) - len(known):
            said += f" {plural(silent, 'more pair')} cannot be judged, for want of an error."
        return said


def ties_of(ops: Sequence[OpScore]) -> Ties:
    """Judge each pair of neighbours, ``ops`` being in the order of their ranks."""
    paired = any(op.tied_with_next is not None for op in ops)
    return Ties(
        pairs=tuple(
            op.tied_with_next if paired else _alike(op, after) for op, after in pairwise(ops)
        ),
        paired=paired,
    )


def _alike(a: OpScore, b: OpScore) -> bool | None:
    if a.stderr is None or b.stderr is None:
        return None
    return abs(a.score - b.score) <= 2 * math.hypot(a.stderr, b.stderr)
