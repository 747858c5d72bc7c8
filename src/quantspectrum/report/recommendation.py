"""Which profile to take and what it costs, said in one sentence; then why."""

from __future__ import annotations

from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.numbers import (
    LEAST_LOSS,
    between,
    percent,
    plural,
    relative,
    score,
    signed,
    signed_points,
    size,
)
from quantspectrum.report.pairs import AccuracyDifference, LossDifference
from quantspectrum.report.quality import BEATS_ALL

__all__ = ["FEW", "TOLERANCE", "grounds", "recommend", "recommended", "within_tolerance"]

TOLERANCE = 0.01
"""Largest loss increase, relative to the baseline's loss, that a recommended profile may have."""

FEW = 30
"""Samples below which the normal interval of a mean is rough."""

_PERCENT = percent(TOLERANCE)


def within_tolerance(difference: LossDifference | None) -> bool:
    """Whether the upper 95 % bound of the loss increase is known and at most 1 % of the loss."""
    if difference is None or difference.high is None:
        return False
    return difference.high <= TOLERANCE * difference.baseline


def recommended(comparison: Comparison) -> ComparisonRow | None:
    """Return the smallest profile within tolerance, or ``None``."""
    fitting = [row for row in comparison.rows if within_tolerance(row.paired)]
    # Rows come in the spectrum's order: of two alike the later is the more aggressive.
    return max(reversed(fitting), key=_aggression, default=None)


def _aggression(row: ComparisonRow) -> tuple[float, float]:
    """How small it is, then the share quantized: a share says little of profiles of many formats."""
    known = row.bytes_known()
    return (
        -known if known is not None else float("-inf"),
        row.share if row.share is not None else -1.0,
    )


def recommend(comparison: Comparison) -> str:
    """Say in one sentence which profile to take and what it costs."""
    if comparison.baseline is None:
        return (
            "No profile can be recommended, because the baseline was not evaluated and there is "
            "nothing to compare the variants with."
        )
    measured = [row for row in comparison.rows if row.paired is not None]
    dtype = comparison.model.dtype.removeprefix("torch.") if comparison.model else ""
    keep = f"Keep the {dtype} baseline" if dtype else "Keep the baseline"
    if not measured:
        return f"{keep} for now: no variant has a loss to compare."
    row = recommended(comparison)
    if row is not None:
        return f"Take the {row.profile} profile{_gain(row)}: {_cost(row)}."
    mildest = min(measured, key=_aggression)
    if mildest.paired is not None and mildest.paired.high is None:
        return (
            f"{keep} for now: one sample gives the loss increase no interval, so no profile is "
            f"known to stay within {_PERCENT} of the baseline's loss."
        )
    return (
        f"{keep}: no profile has an upper 95 % bound of its loss increase within {_PERCENT} of "
        f"the baseline's loss, and even with the mildest, {mildest.profile}, {_cost(mildest)}."
    )


def grounds(comparison: Comparison) -> str:
    """Say by which rule the profile was chosen, on how much, and what the rule overlooks.

    Empty where no profile is recommended, as :func:`recommend` then gives the reason itself.
    """
    row = recommended(comparison)
    if comparison.baseline is None or row is None or row.paired is None:
        return ""
    said = [
        f"Why {row.profile}: {_rule(comparison)}, measured on {plural(row.paired.n, 'sample')}."
    ]
    if row.paired.n < FEW:
        said.append("So few samples give an interval that is itself rough; evaluate on more.")
    if row.guard == BEATS_ALL:
        said.append("It beats every rival of its size that was chosen without the ranking.")
    over = _caveats(row)
    if over:
        said.append(f"Weigh, too: {'; '.join(over)}.")
    return " ".join(said)


def _gain(row: ComparisonRow) -> str:
    said = []
    if row.share is not None:
        formats = f" to {', '.join(sorted(row.formats))}" if len(row.formats) > 1 else ""
        said.append(f"{percent(row.share)} of the groups quantized{formats}")
    if row.disk_bytes is not None:
        said.append(size(row.disk_bytes))
    if row.ratio is not None:
        said.append(f"{row.ratio:.2f}× the baseline's size")
    return f" ({', '.join(said)})" if said else ""


def _cost(row: ComparisonRow) -> str:
    paired = row.paired
    assert paired is not None
    assert paired.low is not None
    assert paired.high is not None
    loss = paired.baseline
    interval = between(paired, lambda value: relative(value, loss))
    change = relative(paired.value, loss)
    said = f"its loss changes by {change} (95 % interval {interval})"
    if not paired.differs:
        said = f"its loss cannot be told from the baseline's ({change}, 95 % interval {interval})"
    accuracy = row.paired_accuracy
    if accuracy is not None:
        said += f"; {_accuracy(accuracy)}"
    return said


def _accuracy(accuracy: AccuracyDifference) -> str:
    if accuracy.lost == accuracy.won == 0:
        return f"none of {plural(accuracy.n, 'judged answer')} turns wrong or right"
    error = f" ± {100 * accuracy.stderr:.1f}" if accuracy.stderr is not None else ""
    return f"its accuracy changes by {signed_points(accuracy.value)}{error} points"


def _rule(comparison: Comparison) -> str:
    missing = [row.profile for row in comparison.rows if row.paired is None]
    said = (
        "it is the smallest profile whose upper 95 % bound of the loss increase is within "
        f"{_PERCENT} of the baseline's loss"
    )
    return said + (f" (not evaluated: {', '.join(missing)})" if missing else "")


def _caveats(row: ComparisonRow) -> list[str]:
    """What the rule overlooks: kinds of samples that do worse, and a drop of accuracy."""
    over = [
        f"on {kind} alone that bound is {_bound(paired, paired.high)}"
        for kind, paired in row.by_kind.items()
        # Of next to no loss the rule's share is next to nothing: it is taken of the least that counts.
        if paired.high is not None and paired.high > TOLERANCE * max(paired.baseline, LEAST_LOSS)
        if not _is_noise(row, kind, paired)
    ]
    accuracy = row.paired_accuracy
    if accuracy is not None and accuracy.high is not None and accuracy.high < 0:
        over.append("the accuracy drop is larger than chance and should be weighed too")
    if row.guard is not None and row.guard.startswith("NOT"):
        over.append("profiles of its size that the ranking did not choose do as well")
    return over


def _bound(paired: LossDifference, high: float) -> str:
    """A bound beyond tolerance: of next to no loss the share says little, so it is not given."""
    nats = f"{signed(high, paired.stderr)} nats per token"
    if paired.baseline >= LEAST_LOSS:
        return f"{relative(high, paired.baseline)}, {nats}"
    return f"{nats}, of a baseline loss of only {score(paired.baseline)}"


def _is_noise(row: ComparisonRow, kind: str, paired: LossDifference) -> bool:
    """Whether all of the interval lies within the baseline's distance from itself."""
    found = row.over(kind)
    floor = found.loss.floor if found is not None else None
    if floor is None or paired.low is None or paired.high is None:
        return False
    return max(abs(paired.low), abs(paired.high)) <= abs(floor)
