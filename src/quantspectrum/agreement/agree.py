"""How far lenses agree: over ops and over groups, as a whole and by component."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from quantspectrum.agreement.rank_statistics import (
    RESAMPLES,
    kendall_interval,
    spearman_interval,
    top_interval,
)
from quantspectrum.artifacts import (
    Agreement,
    Disagreement,
    LensEntry,
    OpScore,
    PairAgreement,
    SensitivityReport,
    by_group,
    read_artifact,
    sha256_file,
)
from quantspectrum.errors import UserError
from quantspectrum.spectrum.groups import rank_groups

__all__ = ["agree", "agree_files", "group_scores", "labels_of", "members_of"]

TOP = (5, 10, 20)
"""How many of the most sensitive items are compared; those with fewer than twice as many items are not."""

LISTED = 20
"""Groups listed as disagreements."""

Scores = Mapping[str, float]


def agree_files(paths: Sequence[Path], *, seed: int = 0) -> Agreement:
    """Read reports and compare them, see :func:`agree`."""
    reports = [read_artifact(path, SensitivityReport) for path in paths]
    return agree(reports, [sha256_file(path) for path in paths], seed=seed)


def agree(
    reports: Sequence[SensitivityReport], hashes: Sequence[str], *, seed: int = 0
) -> Agreement:
    """Compare every pair of reports over what both score.

    A group's score is the sum of its ops', of the groups all of whose ops the report scores.
    Intervals are from resampling the items ranked: they say how much hangs on single ops, not how
    well each score is known.

    Args:
        reports: Two or more, of one model.
        hashes: Hashes of their files.
        seed: Seed of the resampling.

    Raises:
        UserError: There are fewer than two, they are of different models, or two have nothing in
            common.
    """
    if len(reports) < 2:
        raise UserError("agreement is between reports: give two or more")
    _check_same_model(reports)
    labels = labels_of(reports)
    by_op = {
        label: {op.name: op.score for op in report.ops}
        for label, report in zip(labels, reports, strict=True)
    }
    known = {op.name: op for report in reports for op in report.ops}
    whole = members_of(reports)
    grouped = {
        label: group_scores(report, whole) for label, report in zip(labels, reports, strict=True)
    }
    components = {op.group: op.component for op in known.values()}
    pairs: list[PairAgreement] = []
    for a, b in combinations(labels, 2):
        if not by_op[a].keys() & by_op[b].keys():
            raise UserError(f"{a} and {b} score no op in common")
        where = {name: op.component for name, op in known.items()}
        pairs += _pairs(a, b, "op", by_op, where, seed)
        pairs += _pairs(a, b, "group", grouped, components, seed)
    return Agreement(
        lenses=tuple(
            _entry(label, report, sha)
            for label, report, sha in zip(labels, reports, hashes, strict=True)
        ),
        pairs=tuple(pairs),
        disagreements=_disagreements(reports, labels, grouped, components),
        left_out=_left_out(by_op),
        resamples=RESAMPLES,
        seed=seed,
    )


def _check_same_model(reports: Sequence[SensitivityReport]) -> None:
    first = reports[0].provenance.model
    for report in reports[1:]:
        other = report.provenance.model
        if other.weights_fingerprint != first.weights_fingerprint:
            raise UserError(
                f"{reports[0].lens} is of {first.id} in {first.dtype} and {report.lens} of "
                f"{other.id} in {other.dtype}: score the same weights with both"
            )


def labels_of(reports: Sequence[SensitivityReport]) -> list[str]:
    """A short name for each report: its lens, with base, format or number where those repeat."""
    labels = [report.lens for report in reports]
    for further in (
        [report.base for report in reports],
        [report.format.name for report in reports],
    ):
        told: dict[str, set[str]] = {}
        for label, more in zip(labels, further, strict=True):
            told.setdefault(label, set()).add(more)
        labels = [
            f"{label} {more}" if len(told[label]) > 1 else label
            for label, more in zip(labels, further, strict=True)
        ]
    return [
        f"{label} #{labels[: number + 1].count(label)}" if labels.count(label) > 1 else label
        for number, label in enumerate(labels)
    ]


def members_of(reports: Sequence[SensitivityReport]) -> dict[str, list[str]]:
    """The ops of each group, as far as any of the reports knows them."""
    known = {op.name: op for report in reports for op in report.ops}
    return {group: [op.name for op in ops] for group, ops in by_group(known.values()).items()}


def group_scores(
    report: SensitivityReport, members: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """Sum of the scores of each group, of the groups all of whose members the report scores."""
    scored = {op.name for op in report.ops}
    return {
        group.name: group.score
        for group in rank_groups(report)
        if scored.issuperset(members[group.name])
    }


def _pairs(
    a: str,
    b: str,
    unit: Literal["op", "group"],
    scores: Mapping[str, Scores],
    components: Mapping[str, str],
    seed: int,
) -> list[PairAgreement]:
    """Agreement of two lenses over all items, and over those of each component if there are several."""
    common = sorted(scores[a].keys() & scores[b].keys())
    parts = {"all": common}
    found = sorted({components[name] for name in common})
    if len(found) > 1:
        parts |= {c: [name for name in common if components[name] == c] for c in found}
    return [
        _pair(a, b, unit, component, [[scores[x][name] for name in names] for x in (a, b)], seed)
        for component, names in parts.items()
    ]


def _pair(
    a: str,
    b: str,
    unit: Literal["op", "group"],
    component: str,
    scores: Sequence[Sequence[float]],
    seed: int,
) -> PairAgreement:
    x, y = scores
    return PairAgreement(
        a=a,
        b=b,
        unit=unit,
        component=component,
        n=len(x),
        spearman=spearman_interval(x, y, seed=seed),
        kendall=kendall_interval(x, y, seed=seed),
        top={str(k): top_interval(x, y, k, seed=seed) for k in TOP if len(x) >= 2 * k},
    )


def _disagreements(
    reports: Sequence[SensitivityReport],
    labels: Sequence[str],
    scores: Mapping[str, Scores],
    components: Mapping[str, str],
) -> tuple[Disagreement, ...]:
    """Groups that all lenses score, those whose places differ most first."""
    common = sorted(set.intersection(*(set(some) for some in scores.values())))
    places = {label: _places([scores[label][name] for name in common]) for label in labels}
    members = {label: by_group(report.ops) for label, report in zip(labels, reports, strict=True)}
    found = [
        Disagreement(
            group=group,
            component=components[group],
            places={label: places[label][index] for label in labels},
            spread=max(p[index] for p in places.values()) - min(p[index] for p in places.values()),
            scores={label: scores[label][group] for label in labels},
            raw={label: _added(members[label][group]) for label in labels},
        )
        for index, group in enumerate(common)
    ]
    found.sort(key=lambda one: (-one.spread, one.group))
    return tuple(found[:LISTED])


def _places(scores: Sequence[float]) -> list[float]:
    """Place of each item from 0, the highest score, to 1; equal scores share the mean place."""
    last = max(len(scores) - 1, 1)
    return [
        (sum(other > score for other in scores) + (scores.count(score) - 1) / 2) / last
        for score in scores
    ]


def _added(ops: Sequence[OpScore]) -> dict[str, float]:
    keys = sorted({key for op in ops for key in op.raw})
    return {key: math.fsum(op.raw.get(key, 0.0) for op in ops) for key in keys}


def _left_out(by_op: Mapping[str, Scores]) -> dict[str, tuple[str, ...]]:
    every = sorted(set().union(*by_op.values()))
    held = {name: tuple(label for label in by_op if name in by_op[label]) for name in every}
    return {name: labels for name, labels in held.items() if len(labels) < len(by_op)}


def _entry(label: str, report: SensitivityReport, sha256: str) -> LensEntry:
    return LensEntry(
        label=label,
        lens=report.lens,
        base=report.base,
        format=report.format.name,
        report_sha256=sha256,
        scored=report.coverage.scored,
        seconds=report.provenance.wall_s,
        complete=report.complete,
    )
