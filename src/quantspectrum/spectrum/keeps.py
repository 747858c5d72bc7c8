"""``--keep``: ops whose format is fixed by pattern, as formats of whole groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantspectrum.artifacts import SensitivityReport, by_group
from quantspectrum.errors import UserError
from quantspectrum.formats import Format
from quantspectrum.patterns import best_match, check_patterns, matches
from quantspectrum.spectrum.legality import HIGH
from quantspectrum.spectrum.rules import Keep

__all__ = ["fixed_groups"]


def fixed_groups(
    keeps: Sequence[Keep], report: SensitivityReport, formats: Mapping[str, Format]
) -> dict[str, str]:
    """Group name to the format it is fixed in, :data:`HIGH` for high precision.

    Of several patterns that match an op the most specific decides, and the last one among equals
    (:mod:`quantspectrum.patterns`).

    Raises:
        UserError: A pattern matches no op, a format is of no report, an op that is no candidate
            should be quantized, or fused ops would get different formats.
    """
    if not keeps:
        return {}
    patterns = [keep.pattern for keep in keeps]
    candidates = [op.name for op in report.ops]
    others = [note.name for note in (*report.coverage.kept, *report.coverage.skipped)]
    check_patterns([*candidates, *others], patterns)
    wanted = [_format(keep, report, formats) for keep in keeps]
    for keep, fmt in zip(keeps, wanted, strict=True):
        if fmt != HIGH and not any(matches(name, keep.pattern) for name in candidates):
            raise UserError(
                f"--keep {keep.pattern}={keep.format}: it matches ops that the report did not "
                "score; score them with --include"
            )
    fixed: dict[str, str] = {}
    for group, members in by_group(report.ops).items():
        places = {op.name: best_match(op.name, patterns) for op in members}
        found = {name: None if at is None else wanted[at] for name, at in places.items()}
        if len(set(found.values())) > 1:
            raise UserError(_torn(group, found))
        decision = next(iter(found.values()))
        if decision is not None:
            fixed[group] = decision
    return fixed


def _format(keep: Keep, report: SensitivityReport, formats: Mapping[str, Format]) -> str:
    if keep.format in (HIGH, report.provenance.model.dtype):
        return HIGH
    if keep.format not in formats:
        raise UserError(
            f"--keep {keep.pattern}={keep.format}: the formats are {HIGH} (high precision), "
            f"{', '.join(formats)}; give one of them, or a report of {keep.format}"
        )
    return keep.format


def _torn(group: str, found: Mapping[str, str | None]) -> str:
    parts = "; ".join(f"{name.rpartition('.')[2]}: {fmt or 'free'}" for name, fmt in found.items())
    return (
        f"--keep tears {group} apart ({parts}), whose ops a serving engine fuses and loads in one "
        "format only; keep all of them in the same one"
    )
