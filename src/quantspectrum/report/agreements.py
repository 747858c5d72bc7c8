"""Tables of a record of agreement; the report, the command and its Markdown print the same ones."""

from __future__ import annotations

from quantspectrum.artifacts import Agreement
from quantspectrum.report.numbers import (
    ABSENT,
    correlation,
    count,
    duration,
    percent,
    score,
    with_interval,
)
from quantspectrum.report.tables import Document, Table, columns

__all__ = ["agreement_document", "disagreement_table", "lenses_table", "pairs_table"]


def agreement_document(agreement: Agreement) -> Document:
    """What the command prints and writes beside the record."""
    said = [
        f"Intervals are 95 %, from {count(agreement.resamples)} resamples of the items ranked: they "
        "say how much hangs on single items, not how well each score is known."
    ]
    if agreement.left_out:
        said.append(f"{count(len(agreement.left_out))} ops are scored by some of the lenses only.")
    most = disagreement_table(agreement)
    return Document(
        title="Agreement of lenses",
        sentences=tuple(said),
        tables=(
            ("Lenses", lenses_table(agreement)),
            *((f"Over {unit}s", pairs_table(agreement, unit)) for unit in ("group", "op")),
            *((("Disagreements", most),) if most is not None else ()),
        ),
    )


def lenses_table(agreement: Agreement) -> Table:
    """A row for each report that is compared."""
    return Table(
        caption="The sensitivity reports compared.",
        columns=columns(
            *("Lens", "Base", "Format", "Ops scored", "Time"),
            text=("Base", "Format"),
            names=("Lens",),
        ),
        rows=tuple(
            (
                lens.label,
                lens.base,
                lens.format,
                f"{count(lens.scored)}{'' if lens.complete else ' (incomplete)'}",
                duration(lens.seconds),
            )
            for lens in agreement.lenses
        ),
    )


def pairs_table(agreement: Agreement, unit: str) -> Table:
    """A row for each pair of lenses and component, over ``op`` or ``group``."""
    pairs = [pair for pair in agreement.pairs if pair.unit == unit]
    tops = sorted({k for pair in pairs for k in pair.top}, key=int)
    return Table(
        caption="Rank correlations over what both score, and the share of the most sensitive that "
        "are the same, with 95 % intervals.",
        columns=columns(
            *("Lens", "Other lens", "Component", "n", "Spearman", "Kendall tau-b"),
            *(f"Same of top {k}" for k in tops),
            text=("Component",),
            names=("Lens", "Other lens"),
        ),
        rows=tuple(
            (
                pair.a,
                pair.b,
                pair.component,
                count(pair.n),
                with_interval(pair.spearman, correlation),
                with_interval(pair.kendall, correlation),
                *(
                    with_interval(pair.top[k], correlation) if k in pair.top else ABSENT
                    for k in tops
                ),
            )
            for pair in pairs
        ),
    )


def disagreement_table(agreement: Agreement | None) -> Table | None:
    """Groups whose place differs most between lenses."""
    if agreement is None or not agreement.disagreements:
        return None
    labels = [lens.label for lens in agreement.lenses]
    return Table(
        caption="Where they disagree most: place among the groups that all score, 0 % the most "
        "sensitive, with the score in parentheses.",
        columns=columns("Group", *labels, names=("Group",)),
        rows=tuple(
            (
                one.group,
                *(f"{percent(one.places[name])} ({score(one.scores[name])})" for name in labels),
            )
            for one in agreement.disagreements
        ),
    )
