"""The profile that a quality budget allows: searched for by measuring, every trial on record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quantspectrum.artifacts import (
    Interval,
    Profile,
    ProfileReading,
    QualityBudget,
    SensitivityReport,
    Spectrum,
    Trial,
)
from quantspectrum.errors import UserError
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.spectrum.costs import op_bytes, profile_bytes, storage_of
from quantspectrum.spectrum.groups import Group, rank_groups
from quantspectrum.spectrum.legality import HIGH
from quantspectrum.spectrum.meter import Meter, Ops, Reading, ops_sha256
from quantspectrum.spectrum.quality_budget import (
    accuracy_lost,
    kl_of,
    meets,
    nll_of,
    nll_relative_of,
)
from quantspectrum.spectrum.search import Step, search

__all__ = [
    "Found",
    "find_profile",
    "judge",
    "ranked_groups",
    "read_profile",
    "weight_bytes",
    "with_profile",
]

_NOT_FINITE = "<not finite>"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the search found.

    Attributes:
        profile: The profile; without ops when nothing kept to the budget.
        trials: Every profile measured, in order.
    """

    profile: Profile
    trials: tuple[Trial, ...]


def ranked_groups(report: SensitivityReport, spectrum: Spectrum) -> list[Group]:
    """The report's groups that the spectrum may quantize, least sensitive first."""
    allowed = {op.name for op in spectrum.candidates}
    return [group for group in rank_groups(report) if all(op.name in allowed for op in group.ops)]


def weight_bytes(ops: Ops, spectrum: Spectrum) -> int:
    """Bytes of the quantized ops in their formats."""
    dtype = storage_of(spectrum.model)
    return sum(
        op_bytes(op, spectrum.formats[ops[op.name]], dtype)
        for op in spectrum.candidates
        if op.name in ops
    )


def find_profile(
    meter: Meter,
    spectrum: Spectrum,
    report: SensitivityReport,
    budget: QualityBudget,
    *,
    name: str,
    fixed: Mapping[str, str] | None = None,
    trials: int,
    journal: Journal,
    step: Callable[[], None] = lambda: None,
) -> Found:
    """Search for the most aggressive profile that keeps to a budget.

    Args:
        meter: Measures profiles, ``kl`` and ``nll`` at least.
        spectrum: Its candidates, in the report's format.
        report: The ranking that is followed.
        budget: What may be lost.
        name: Name of the profile.
        fixed: Groups that ``--keep`` gives a format, in every profile tried.
        trials: Most profiles measured.
        journal: Keeps what was measured, so that a search that goes on repeats nothing.
        step: Called after each trial.

    Raises:
        UserError: Nothing can be quantized, or the budget's quantity cannot be measured here.
    """
    fixed = fixed or {}
    everything = ranked_groups(report, spectrum)
    groups = [group for group in everything if group.name not in fixed]
    kept = {
        op.name: fixed[group.name]
        for group in everything
        if fixed.get(group.name, HIGH) != HIGH
        for op in group.ops
    }
    if not groups:
        raise UserError("the spectrum has no candidates; there is nothing to search among")
    fmt = report.format.name
    sizes = [weight_bytes({op.name: fmt for op in group.ops}, spectrum) for group in groups]
    done: list[Trial] = []

    def fits(how: Step, places: tuple[int, ...]) -> bool:
        chosen = [groups[place] for place in places]
        ops = kept | {op.name: fmt for group in chosen for op in group.ops}
        read, judged = read_profile(meter, spectrum, ops, budget, journal)
        done.append(
            Trial(
                number=len(done) + 1,
                step=how,
                quantized=tuple(group.name for group in chosen),
                reading=read,
                judged=judged,
                meets=meets(budget, judged),
            )
        )
        step()
        return done[-1].meets

    with meter.simulating():
        best = search(sizes, fits, trials=trials)
    ops = {op.name: fmt for place in best for op in groups[place].ops}
    profile = _profile(
        name, kept | ops if best else {}, spectrum, _rule(best, groups, budget, len(done), fixed)
    )
    return Found(profile=profile, trials=tuple(done))


def _profile(name: str, ops: Ops, spectrum: Spectrum, rule: str) -> Profile:
    formats = {op.group: ops[op.name] for op in spectrum.candidates if op.name in ops}
    scores = [spectrum.damages[group][fmt] for group, fmt in formats.items()]
    return Profile(
        name=name,
        rule=rule,
        share=len(formats) / len({op.group for op in spectrum.candidates}),
        groups=len(formats),
        ops=dict(ops),
        predicted_damage=math.fsum(scores),
        predicted_bytes=profile_bytes(ops, spectrum.candidates, spectrum.formats, spectrum.model),
        negative_groups=sum(score < 0 for score in scores),
    )


def read_profile(
    meter: Meter, spectrum: Spectrum, ops: Ops, budget: QualityBudget, journal: Journal
) -> tuple[ProfileReading, Interval]:
    """Measure a profile, and the quantity that a budget limits; what the journal holds is not."""
    sha = ops_sha256(ops)
    if (0, sha) not in journal:
        (made,) = meter.measure([ops])
        values = {key: list(numbers) for key, numbers in made.values.items()}
        journal.add(0, sha, values | {_NOT_FINITE: [float(made.not_finite)]})
    values = dict(journal[0, sha])
    lost = int(values.pop(_NOT_FINITE)[0])
    reading = Reading(values={k: tuple(v) for k, v in values.items()}, not_finite=lost)
    accuracy = None
    if budget.quantity == "accuracy":
        baseline, variant = (_correct(meter, some, journal) for some in ({}, ops))
        accuracy = accuracy_lost(baseline, variant)
    groups = {op.group for op in spectrum.candidates if op.name in ops}
    record = ProfileReading(
        ops_sha256=sha,
        groups=len(groups),
        weight_bytes=weight_bytes(ops, spectrum),
        kl=kl_of(reading, meter.baseline),
        nll=nll_of(reading, meter.baseline),
        not_finite=reading.not_finite,
        accuracy_lost=accuracy,
    )
    return record, judge(budget, reading, meter.baseline, accuracy)


def judge(
    budget: QualityBudget, reading: Reading, baseline: Reading, accuracy: Interval | None
) -> Interval:
    """The quantity that a budget limits.

    Raises:
        UserError: The samples have no such quantity.
    """
    of = {"kl": kl_of, "nll": nll_of, "nll_relative": nll_relative_of}
    judged = accuracy if budget.quantity == "accuracy" else of[budget.quantity](reading, baseline)
    if judged is None:
        raise UserError(
            f"budget {budget.text!r} is of tokens, and the samples have none to score; give other "
            "--data"
        )
    return judged


def _correct(meter: Meter, ops: Ops, journal: Journal) -> dict[str, bool]:
    key = f"answers/{ops_sha256(ops)}"
    if (0, key) not in journal:
        right = {name: [float(is_right)] for name, is_right in meter.correct(ops).items()}
        journal.add(0, key, right)
    return {name: bool(right[0]) for name, right in journal[0, key].items()}


def _rule(
    best: Sequence[int],
    groups: Sequence[Group],
    budget: QualityBudget,
    trials: int,
    fixed: Mapping[str, str],
) -> str:
    how = "the upper end of the 95 % interval" if budget.confident else "the estimate"
    asked = f"{budget.text!r} by {how} on the selection samples ({trials} {'profile' if trials == 1 else 'profiles'} measured)"
    if not best:
        return f"no profile tried keeps to {asked}; this is the baseline"
    length = next((n for n, place in enumerate(best) if n != place), len(best))
    left_out = best[-1] + 1 - len(best)
    rule = f"the most aggressive profile found that keeps to {asked}: "
    rule += f"{len(best)} of {len(groups)} groups, the {length} least sensitive"
    if left_out:
        rule += f" and {len(best) - length} beyond them, with {left_out} left out between"
    if fixed:
        rule += f"; {len(fixed)} groups fixed by --keep"
    return rule


def with_profile(spectrum: Spectrum, profile: Profile) -> Spectrum:
    """The spectrum with a profile after those of as many bytes; one of its name is replaced."""
    others = [other for other in spectrum.profiles if other.name != profile.name]
    place = sum((other.predicted_bytes or 0) >= (profile.predicted_bytes or 0) for other in others)
    profiles = (*others[:place], profile, *others[place:])
    return spectrum.model_copy(update={"profiles": profiles}).sealed()
