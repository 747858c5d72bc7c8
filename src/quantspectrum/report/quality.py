"""Tables of what was measured without a checkpoint: the guard, additivity, the quality search.

The report and the command line print the same ones.
"""

from __future__ import annotations

from quantspectrum.artifacts import (
    Additivity,
    Guard,
    GuardedProfile,
    QualitySearch,
    RivalReading,
)
from quantspectrum.report.numbers import (
    ABSENT,
    count,
    percent,
    plural,
    score,
    size,
    with_interval,
    yes_no,
)
from quantspectrum.report.tables import Document, Table, columns

__all__ = [
    "BEATS_ALL",
    "KL_TOKENS",
    "UNITS",
    "additivity_sentence",
    "additivity_table",
    "guard_document",
    "guard_sentence",
    "guard_table",
    "rivals_table",
    "search_sentence",
    "trials_table",
    "verdict_of",
]

BEATS_ALL = "beats all"
"""Verdict of a profile that does better than every other one of its size."""

UNITS = {
    "kl": "KL in nats per token",
    "nll": "change of the loss in nats per token",
    "nll_relative": "change of the loss as a share of it",
    "accuracy": "exact match lost",
    "mse_v2": "relative squared error of the output",
}

KL_TOKENS = (
    "KL counts all text tokens, the prompts' among them; an evaluation's KL counts the answers' "
    "tokens only, so the two are not the same figure."
)
"""Said wherever a KL is shown that was measured without a checkpoint."""


def _kl_tokens(quantity: str) -> str:
    return f" {KL_TOKENS}" if quantity == "kl" else ""


def guard_table(guard: Guard) -> Table:
    """One row a profile: its damage, and how many rivals of each kind it beats."""
    return Table(
        caption=(
            f"Profiles beside rivals of equal size, on {_samples(guard)} samples of the evaluation "
            f"split; damage is the {UNITS[guard.quantity]}, with 95 % intervals. A rival is beaten "
            f"when the interval of the paired difference lies above zero.{_kl_tokens(guard.quantity)}"
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
        return profile.note or "no rival"
    return BEATS_ALL if profile.beats_all else "NOT better than all rivals"


def verdict_of(guard: Guard | None, profile: str) -> str | None:
    """What was found of a profile, in a few words; ``None`` for one that was not asked about."""
    found = () if guard is None else guard.profiles
    return next((_verdict(one) for one in found if one.name == profile), None)


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
            f"Every rival: its damage ({UNITS[guard.quantity]}) and loss less the profile's, with "
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


def additivity_table(additivity: Additivity) -> Table:
    """One row a point along the ranking."""
    return Table(
        caption=(
            f"Damage of the least sensitive groups together ({UNITS[additivity.metric]}, mean over "
            "samples with 95 % interval), and the sum of their single damages."
            f"{_kl_tokens(additivity.metric)}"
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
        f"(log-log line through {plural(fit.points, 'point')}, R² {fit.r2:.2f}; 1 where damages add "
        "up)"
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
            f"{UNITS[search.budget.quantity]}, at most {score(search.budget.limit)}. {KL_TOKENS}"
        ),
        columns=columns(
            *("Trial", "Step", "Groups", "Weights", "Judged", "KL", "Loss change", "Keeps to it"),
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
                yes_no(trial.meets),
            )
            for trial in search.trials
        ),
    )


def search_sentence(search: QualitySearch) -> str:
    """What the search found, and how it does on samples it never saw."""
    said = f"Budget {search.budget.text}: {search.profile.rule or 'nothing kept to it'}."
    kept = [trial for trial in search.trials if trial.meets]
    unit = UNITS[search.budget.quantity]
    if search.profile.ops and kept:
        best = max(kept, key=lambda trial: trial.reading.weight_bytes)
        said += f" On the selection samples: {with_interval(best.judged)}, {unit}."
    held = search.held_out_judged
    if held is not None:
        over = ", OVER the budget" if held.value > search.budget.limit else ""
        said += f" On samples it never saw: {with_interval(held)}, {unit}{over}."
    return said


def guard_document(guard: Guard) -> Document:
    """What the command prints."""
    said = [guard_sentence(guard)]
    if guard.additivity is not None:
        said.append(additivity_sentence(guard.additivity))
    return Document(title="Guard", sentences=tuple(said), tables=(("Guard", guard_table(guard)),))


def _samples(guard: Guard) -> str:
    found = [data.samples for data in guard.provenance.data if data.split == "evaluation"]
    return count(found[0]) if found else ABSENT
