"""Groups of ops that share a format, and what each format does to them, from several reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantspectrum.artifacts import OpScore, SensitivityReport, by_group
from quantspectrum.errors import UserError
from quantspectrum.formats import Format

__all__ = [
    "Group",
    "Scored",
    "adds_up",
    "check_additive",
    "check_comparable",
    "rank_groups",
    "scored_groups",
]

_ORDERS = "heuristic:"
_UNKNOWN_SAMPLES = "import:"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ops that share a format; its score is the sum of theirs."""

    name: str
    ops: tuple[OpScore, ...]

    @property
    def score(self) -> float:
        """Predicted damage of quantizing the group: damages of its ops added up."""
        return math.fsum(op.score for op in self.ops)

    @property
    def stderr(self) -> float | None:
        """Standard error of the score, its ops' taken as independent; ``None`` where one has none."""
        errors = [op.stderr for op in self.ops]
        known = [error for error in errors if error is not None]
        return math.hypot(*known) if len(known) == len(errors) else None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Groups scored in several formats.

    Attributes:
        groups: Least sensitive first, in the first format.
        formats: Format name to format; the first one is that of the first report.
        scores: Format name to group name to the group with its scores in that format.
    """

    groups: tuple[Group, ...]
    formats: Mapping[str, Format]
    scores: Mapping[str, Mapping[str, Group]]

    @property
    def first(self) -> str:
        """The format that ranks the groups."""
        return next(iter(self.formats))


def rank_groups(report: SensitivityReport) -> list[Group]:
    """The report's groups, least sensitive first; ties in the order of their names."""
    groups = [
        Group(name=name, ops=tuple(sorted(ops, key=lambda op: op.name)))
        for name, ops in by_group(report.ops).items()
    ]
    return sorted(groups, key=lambda group: (group.score, group.name))


def scored_groups(reports: Sequence[SensitivityReport]) -> Scored:
    """The groups of reports that belong together, one a format.

    Raises:
        UserError: A report scores nothing or is partial, or two of them do not belong together.
    """
    for report in reports:
        if not report.ops:
            raise UserError("the sensitivity report scores no op; there is nothing to quantize")
        if any(note.reason.startswith("not measured") for note in report.coverage.skipped):
            raise UserError(
                f"the sensitivity report is partial ({report.stopped_by}); run the same command "
                "again to complete it"
            )
    check_comparable(reports)
    ranked = {report.format.name: rank_groups(report) for report in reports}
    return Scored(
        groups=tuple(ranked[reports[0].format.name]),
        formats={report.format.name: report.format for report in reports},
        scores={fmt: {group.name: group for group in found} for fmt, found in ranked.items()},
    )


def adds_up(lens: str) -> bool:
    """Whether a lens's scores are damages, which can be added up, and not an order alone."""
    return not lens.startswith(_ORDERS)


def check_additive(lens: str) -> None:
    """Refuse to add up, or to compare across formats, what is only an order.

    Raises:
        UserError: The lens is a rule of thumb.
    """
    if not adds_up(lens):
        raise UserError(
            f"the scores of {lens} are an order and no damage, which budgets and several formats "
            "need; cut by share of groups with --cut, or score with a metric"
        )


def check_comparable(reports: Sequence[SensitivityReport]) -> None:
    """Refuse reports whose scores cannot be added up and compared: each but the format must agree.

    Raises:
        UserError: Naming the first two reports that differ, and in what.
    """
    first = reports[0]
    seen: dict[str, SensitivityReport] = {}
    for report in reports:
        name = report.format.name
        if name in seen:
            raise UserError(f"two reports are of format {name}; give one report a format")
        seen[name] = report
        if what := _difference(first, report):
            raise UserError(
                f"the reports of {first.format.name} and {name} have {what}, so that their scores "
                "do not compare; score all formats in one call, with --format again for each"
            )


def _difference(a: SensitivityReport, b: SensitivityReport) -> str | None:
    """In what two reports differ that must not; ``None`` where they go together."""
    if a is b:
        return None
    model_a, model_b = a.provenance.model, b.provenance.model
    if model_a.weights_fingerprint != model_b.weights_fingerprint:
        return f"other weights ({model_a.id} and {model_b.id})"
    if model_a.dtype != model_b.dtype:
        return f"weights in other types ({model_a.dtype} and {model_b.dtype})"
    if a.lens != b.lens:
        return f"other lenses ({a.lens} and {b.lens})"
    if a.base != b.base:
        return f"other bases ({a.base} and {b.base})"
    ops_a, ops_b = _ops(a), _ops(b)
    if ops_a.keys() != ops_b.keys():
        name = min(ops_a.keys() ^ ops_b.keys())
        return f"other candidates (only one has {name})"
    if other := next((n for n, op in ops_a.items() if _place(op) != _place(ops_b[n])), None):
        return f"another group or shape of {other}"
    return _other_samples(a, b, ops_a, ops_b)


def _other_samples(
    a: SensitivityReport,
    b: SensitivityReport,
    ops_a: Mapping[str, OpScore],
    ops_b: Mapping[str, OpScore],
) -> str | None:
    samples_a, samples_b = _samples(a), _samples(b)
    if not samples_a and not samples_b:
        return "no record of the samples behind them"
    if samples_a != samples_b:
        return "other samples (their hashes differ)"
    for name, op in ops_a.items():
        other = ops_b[name]
        if op.kind == other.kind == "measured" and op.n != other.n:
            return f"other counts of samples for {name} ({op.n} and {other.n})"
    return None


def _ops(report: SensitivityReport) -> dict[str, OpScore]:
    return {op.name: op for op in report.ops}


def _place(op: OpScore) -> tuple[object, ...]:
    return (op.type, op.group, op.shape, op.params)


def _samples(report: SensitivityReport) -> set[str]:
    """Hashes of the samples behind the scores: those of the selection split where it is named."""
    if report.lens.startswith(_UNKNOWN_SAMPLES):  # Its own data are those of the ranges.
        return set()
    data = report.provenance.data
    selection = {found.sha256 for found in data if found.split == "selection"}
    return selection or {found.sha256 for found in data}
