"""Predicted damage along a ranking, and where profiles cut it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from quantspectrum.artifacts import SensitivityReport, Spectrum
from quantspectrum.report.numbers import ABSENT, count, percent, score
from quantspectrum.report.quantities import with_unit
from quantspectrum.report.tables import Table, columns

__all__ = ["Step", "cut_table", "damage_curve", "steps_table"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One group on the way from none quantized to all; ``damage`` includes those before it."""

    group: str
    ops: int
    score: float
    damage: float


def damage_curve(report: SensitivityReport, spectrum: Spectrum | None) -> list[Step]:
    """Cumulative sum of scores, least sensitive group first.

    The order is the spectrum's; without one it is that of the groups' summed scores.
    """
    scores: dict[str, float] = {op.name: op.score for op in report.ops}
    groups: dict[str, list[str]] = defaultdict(list)
    for op in spectrum.candidates if spectrum else report.ops:
        if op.name in scores:
            groups[op.group].append(op.name)
    totals = {group: sum(scores[name] for name in names) for group, names in groups.items()}
    order = list(totals) if spectrum else sorted(totals, key=lambda group: totals[group])
    steps, damage = [], 0.0
    for group in order:
        damage += totals[group]
        steps.append(Step(group=group, ops=len(groups[group]), score=totals[group], damage=damage))
    return steps


def cut_table(steps: list[Step], spectrum: Spectrum | None, lens: str = "") -> Table | None:
    """Where each profile cuts the curve; ``None`` without profiles."""
    if spectrum is None or not steps:
        return None
    total = steps[-1].damage
    return Table(
        caption="Where each profile cuts the ranking.",
        columns=columns(
            "Profile",
            "Groups quantized",
            with_unit("Predicted damage", lens),
            "Of the total",
            text=("Profile",),
        ),
        rows=tuple(
            (
                profile.name,
                f"{count(profile.groups)} of {count(len(steps))}",
                score(profile.predicted_damage),
                percent(profile.predicted_damage / total) if total > 0 else ABSENT,
            )
            for profile in spectrum.profiles
        ),
    )


def steps_table(steps: list[Step], lens: str = "") -> Table:
    """Every group on the damage curve."""
    return Table(
        caption="Groups in the order in which they are quantized.",
        columns=columns(
            "Position", "Group", "Ops", with_unit("Score", lens), "Sum so far", names=("Group",)
        ),
        rows=tuple(
            (count(i), step.group, count(step.ops), score(step.score), score(step.damage))
            for i, step in enumerate(steps, 1)
        ),
    )
