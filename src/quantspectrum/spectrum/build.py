"""From sensitivity reports to a spectrum: cuts of the ranking and budgets over all formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quantspectrum.artifacts import (
    CutTies,
    LatencyTable,
    Op,
    OpScore,
    Optimum,
    Profile,
    SensitivityReport,
    Source,
    Spectrum,
)
from quantspectrum.errors import UserError
from quantspectrum.spectrum.budgets import Problem, assign
from quantspectrum.spectrum.costs import profile_bytes
from quantspectrum.spectrum.groups import Group, check_additive, scored_groups
from quantspectrum.spectrum.keeps import fixed_groups
from quantspectrum.spectrum.legality import HIGH, torn_groups
from quantspectrum.spectrum.rules import Budget, Keep

__all__ = ["DEFAULT_CUTS", "build_spectrum"]

DEFAULT_CUTS: Mapping[str, float] = {
    "baseline": 0.0,
    "mild": 0.15,
    "medium": 0.45,
    "aggressive": 0.75,
    "max": 1.0,
}
"""Profile name to the share of groups it quantizes."""


def build_spectrum(
    report: SensitivityReport | Sequence[SensitivityReport],
    *,
    report_sha256: str | Sequence[str],
    cuts: Mapping[str, float] = DEFAULT_CUTS,
    budgets: Mapping[str, Budget] | None = None,
    keeps: Sequence[Keep] = (),
    latency: LatencyTable | None = None,
) -> Spectrum:
    """Cut the ranking at the given shares of groups, and solve the budgets.

    A cut of share *s* quantizes the ``floor(s * groups + 1/2)`` least sensitive of the groups that
    are not fixed, in the format of the first report; a cut above 0 at least one. A budget gives
    each group high precision or any report's format (:mod:`quantspectrum.spectrum.budgets`). Fused
    ops are one group, so no profile tears them apart. Profiles go from the mildest to the most
    aggressive: cuts alone by share, with budgets all by weight bytes, most first.

    Args:
        report: Scores of the candidates; several are of one format each and alike in all else.
        report_sha256: Hash of each report's file, for the record.
        cuts: Profile name to share, from 0 to 1.
        budgets: Profile name to budget.
        keeps: Formats fixed by pattern, in every profile but those of a cut of 0.
        latency: Times that budgets of latency are over.

    Raises:
        UserError: The reports score nothing or do not belong together, a share is out of range, a
            budget cannot be met, two profiles have one name, or a kept op tears a group apart.
    """
    reports = [report] if isinstance(report, SensitivityReport) else list(report)
    hashes = [report_sha256] if isinstance(report_sha256, str) else list(report_sha256)
    scored = scored_groups(reports)
    if budgets or len(reports) > 1:
        check_additive(reports[0].lens)
    fixed = fixed_groups(keeps, reports[0], scored.formats)
    model = reports[0].provenance.model
    problem = Problem(scored=scored, fixed=fixed, model=model, latency=latency)
    profiles = _profiles(cuts, budgets or {}, problem)
    shared, by_format = _ranges(reports)
    return Spectrum(
        model=model,
        lens=reports[0].lens,
        base=reports[0].base,
        report_sha256=hashes[0],
        reports=tuple(
            Source(format=one.format.name, sha256=sha)
            for one, sha in zip(reports, hashes, strict=True)
        ),
        formats=dict(scored.formats),
        candidates=tuple(_op(op) for group in scored.groups for op in group.ops),
        damages={
            group.name: {fmt: scored.scores[fmt][group.name].score for fmt in scored.formats}
            for group in scored.groups
        },
        input_ranges=shared,
        format_ranges=by_format,
        profiles=tuple(profiles),
    )


def _profiles(
    cuts: Mapping[str, float], budgets: Mapping[str, Budget], problem: Problem
) -> list[Profile]:
    """The profiles of all rules, the mildest first."""
    for name, share in cuts.items():
        if not 0 <= share <= 1:
            raise UserError(f"cut {name}={share}: a share of groups lies between 0 and 1")
        if name in budgets:
            raise UserError(f"a cut and a budget are both called {name!r}; rename one")
    ordered = sorted(cuts.items(), key=lambda cut: cut[1])
    profiles = [_cut(name, share, problem) for name, share in ordered]
    if budgets:
        profiles += [_budget(name, budget, problem) for name, budget in budgets.items()]
        profiles.sort(key=lambda profile: -(profile.predicted_bytes or 0))
    return profiles


def _cut(name: str, share: float, problem: Problem) -> Profile:
    fmt = problem.scored.first
    free = [group for group in problem.scored.groups if group.name not in problem.fixed]
    count = math.floor(share * len(free) + 0.5)
    if share > 0:
        count = min(len(free), max(1, count))
    chosen = {group.name: fmt for group in free[:count]}
    if share > 0:
        chosen |= {group: kept for group, kept in problem.fixed.items() if kept != HIGH}
    if share == 0:
        rule = "nothing is quantized (cut 0%)"
    else:
        rule = f"the {count} least sensitive of {len(free)} groups in {fmt} (cut {share * 100:g}%)"
    return _profile(name, rule, chosen, problem, _cut_ties(free, count))


def _cut_ties(free: Sequence[Group], count: int) -> CutTies | None:
    """Groups that cannot be told from the nearest one on the other side of a cut."""
    if not 0 < count < len(free):
        return None
    last, first = free[count - 1], free[count]
    if last.stderr is None or first.stderr is None:
        return None
    tied = judged = 0
    for place, group in enumerate(free):
        across = first if place < count else last
        if group.stderr is None or across.stderr is None:
            continue
        judged += 1
        error = math.hypot(group.stderr, across.stderr)
        tied += abs(group.score - across.score) <= 2 * error
    return CutTies(groups=tied, judged=judged)


def _budget(name: str, budget: Budget, problem: Problem) -> Profile:
    found = assign(name, budget, problem)
    return _profile(name, found.rule, found.formats, problem, found.ties, found.optimum)


def _profile(
    name: str,
    rule: str,
    chosen: Mapping[str, str],
    problem: Problem,
    ties: CutTies | None,
    optimum: Optimum | None = None,
) -> Profile:
    scored = problem.scored
    ops = {op.name: chosen[g.name] for g in scored.groups if g.name in chosen for op in g.ops}
    candidates = [op for group in scored.groups for op in group.ops]
    assert not torn_groups(ops, candidates), "groups are whole"
    scores = [scored.scores[fmt][group].score for group, fmt in chosen.items()]
    negative = sum(score < 0 for score in scores)
    if problem.fixed and chosen:
        rule += f"; {len(problem.fixed)} groups fixed by --keep"
    if negative:
        counted = "counted as 0 by the budget" if optimum is not None else "added up as they are"
        rule += f"; {negative} scores below zero (noise) {counted}"
    return Profile(
        name=name,
        rule=rule,
        share=len(chosen) / len(scored.groups),
        groups=len(chosen),
        ops=ops,
        predicted_damage=math.fsum(scores),
        predicted_bytes=profile_bytes(ops, candidates, scored.formats, problem.model),
        negative_groups=negative,
        ties=ties,
        optimum=optimum,
    )


def _ranges(
    reports: Sequence[SensitivityReport],
) -> tuple[dict[str, tuple[float, float]], dict[str, dict[str, tuple[float, float]]]]:
    """Input ranges that all static formats share, or else those of each."""
    found = {
        report.format.name: {
            op.name: op.input_range for op in report.ops if op.input_range is not None
        }
        for report in reports
    }
    static = {fmt: ranges for fmt, ranges in found.items() if ranges}
    different = list(static.values())
    if all(ranges == different[0] for ranges in different):
        return (different[0] if different else {}), {}
    return {}, static


def _op(op: OpScore) -> Op:
    return Op.model_validate({k: v for k, v in op.model_dump().items() if k in Op.model_fields})
