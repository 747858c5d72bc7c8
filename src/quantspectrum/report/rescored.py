"""The second ranking: how the order changes once the most sensitive groups are restored."""

from __future__ import annotations

from quantspectrum.artifacts import Rescored, RescoredOp, SensitivityReport
from quantspectrum.report.numbers import ABSENT, count, minus, plural, score
from quantspectrum.report.quantities import with_unit
from quantspectrum.report.tables import Table, columns

__all__ = ["MOVED", "moved_table", "rescored_sentences", "rescored_table"]

MOVED = 10
"""Ops listed as those that moved most."""

_NAMED = 8
"""Restored ops named in the sentence; the others are counted."""


def rescored_sentences(report: SensitivityReport) -> str:
    """What was restored and how far the order held; empty without a second ranking."""
    second = report.rescored
    if second is None:
        return ""
    groups = {op.group for op in report.ops if op.name in set(second.restored)}
    of_groups = f" (the {plural(len(groups), 'most sensitive group')})" if groups else ""
    named = ", ".join(second.restored[:_NAMED])
    if len(second.restored) > _NAMED:
        named += f" and {count(len(second.restored) - _NAMED)} more"
    return (
        f"Ranked again with {plural(len(second.restored), 'op')} in high precision{of_groups}: "
        f"{named}. {_agreement(second)}"
    )


def _agreement(second: Rescored) -> str:
    others = plural(len(second.ops), "other op")
    if second.spearman is None:
        return f"{others[0].upper()}{others[1:]} {'is' if len(second.ops) == 1 else 'are'} too few to compare orders."
    moved = sum(op.rank != op.rank_before for op in second.ops)
    return (
        f"Spearman's rank correlation of the {others} before and after: "
        f"{minus(f'{second.spearman:.3f}')}; {count(moved)} changed rank."
    )


def moved_table(report: SensitivityReport) -> Table | None:
    """The ops that moved most, among those not restored; ``None`` where none moved."""
    moved = [op for op in _ops(report) if op.rank != op.rank_before]
    moved.sort(key=lambda op: (-abs(op.rank - op.rank_before), op.rank))
    if not moved:
        return None
    return _table(
        report,
        moved[:MOVED],
        "The ops that moved most, + towards the most sensitive; ranks are among the ops that were "
        "not restored.",
    )


def rescored_table(report: SensitivityReport) -> Table | None:
    """The whole second ranking; ``None`` without one."""
    ops = _ops(report)
    return _table(report, ops, "The second ranking, most sensitive first.") if ops else None


def _ops(report: SensitivityReport) -> list[RescoredOp]:
    return list(report.rescored.ops) if report.rescored is not None else []


def _table(report: SensitivityReport, ops: list[RescoredOp], caption: str) -> Table:
    return Table(
        caption=caption,
        columns=columns(
            "Rank",
            "Op",
            "Rank before",
            "Moved",
            with_unit("Score", report.lens),
            "±",
            names=("Op",),
        ),
        rows=tuple(
            (
                count(op.rank),
                op.name,
                count(op.rank_before),
                minus(f"{op.rank_before - op.rank:+d}") if op.rank != op.rank_before else ABSENT,
                score(op.score),
                score(op.stderr),
            )
            for op in ops
        ),
    )
