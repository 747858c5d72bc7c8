"""The sensitivity report: a lens's scores for every op."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from quantspectrum.artifacts.base import Artifact, Provenance, Record
from quantspectrum.formats import Format

__all__ = [
    "Coverage",
    "Op",
    "OpNote",
    "OpScore",
    "SensitivityReport",
]


class Op(Record):
    """One quantizable module. ``shape`` and ``params`` are of its weight (and bias)."""

    name: str
    type: str
    component: str
    block: int | None
    group: str
    shape: tuple[int, ...]
    params: int


class OpNote(Record):
    """An op that is not scored, and why: kept in high precision by a rule, or skipped.

    ``component`` and ``block`` say where it is, as for an :class:`Op`.
    """

    name: str
    type: str
    reason: str
    component: str = "other"
    block: int | None = None


class OpScore(Op):
    """An op with its score; higher is more sensitive, rank 1 is the most sensitive.

    Attributes:
        score: Mean over samples.
        stderr: Standard error of that mean; ``None`` with fewer than two samples.
        n: Samples behind the score.
        rank: Position in the ranking, from 1.
        raw: The lens's own numbers under their own names.
        input_range: Smallest and largest input seen in calibration, for static formats.
    """

    score: float
    stderr: float | None = None
    n: int
    rank: int
    raw: dict[str, float] = Field(default_factory=dict)
    input_range: tuple[float, float] | None = None


class Coverage(Record):
    """What of the model a report covers: ``found = scored + kept + skipped``."""

    found: int
    scored: int
    kept: tuple[OpNote, ...] = ()
    skipped: tuple[OpNote, ...] = ()


class SensitivityReport(Artifact):
    """A lens's scores for every op, most sensitive first.

    Attributes:
        complete: Every candidate was scored.
        stopped_by: What ended an incomplete scan.
    """

    KIND: ClassVar[str] = "sensitivity"
    kind: Literal["sensitivity"] = "sensitivity"
    lens: str
    base: Literal["isolate", "fallback"]
    format: Format
    provenance: Provenance
    complete: bool
    stopped_by: str | None = None
    coverage: Coverage
    ops: tuple[OpScore, ...]
