"""Rules of thumb as lenses: what a ranking must beat to be worth its time.

Their scores are orders, not damages: what they add up to means nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from quantspectrum.artifacts import FrameworkNote, Op
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.calibration import Ranges, observe_ranges
from quantspectrum.sensitivity.scan import Base

__all__ = ["DOWN_PROJ", "ENDS", "RANGE", "SIZE"]

Rule = Callable[[OpTable, Ranges], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class _Heuristic:
    """A rule and what it says, for the report."""

    rule: Rule
    says: str
    BASES: ClassVar[tuple[Base, ...]] = ("isolate", "fallback")
    FORMATS: ClassVar[tuple[str, ...]] = ()
    ENVIRONMENT: ClassVar[str | None] = None
    OPTIONS: ClassVar[Mapping[str, str]] = {}

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """Apply the rule, to input ranges observed on the calibration data."""
        start = time.perf_counter()
        names = [op.name for op in table.candidates]
        ranges = observe_ranges(loaded.model, names, request.calibration, loaded.device)
        scores = self.rule(table, ranges)
        return LensScores(
            scores=scores,
            framework=FrameworkNote(
                name="built in",
                notes=(self.says, "scores are an order, not a damage"),
                asked=len(names),
                covered=len(scores),
                seconds=time.perf_counter() - start,
            ),
            missing={
                name: "the calibration data never reaches it"
                for name in names
                if name not in scores
            },
            n=sum(len(batch.sample_ids) for batch in request.calibration),
        )


def _ends(table: OpTable, _ranges: Ranges) -> dict[str, float]:
    """1 in the first and last block of a component, falling evenly to 0 in its middle."""
    return {op.name: _from_middle(op, table) for op in table.candidates}


def _from_middle(op: Op, table: OpTable) -> float:
    blocks = [o.block for o in table.candidates if o.component == op.component]
    known = [block for block in blocks if block is not None]
    if op.block is None or not known or max(known) == min(known):
        return 1.0
    middle = (max(known) + min(known)) / 2
    return abs(op.block - middle) / (max(known) - middle)


def _down_proj(table: OpTable, ranges: Ranges) -> dict[str, float]:
    """All ``down_proj`` (``fc2`` and the like) before all others; within each, by input range."""
    widest = max(
        (_widest(ranges[op.name]) for op in table.candidates if op.name in ranges), default=1
    )
    return {
        op.name: (2.0 if op.name.rpartition(".")[2] in _DOWN else 0.0)
        + (_widest(ranges[op.name]) / widest if op.name in ranges and widest else 0.0)
        for op in table.candidates
    }


_DOWN = frozenset({"down_proj", "fc2", "c_proj", "w2", "dense_4h_to_h"})


def _range(table: OpTable, ranges: Ranges) -> dict[str, float]:
    """Largest magnitude of an op's input in calibration."""
    return {op.name: _widest(ranges[op.name]) for op in table.candidates if op.name in ranges}


def _size(table: OpTable, _ranges: Ranges) -> dict[str, float]:
    """Fewest parameters first to go: an order by what quantizing saves."""
    return {op.name: -float(op.params) for op in table.candidates}


def _widest(bounds: tuple[float, float]) -> float:
    return max(abs(bounds[0]), abs(bounds[1]))


ENDS = _Heuristic(rule=_ends, says="the first and last blocks are the most sensitive")
DOWN_PROJ = _Heuristic(rule=_down_proj, says="the projections back into the stream come first")
RANGE = _Heuristic(rule=_range, says="the largest activation makes an op sensitive")
SIZE = _Heuristic(rule=_size, says="the smallest ops stay in high precision")
