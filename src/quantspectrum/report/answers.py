"""Tables of how far each variant's answers agree with the baseline's.

A difference is called one only where the record says that its interval excludes none
(:class:`quantspectrum.artifacts.Figure`).
"""

from __future__ import annotations

from quantspectrum.artifacts import Flips
from quantspectrum.report.comparison import Comparison
from quantspectrum.report.numbers import (
    ABSENT,
    between,
    count,
    percent,
    signed_points,
    yes_no,
)
from quantspectrum.report.tables import Table, columns

__all__ = ["benchmarks_table", "flips_table", "prompt_table", "yes_no_table"]


def flips_table(comparison: Comparison) -> Table | None:
    """Answers with a reference that changed, were lost or won, with McNemar's test."""
    rows = [
        (row.profile, what, *_flip_cells(flips))
        for row in comparison.rows
        for what, flips in (("answers", row.flips), ("yes/no", row.yes_no_flips))
        if flips is not None
    ]
    if not rows:
        return None
    return Table(
        caption="Changed: answers that are not the baseline's, right or wrong. Lost and won: right "
        "in one of the two only; p is McNemar's exact test that both ways are as likely. In "
        "parentheses, the largest count of the baseline against itself.",
        columns=columns(
            *("Profile", "Questions", "n", "Changed", "Lost", "Won", "Flips at the floor", "p"),
            *("Accuracy (points)", "95 % interval", "Differs"),
            text=("Profile", "Questions", "Differs"),
        ),
        rows=tuple(rows),
    )


def _flip_cells(flips: Flips) -> tuple[str, ...]:
    floor = f" ({count(flips.floor_changed)})" if flips.floor_changed is not None else ""
    return (
        count(flips.compared),
        f"{count(flips.changed)}{floor}",
        count(flips.lost),
        count(flips.won),
        count(flips.floor_flips),
        f"{flips.p_value:.3g}",
        signed_points(flips.accuracy.value),
        between(flips.accuracy, signed_points),
        yes_no(flips.accuracy.differs),
    )


def yes_no_table(comparison: Comparison) -> Table | None:
    """Yes/no questions by logits and by answer."""
    every = [row for row in (comparison.baseline, *comparison.rows) if row and row.yes_no]
    rows = []
    for row in every:
        assert row.yes_no is not None
        for how, found in (("logits", row.yes_no.by_logits), ("answer", row.yes_no.by_answer)):
            error = f" ± {100 * found.stderr:.1f}" if found.stderr is not None else ""
            rows.append(
                (
                    row.profile,
                    how,
                    count(row.yes_no.questions),
                    f"{100 * found.accuracy:.1f}{error} %",
                    *(
                        ABSENT if value is None else f"{value:.3f}"
                        for value in (found.precision, found.recall, found.f1)
                    ),
                    percent(found.yes_rate),
                    count(found.undecided),
                )
            )
    if not rows:
        return None
    return Table(
        caption="Yes/no questions, yes being the positive class; ± is one standard error, "
        "clustered by picture. Read by the next token's logits and by the words of the answer. "
        "Whether an accuracy differs from the baseline's is under the answers that flipped.",
        columns=columns(
            *("Profile", "Read by", "n", "Accuracy", "Precision", "Recall", "F1", "Says yes"),
            "Neither",
            text=("Profile", "Read by"),
        ),
        rows=tuple(rows),
    )


def prompt_table(comparison: Comparison) -> Table | None:
    """How much of the prompts' answers stayed, in tokens."""
    rows = [
        (
            row.profile,
            count(found.compared),
            count(found.changed),
            count(found.floor_changed),
            f"{found.similarity:.3f}",
            ABSENT if found.floor_similarity is None else f"{found.floor_similarity:.3f}",
        )
        for row in comparison.rows
        if (found := row.prompt_fidelity) is not None
    ]
    if not rows:
        return None
    return Table(
        caption="Greedy answers to the prompts against the baseline's, token by token. Similarity "
        "is one minus the edit distance over the longer length. Floors are of the baseline against "
        "itself. So few prompts show what changes, not how often.",
        columns=columns(
            *("Profile", "Prompts", "Changed", "Changed at the floor", "Similarity"),
            "Similarity at the floor",
            text=("Profile",),
        ),
        rows=tuple(rows),
    )


def benchmarks_table(comparison: Comparison) -> Table | None:
    """Metrics of benchmark harnesses, as they report them."""
    rows = [
        (
            row.profile,
            f"{found.harness} {found.harness_version}",
            found.task,
            metric,
            f"{value:.4f}" + (f" ± {found.stderr[metric]:.4f}" if metric in found.stderr else ""),
            count(found.samples),
            count(found.fewshot),
        )
        for row in (comparison.baseline, *comparison.rows)
        if row is not None
        for found in row.benchmarks
        for metric, value in found.metrics.items()
    ]
    if not rows:
        return None
    return Table(
        caption="As the harness reports them; ± is its standard error, of one model by itself: two "
        "rows do not differ because these do not overlap, nor are they the same because they do.",
        columns=columns(
            *("Profile", "Harness", "Task", "Metric", "Value", "n", "Few-shot"),
            text=("Profile", "Harness", "Task", "Metric"),
        ),
        rows=tuple(rows),
    )
