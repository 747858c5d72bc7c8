"""The ranking of one sensitivity report: what was measured, and every scored op in order."""

from __future__ import annotations

from collections import Counter

from quantspectrum.artifacts import OpScore, SensitivityReport
from quantspectrum.report.numbers import ABSENT, count, plural, score
from quantspectrum.report.parts import damage_cells
from quantspectrum.report.quantities import quantity_of, with_unit
from quantspectrum.report.tables import Table, columns
from quantspectrum.report.ties import Ties, ties_of

__all__ = ["header_sentence", "kind_of_score", "ranking_table", "ties_sentence"]

_BASES = {
    "isolate": "each op quantized by itself, all others in high precision",
    "fallback": "each op in high precision by itself, all others quantized",
}

_PARTS = {
    "isolate": "alone quantized",
    "fallback": "alone restored",
}


def header_sentence(report: SensitivityReport) -> str:
    """Lens, base, format, data and unit in a few words."""
    quantity = quantity_of(report.lens)
    data = (
        ", ".join(
            f"{d.split} on {plural(d.samples, 'sample')} of {d.source}"
            for d in report.provenance.data
        )
        or "not recorded"
    )
    says = f" ({quantity.says})" if quantity.says else ""
    unit = f"Score: {quantity.unit}; higher" if quantity.unit else "Higher scores"
    are = "is" if quantity.unit else "are"
    return (
        f"Lens {report.lens}{says}, base {report.base} ({_BASES[report.base]}), format "
        f"{report.format.name}; data: {data}. {unit} {are} more sensitive."
    )


def ties_sentence(report: SensitivityReport) -> str:
    """How many neighbouring ranks cannot be told apart."""
    return ties_of(report.ops).sentence()


def kind_of_score(op: OpScore, report: SensitivityReport) -> str:
    """``measured``, or ``estimated`` and from what."""
    if op.kind == "measured":
        return "measured"
    return f"estimated ({report.estimator})" if report.estimator else "estimated"


def ranking_table(report: SensitivityReport) -> Table:
    """Every scored op, most sensitive first: its score, the kind of it, and its ties.

    The parts of weights and activations, and the signal-to-noise ratio, have columns where any op
    has them.
    """
    members = Counter(op.group for op in report.ops)
    ties = ties_of(report.ops)
    more = _more_columns(report)
    score_title = with_unit("Score", report.lens)
    return Table(
        caption=_caption(report, ties, bool(more)),
        columns=columns(
            "Rank",
            "Op",
            "Component",
            "Block",
            score_title,
            "±",
            "n",
            "Kind",
            "Tied with rank",
            *more,
            "Shape",
            "Group",
            text=("Component", "Kind", "Damage by", "Shape"),
            names=("Op", "Group"),
        ),
        rows=tuple(
            (
                count(op.rank),
                op.name,
                op.component,
                count(op.block),
                score(op.score),
                score(op.stderr),
                count(op.n),
                kind_of_score(op, report),
                ties.neighbours(place),
                *(values[place] for values in more.values()),
                "×".join(str(side) for side in op.shape),
                op.group if members[op.group] > 1 else ABSENT,
            )
            for place, op in enumerate(report.ops)
        ),
    )


def _more_columns(report: SensitivityReport) -> dict[str, list[str]]:
    """Cells of the columns that not every report has, by title."""
    how = _PARTS[report.base]
    found = {
        f"Weights {how}": [score(op.weight_score) for op in report.ops],
        f"Activations {how}": [score(op.activation_score) for op in report.ops],
        "Damage by": damage_cells(report),
        "SQNR (dB)": [
            f"{op.raw['sqnr_db']:.1f}".replace("-", "−") if "sqnr_db" in op.raw else ABSENT
            for op in report.ops
        ],
    }
    return {title: cells for title, cells in found.items() if set(cells) - {ABSENT}}


def _caption(report: SensitivityReport, ties: Ties, more: bool) -> str:
    said = [f"± is one standard error over n {quantity_of(report.lens).over}."]
    if any(op.kind == "estimated" for op in report.ops):
        said.append("An estimate has no error and no n.")
    if ties.paired:
        said.append(
            "Tied: the 95 % interval of the paired difference between the two scores holds zero."
        )
    else:
        said.append("Tied: the scores differ by at most 2·√(se₁² + se₂²).")
    if more and any(op.weight_score is not None for op in report.ops):
        said.append("The parts need not add up to the whole; a share is of both parts alone.")
    return " ".join(said)
