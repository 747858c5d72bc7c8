"""From a ranking to a spectrum: the least sensitive groups are quantized first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantspectrum.artifacts import Op, OpScore, Profile, SensitivityReport, Spectrum
from quantspectrum.errors import UserError

__all__ = ["DEFAULT_CUTS", "Group", "build_spectrum", "parse_cuts", "rank_groups"]

DEFAULT_CUTS: Mapping[str, float] = {
    "baseline": 0.0,
    "mild": 0.15,
    "medium": 0.45,
    "aggressive": 0.75,
    "max": 1.0,
}
"""Profile name to the share of groups it quantizes."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ops that share a format; its score is the sum of theirs."""

    name: str
    ops: tuple[OpScore, ...]

    @property
    def score(self) -> float:
        """Predicted damage of quantizing the group: damages of its ops added up."""
        return math.fsum(op.score for op in self.ops)


def rank_groups(report: SensitivityReport) -> list[Group]:
    """The report's groups, least sensitive first; ties in the order of their names."""
    members: dict[str, list[OpScore]] = {}
    for op in report.ops:
        members.setdefault(op.group, []).append(op)
    groups = [
        Group(name=name, ops=tuple(sorted(ops, key=lambda op: op.name)))
        for name, ops in members.items()
    ]
    return sorted(groups, key=lambda group: (group.score, group.name))


def build_spectrum(
    report: SensitivityReport, *, report_sha256: str, cuts: Mapping[str, float] = DEFAULT_CUTS
) -> Spectrum:
    """Cut the ranking at the given shares of groups.

    A cut of share *s* quantizes the ``floor(s * groups + 1/2)`` least sensitive groups; a cut
    above 0 at least one. Fused ops are one group, so no profile tears them apart.

    Args:
        report: Scores of the candidates.
        report_sha256: Hash of the report's file, for the record.
        cuts: Profile name to share, from 0 to 1.

    Raises:
        UserError: The report scores nothing, or a share is out of range.
    """
    if not report.ops:
        raise UserError("the sensitivity report scores no op; there is nothing to quantize")
    if any(note.reason.startswith("not measured") for note in report.coverage.skipped):
        raise UserError(
            f"the sensitivity report is partial ({report.stopped_by}); run the same command again "
            "to complete it"
        )
    for name, share in cuts.items():
        if not 0 <= share <= 1:
            raise UserError(f"cut {name}={share}: a share of groups lies between 0 and 1")
    groups = rank_groups(report)
    ordered = sorted(cuts.items(), key=lambda cut: cut[1])
    return Spectrum(
        model=report.provenance.model,
        lens=report.lens,
        base=report.base,
        report_sha256=report_sha256,
        formats={report.format.name: report.format},
        candidates=tuple(Op(**_op_fields(op)) for group in groups for op in group.ops),
        input_ranges={op.name: op.input_range for op in report.ops if op.input_range is not None},
        profiles=tuple(_profile(name, s, groups, report.format.name) for name, s in ordered),
    )


def _profile(name: str, share: float, groups: Sequence[Group], fmt: str) -> Profile:
    count = math.floor(share * len(groups) + 0.5)
    if share > 0:
        count = max(1, count)
    chosen = groups[:count]
    return Profile(
        name=name,
        share=count / len(groups),
        groups=count,
        ops={op.name: fmt for group in chosen for op in group.ops},
        predicted_damage=math.fsum(group.score for group in chosen),
    )


def _op_fields(op: OpScore) -> dict[str, object]:
    return {key: value for key, value in op.model_dump().items() if key in Op.model_fields}


def parse_cuts(texts: Sequence[str]) -> dict[str, float]:
    """Read cut points written as ``NAME=SHARE``, with a share such as ``0.3`` or ``30%``.

    Raises:
        UserError: A text is not of that form, or a name occurs twice or cannot be a file name.
    """
    cuts: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            raise UserError(f"cut {text!r} is not NAME=SHARE, such as mild=15%") from None
        if not name.replace("-", "").replace("_", "").isalnum() or name in cuts:
            raise UserError(f"cut {text!r}: use a new name of letters, digits, '-' and '_'")
        cuts[name] = share
    return cuts
