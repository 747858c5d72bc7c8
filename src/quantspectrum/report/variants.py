"""Tables about the variants: loss, distance, answers, size and latency of each against the baseline."""

from __future__ import annotations

from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.fidelity import fidelity_tables
from quantspectrum.report.numbers import (
    ABSENT,
    LEAST_LOSS,
    between,
    count,
    number,
    percent,
    plural,
    relative,
    score,
    signed,
    signed_points,
    with_error,
    yes_no,
)
from quantspectrum.report.pairs import AccuracyDifference, LossDifference
from quantspectrum.report.recommendation import within_tolerance
from quantspectrum.report.resources import (
    EMULATED,
    LATENCY,
    all_rows,
    latency_table,
    matmuls_table,
    memory_table,
    rules_table,
    size_table,
    state_of,
)
from quantspectrum.report.tables import Table, columns

__all__ = [
    "EMULATED",
    "LATENCY",
    "answers_table",
    "divergence_table",
    "kinds_table",
    "latency_table",
    "loss_table",
    "size_table",
    "variant_tables",
]

DISTANCE = "Distance from the baseline's predictions"
"""Heading of the table of older evaluations."""


def variant_tables(comparison: Comparison) -> tuple[tuple[str, Table], ...]:
    """Every table about the variants under its heading; those with nothing to say are left out."""
    found = (
        ("Profiles", size_table(comparison)),
        ("Rules of the profiles", rules_table(comparison)),
        ("Loss", loss_table(comparison)),
        ("Loss by kind of sample", kinds_table(comparison)),
        ("Answers", answers_table(comparison)),
        (DISTANCE, divergence_table(comparison)),
        *fidelity_tables(comparison),
        ("Stored bytes and memory", memory_table(comparison)),
        (LATENCY, latency_table(comparison)),
        ("Matrix products of a forward pass", matmuls_table(comparison)),
    )
    return tuple((heading, table) for heading, table in found if table is not None and table.rows)


def loss_table(comparison: Comparison) -> Table:
    """Loss of the baseline and each variant, with the paired change."""
    rows = tuple(
        (
            row.profile,
            with_error(row.loss, row.loss_stderr) if row.evaluated else state_of(row),
            *_loss_cells(row.paired, _loss_floor(row, "all")),
        )
        for row in all_rows(comparison)
    )
    said = ["Loss per target token in nats; lower is better."]
    first = next((row for row in all_rows(comparison) if row.evaluated), None)
    if first is not None:
        said.append(
            f"n = {plural(first.samples or 0, 'sample')}, {plural(first.tokens or 0, 'token')}."
        )
    said.append(
        "± is one standard error, clustered by sample. Changes are paired, variant minus baseline "
        "on the same samples; the floor is the change of the baseline against itself. Relative to a "
        f"loss below {LEAST_LOSS} the change is given in nats, as a share of so little says nothing."
        if comparison.baseline
        else "The baseline was not evaluated, so no change can be given."
    )
    return Table(
        caption=" ".join(said),
        columns=columns(
            "Profile", "Loss", *_LOSS_TITLES, text=("Profile", "Differs", "Upper bound ≤ 1 %")
        ),
        rows=rows,
    )


_LOSS_TITLES = ("Change", "95 % interval", "Floor", "Relative", "Differs", "Upper bound ≤ 1 %")


def divergence_table(comparison: Comparison) -> Table | None:
    """KL divergence by evaluations of schema 1, which have no statistics per token."""
    found = [
        (row, row.divergence)
        for row in comparison.rows
        if row.divergence is not None and not row.fidelity
    ]
    if not found:
        return None
    return Table(
        caption="KL(baseline ‖ variant) of the next-token prediction, in nats per target token: 0 "
        "where nothing changed. ± is one standard error, clustered by sample. Evaluations of an "
        "older release: over the baseline's 64 likeliest tokens and all others as one, which is a "
        "lower bound, and without a noise floor.",
        columns=columns(
            "Profile", "KL", "95 % interval", "Same likeliest token", text=("Profile",)
        ),
        rows=tuple(
            (
                row.profile,
                f"{score(kl.value)} ± {score(kl.stderr)}" if kl.stderr else score(kl.value),
                between(kl, _positive),
                percent(kl.same_top),
            )
            for row, kl in found
        ),
    )


def _positive(value: float) -> str:
    """An end of a divergence's interval, which cannot be negative."""
    return score(max(value, 0.0))


def _loss_floor(row: ComparisonRow, kind: str) -> float | None:
    found = row.over(kind)
    return found.loss.floor if found is not None else None


def _loss_cells(paired: LossDifference | None, noise: float | None) -> tuple[str, ...]:
    if paired is None:
        return (ABSENT,) * 6
    floor = ABSENT if noise is None else signed(noise)
    change = signed(paired.value, paired.stderr)
    rate = relative(paired.value, paired.baseline)
    if paired.stderr is None or paired.low is None or paired.high is None:
        return change, "unknown (one sample)", floor, rate, "unknown", "unknown"
    interval = between(paired, lambda value: signed(value, paired.stderr))
    differs = "no"
    if paired.differs:
        differs = "yes, worse" if paired.value > 0 else "yes, better"
        # Known not to be 0, and still no more than the baseline differs from itself.
        differs += ", within the floor" if noise and abs(paired.value) <= abs(noise) else ""
    change = f"{change} ± {signed(paired.stderr, paired.stderr).removeprefix('+')}"
    return change, interval, floor, rate, differs, yes_no(within_tolerance(paired))


def kinds_table(comparison: Comparison) -> Table | None:
    """Paired loss change by kind of sample; ``None`` where there are not two kinds."""
    found = [(row, kind, d) for row in comparison.rows for kind, d in row.by_kind.items()]
    if len({kind for _, kind, _ in found}) < 2:
        return None
    return Table(
        caption="The same change for each kind of sample by itself.",
        columns=columns(
            "Profile",
            "Samples",
            "n",
            "Baseline loss",
            *_LOSS_TITLES,
            text=("Profile", "Samples", "Differs", "Upper bound ≤ 1 %"),
        ),
        rows=tuple(
            (
                row.profile,
                kind,
                count(d.n),
                number(d.baseline),
                *_loss_cells(d, _loss_floor(row, kind)),
            )
            for row, kind, d in found
        ),
    )


def answers_table(comparison: Comparison) -> Table | None:
    """Accuracy, flipped answers and changed prompts; ``None`` where none was measured."""
    rows = all_rows(comparison)
    if all(row.accuracy is None and row.prompts is None for row in rows):
        return None
    judged = next((row.paired_accuracy.n for row in rows if row.paired_accuracy), None)
    said = [
        "Accuracy is the share of generated answers equal to a reference, ± one standard error;"
    ]
    said.append("its change is paired, in percentage points.")
    if judged is not None:
        said.append(f"n = {count(judged)} judged answers.")
    if any(a and a.lost + a.won == 0 for a in (row.paired_accuracy for row in rows)):
        assert judged is not None
        bound = percent(min(3 / judged, 1.0))
        said.append(
            "Where no answer flipped the error is 0 by its formula, which does not rule out that "
            f"up to {bound} of answers flip (rule of three, 95 %)."
        )
    return Table(
        caption=" ".join(said),
        columns=columns(
            "Profile",
            "Accuracy",
            "Change (points)",
            "Differs",
            "Right → wrong",
            "Wrong → right",
            "Prompts answered differently",
            text=("Profile", "Differs"),
        ),
        rows=tuple((row.profile, *_answer_cells(row)) for row in rows),
    )


def _answer_cells(row: ComparisonRow) -> tuple[str, ...]:
    accuracy = ABSENT
    if row.accuracy is not None:
        accuracy = f"{100 * row.accuracy:.1f}"
        if row.accuracy_stderr is not None:
            accuracy += f" ± {100 * row.accuracy_stderr:.1f}"
        accuracy += " %"
    changed = f"{row.prompts.changed} of {row.prompts.compared}" if row.prompts else ABSENT
    return accuracy, *_flip_cells(row.paired_accuracy), changed


def _flip_cells(paired: AccuracyDifference | None) -> tuple[str, ...]:
    if paired is None:
        return (ABSENT,) * 4
    change, differs = signed_points(paired.value), "unknown"
    if paired.stderr is not None:
        change += f" ± {100 * paired.stderr:.1f}"
        differs = "no"
    if paired.differs:
        differs = "yes, better" if paired.value > 0 else "yes, worse"
    return change, differs, count(paired.lost), count(paired.won)
