"""Predicted damage along a ranking, and where profiles stand beside it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from quantspectrum.artifacts import Profile, SensitivityReport, Spectrum
from quantspectrum.report.numbers import ABSENT, count, percent, score
from quantspectrum.report.quantities import with_unit
from quantspectrum.report.tables import Table, columns

__all__ = ["Step", "cut_table", "damage_curve", "is_cut", "steps_table"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One group on the way from none quantized to all; ``damage`` includes those before it."""

    group: str
    ops: int
    score: float
    damage: float
    names: tuple[str, ...] = ()


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
        steps.append(
            Step(
                group=group,
                ops=len(groups[group]),
                score=totals[group],
                damage=damage,
                names=tuple(groups[group]),
            )
        )
    return steps


def is_cut(profile: Profile, steps: list[Step]) -> bool:
    """Whether a profile quantizes just the least sensitive groups, all to one format.

    Profiles made by a budget, or with groups kept by hand, lie elsewhere than on the curve.
    """
    chosen = {step.group for step in steps[: profile.groups]}
    return len(set(profile.ops.values())) <= 1 and profile_groups(profile, steps) == chosen


def profile_groups(profile: Profile, steps: list[Step]) -> set[str]:
    """Groups of the curve that the profile quantizes."""
    return {step.group for step in steps if not profile.ops.keys().isdisjoint(step.names)}


def cut_table(steps: list[Step], spectrum: Spectrum | None, lens: str = "") -> Table | None:
    """Where each profile stands beside the curve; ``None`` without profiles."""
    if spectrum is None or not steps:
        return None
    total = steps[-1].damage
    return Table(
        caption="Where each profile stands. A cut quantizes the least sensitive groups of the "
        "ranking, all to one format; another profile chooses by its own rule, and is not on the "
        "curve. The total is that of the curve, in the first report's format.",
        columns=columns(
            "Profile",
            "Groups quantized",
            with_unit("Predicted damage", lens),
            "Of the total",
            "Cut",
            text=("Profile", "Cut"),
        ),
        rows=tuple(
            (
                profile.name,
                f"{count(profile.groups)} of {count(len(steps))}",
                score(profile.predicted_damage),
                percent(profile.predicted_damage / total) if total > 0 else ABSENT,
                "yes" if is_cut(profile, steps) else "no",
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
