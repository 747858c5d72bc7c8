"""Tables of what was measured without a checkpoint: the guard, additivity, the quality search."""

from __future__ import annotations

from quantspectrum.artifacts import (
    Additivity,
    Guard,
    GuardedProfile,
    Interval,
    QualitySearch,
    RivalReading,
)
from quantspectrum.report.markdown import inert, markdown_table
from quantspectrum.report.numbers import ABSENT, count, percent, plural, score, size
from quantspectrum.report.tables import Table, columns

__all__ = [
    "additivity_points",
    "additivity_sentence",
    "additivity_table",
    "guard_markdown",
    "guard_sentence",
    "guard_table",
    "guard_text",
    "quality_text",
    "rivals_table",
    "trials_table",
    "with_interval",
]

_UNITS = {
    "kl": "KL in nats per token",
    "nll": "change of the loss in nats per token",
    "nll_relative": "change of the loss as a share of it",
    "accuracy": "exact match lost",
    "mse_v2": "relative squared error of the output",
}


def with_interval(found: Interval | None) -> str:
    """An estimate with its 95 % interval: ``1.20e-2 [1.00e-2, 1.40e-2]``."""
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return score(found.value)
    return f"{score(found.value)} [{score(found.low)}, {score(found.high)}]"


def guard_table(guard: Guard) -> Table:
    """One row a profile: its damage, and how many rivals of each kind it beats."""
    return Table(
        caption=(
            f"Profiles beside rivals of equal size, on {_samples(guard)} samples of the evaluation "
            f"split; damage is the {_UNITS[guard.quantity]}, with 95 % intervals. A rival is beaten "
            "when the interval of the paired difference lies above zero."
        ),
        columns=columns(
            *("Profile", "Groups", "Weights", "Damage", "Uniform", "Random", "Inverted", "Verdict"),
            text=("Uniform", "Random", "Inverted", "Verdict"),
            names=("Profile",),
        ),
        rows=tuple(_guard_row(profile) for profile in guard.profiles),
    )


def _guard_row(profile: GuardedProfile) -> tuple[str, ...]:
    return (
        profile.name,
        count(profile.reading.groups),
        size(profile.reading.weight_bytes),
        with_interval(profile.damage),
        *(_verdicts(profile, kind) for kind in ("uniform", "random", "inverted")),
        _verdict(profile),
    )


def _verdict(profile: GuardedProfile) -> str:
    if profile.beats_all is None:
        return profile.note or ABSENT
    return "beats all" if profile.beats_all else "NOT better than all"


def _verdicts(profile: GuardedProfile, kind: str) -> str:
    found = [rival.verdict for rival in profile.rivals if rival.kind == kind]
    if len(found) <= 1:
        return found[0] if found else ABSENT
    words = ("beats", "not told apart", "loses")
    return ", ".join(f"{word} {found.count(word)}" for word in words if word in found)


def rivals_table(guard: Guard) -> Table:
    """One row a rival: its size, its damage less the profile's, and the verdict."""
    return Table(
        caption=(
            f"Every rival: its damage ({_UNITS[guard.quantity]}) and loss less the profile's, with "
            "paired 95 % intervals clustered by sample."
        ),
        columns=columns(
            *("Profile", "Rival", "Groups", "Weights", "More damage", "More loss", "Verdict"),
            text=("Rival", "Verdict"),
            names=("Profile",),
        ),
        rows=tuple(
            (
                profile.name,
                _rival_name(rival),
                count(rival.reading.groups),
                size(rival.reading.weight_bytes),
                with_interval(rival.more_damage),
                with_interval(rival.more_nll),
                rival.verdict,
            )
            for profile in guard.profiles
            for rival in profile.rivals
        ),
    )


def _rival_name(rival: RivalReading) -> str:
    return rival.kind if rival.seed is None else f"{rival.kind} {rival.seed}"


def guard_sentence(guard: Guard) -> str:
    """Which profiles are not better than all their rivals, if any."""
    asked = [profile for profile in guard.profiles if profile.beats_all is not None]
    failing = [profile.name for profile in asked if not profile.beats_all]
    if not asked:
        said = "No profile has a rival of its size to be compared with."
    elif failing:
        said = (
            f"Not better than every rival of equal size: {', '.join(failing)}. There the choice of "
            f"groups by {guard.lens} is not shown to help; cuts overlook the groups' sizes, which "
            "budgets of bytes do not."
        )
    else:
        said = "Every profile with rivals of equal size beats all of them."
    if not guard.held_out:
        said += " It was not checked that the ranking never saw these samples."
    return said


def additivity_points(additivity: Additivity) -> list[tuple[float, float, Interval]]:
    """For a figure: share of groups, predicted damage, measured damage."""
    return [(p.share, p.predicted, p.measured) for p in additivity.points]


def additivity_table(additivity: Additivity) -> Table:
    """One row a point along the ranking."""
    return Table(
        caption=(
            f"Damage of the least sensitive groups together ({_UNITS[additivity.metric]}, mean over "
            "samples with 95 % interval), and the sum of their single damages."
        ),
        columns=columns("Groups", "Share", "Predicted", "Measured"),
        rows=tuple(
            (count(p.groups), percent(p.share), score(p.predicted), with_interval(p.measured))
            for p in additivity.points
        ),
    )


def additivity_sentence(additivity: Additivity) -> str:
    """How far predictions can be trusted."""
    fit = additivity.fit
    if fit.slope is None or fit.r2 is None:
        return "Too few points with positive damage to say how far damages add up."
    said = (
        f"Measured damage grows as predicted damage to the power {fit.slope:.2f} "
        f"(log-log line through {plural(fit.points, 'point')}, R² {fit.r2:.2f})"
    )
    if fit.relative_error_median is None or fit.relative_error_90 is None:
        return f"{said}; the ranking's scores are in a unit of their own."
    return (
        f"{said}; a prediction is off by {percent(fit.relative_error_median)} of what is measured "
        f"in the median, by {percent(fit.relative_error_90)} at the 90 % quantile."
    )


def trials_table(search: QualitySearch) -> Table:
    """One row for each profile that the search measured."""
    return Table(
        caption=(
            f"Profiles measured in search of {search.budget.text!r}: "
            f"{_UNITS[search.budget.quantity]}, at most {score(search.budget.limit)}."
        ),
        columns=columns(
            *("Trial", "Step", "Groups", "Weights", "Judged", "KL", "Loss", "Keeps to it"),
            text=("Step", "Keeps to it"),
        ),
        rows=tuple(
            (
                count(trial.number),
                trial.step,
                count(trial.reading.groups),
                size(trial.reading.weight_bytes),
                with_interval(trial.judged),
                with_interval(trial.reading.kl),
                with_interval(trial.reading.nll),
                "yes" if trial.meets else "no",
            )
            for trial in search.trials
        ),
    )


def guard_markdown(guard: Guard) -> str:
    """The guard's part of report.md."""
    parts = [inert(guard_sentence(guard)), markdown_table(guard_table(guard))]
    if any(profile.rivals for profile in guard.profiles):
        parts.append(markdown_table(rivals_table(guard)))
    if guard.additivity is not None:
        parts += [
            inert(additivity_sentence(guard.additivity)),
            markdown_table(additivity_table(guard.additivity)),
        ]
    return "\n\n".join(parts)


def guard_text(guard: Guard) -> str:
    """The short table for a terminal."""
    head = f"{'profile':<12} {'groups':>6} {'damage':>10}  {'uniform':<15} {'random':<34} inverted"
    lines = [
        f"{p.name:<12} {p.reading.groups:>6} {p.damage.value:>10.3e}  "
        f"{_verdicts(p, 'uniform'):<15} {_verdicts(p, 'random'):<34} {_verdicts(p, 'inverted')}"
        for p in guard.profiles
    ]
    said = [guard_sentence(guard)]
    if guard.additivity is not None:
        said.append(additivity_sentence(guard.additivity))
    return "\n".join([head, *lines, "", *said])


def quality_text(search: QualitySearch) -> str:
    """What a search found, for a terminal."""
    lines = []
    kept = [trial for trial in search.trials if trial.meets]
    if search.profile.ops:
        best = max(kept, key=lambda trial: trial.reading.weight_bytes)
        lines.append(f"On the selection samples: {with_interval(best.judged)}.")
        if search.held_out_judged is not None:
            held = search.held_out_judged
            over = held.value > search.budget.limit
            lines.append(
                f"On samples it never saw: {with_interval(held)}"
                + (", OVER the budget." if over else ".")
            )
    return "\n".join(lines)


def _samples(guard: Guard) -> str:
    found = [data.samples for data in guard.provenance.data if data.split == "evaluation"]
    return count(found[0]) if found else ABSENT
