"""Tables of how far each variant's predictions and answers agree with the baseline's.

Every statistic has its 95 % interval and its noise floor: the same statistic of the baseline
against itself, computed another way. A difference is called one only where the record says that
its interval excludes none (:class:`quantspectrum.artifacts.Figure`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from quantspectrum.artifacts import Fidelity, Figure, Flips, NoiseFloor
from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.numbers import (
    ABSENT,
    count,
    number,
    percent,
    score,
    signed,
    signed_points,
)
from quantspectrum.report.tables import Table, columns

__all__ = [
    "benchmarks_table",
    "distance_table",
    "fidelity_tables",
    "flips_table",
    "noise_table",
    "probability_table",
    "prompt_table",
    "told_apart",
    "yes_no_table",
]


def fidelity_tables(comparison: Comparison) -> tuple[tuple[str, Table | None], ...]:
    """Every table of this module under its heading."""
    return (
        ("Distance from the baseline's predictions", distance_table(comparison)),
        ("Probability of the right token", probability_table(comparison)),
        ("Answers that flipped", flips_table(comparison)),
        ("Yes/no questions", yes_no_table(comparison)),
        ("Answers to the prompts", prompt_table(comparison)),
        ("Benchmarks", benchmarks_table(comparison)),
        ("Noise floors", noise_table(comparison)),
    )


def told_apart(figure: Figure) -> str:
    """``yes`` only where the interval excludes no difference; ``unknown`` without one."""
    if figure.differs is None:
        return "unknown"
    return "yes" if figure.differs else "no"


def _measured(comparison: Comparison) -> Iterator[tuple[ComparisonRow, Fidelity]]:
    """Statistics by profile; those of one kind alone are left out where there is no other."""
    for row in comparison.rows:
        several = len(row.fidelity) > 2
        for found in row.fidelity:
            if several or found.kind == "all":
                yield row, found


def _range(figure: Figure, text: Callable[[float], str]) -> str:
    if figure.low is None or figure.high is None:
        return ABSENT
    return f"{text(figure.low)} to {text(figure.high)}"


def _floor(figure: Figure, text: Callable[[float], str]) -> str:
    return ABSENT if figure.floor is None else text(figure.floor)


def _with_floor(figure: Figure, text: Callable[[float], str]) -> str:
    """A value and its floor: ``2.11e-3 (1.54e-5)``."""
    floor = f" ({text(figure.floor)})" if figure.floor is not None else ""
    return f"{text(figure.value)}{floor}"


def distance_table(comparison: Comparison) -> Table | None:
    """KL divergence by kind of sample, with its tail."""
    found = list(_measured(comparison))
    if not found:
        return None
    kinds = {one.kl_kind for _, one in found}
    exact = {
        frozenset({"exact"}): "Exact, over the whole vocabulary.",
        frozenset({"lower bound"}): "Over the baseline's likeliest tokens with all others as one, "
        "which is a lower bound.",
    }.get(frozenset(kinds), "Some are exact and some lower bounds; the column says which.")
    mixed = len(kinds) > 1
    return Table(
        caption="KL(baseline ‖ variant) of the next-token prediction, in nats per target token: 0 "
        f"where nothing changed. {exact} Intervals are 95 %, from resampling whole samples; in "
        "parentheses and under Floor, the same of the baseline against itself. Above the floor: the "
        "interval of the paired excess over every noise floor excludes zero.",
        columns=columns(
            *("Profile", "Samples", "n", "Mean KL", "95 % interval", "Floor", "Above the floor"),
            *("Median", "99th percentile", "Largest"),
            *(("Kind of KL",) if mixed else ()),
            text=("Profile", "Samples", "Above the floor", "Kind of KL"),
        ),
        rows=tuple(
            (
                row.profile,
                one.kind,
                count(one.samples),
                score(one.kl_mean.value),
                _range(one.kl_mean, score),
                _floor(one.kl_mean, score),
                told_apart(one.kl_mean),
                _with_floor(one.kl_median, score),
                _with_floor(one.kl_p99, score),
                _with_floor(one.kl_max, score),
                *((one.kl_kind,) if mixed else ()),
            )
            for row, one in found
        ),
    )


def probability_table(comparison: Comparison) -> Table | None:
    """Perplexity, change of the right token's probability, and likeliest tokens that stay."""
    found = list(_measured(comparison))
    if not found:
        return None
    return Table(
        caption="Perplexity against the baseline's, Δp (change of the probability of the right "
        "token, in percentage points) and the share of tokens whose likeliest prediction stays, each "
        "with its 95 % interval or its noise floor in parentheses. Differs: the interval excludes no "
        "difference; for the root mean square and the share, the interval of the paired excess over "
        "every noise floor excludes zero.",
        columns=columns(
            *(
                "Profile",
                "Samples",
                "Perplexity",
                "Change of it",
                "95 % interval",
                "Floor",
                "Differs",
            ),
            *("Mean Δp", "Root mean square Δp", "1st to 99th percentile"),
            *("Same likeliest token", "Share differs"),
            text=("Profile", "Samples", "Differs", "Share differs"),
        ),
        rows=tuple(
            (
                row.profile,
                one.kind,
                number(one.perplexity),
                _ratio(one.perplexity_ratio.value),
                _range(one.perplexity_ratio, _ratio),
                _floor(one.perplexity_ratio, _ratio),
                told_apart(one.perplexity_ratio),
                _with_floor(one.delta_p_mean, _points),
                _with_floor(one.delta_p_rms, _size),
                _spread(one),
                _with_floor(one.same_top, percent),
                told_apart(one.same_top),
            )
            for row, one in found
        ),
    )


def _ratio(value: float) -> str:
    """A ratio as its difference from 1, as most are within a hundredth of it: ``+0.013 %``."""
    return f"{signed(100 * (value - 1), 10 * abs(100 * (value - 1)))} %" if value != 1 else "0 %"


def _points(value: float) -> str:
    return signed(100 * value, max(abs(value), 1e-4) * 10)


def _size(value: float) -> str:
    return _points(value).removeprefix("+")


def _spread(one: Fidelity) -> str:
    low, high = (one.delta_p_percentiles.get(key) for key in ("1", "99"))
    return ABSENT if not low or not high else f"{_points(low.value)} to {_points(high.value)}"


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
        _range(flips.accuracy, signed_points),
        told_apart(flips.accuracy),
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


def noise_table(comparison: Comparison) -> Table | None:
    """The baseline against itself, run by run."""
    if not comparison.noise:
        return None
    return Table(
        caption="The baseline against itself, computed another way: what differs here is rounding, "
        "and no variant's smaller difference says anything of quantization.",
        columns=columns(
            *("Run", "Batch size", "Type", "Loss change", "Mean KL", "Same likeliest token"),
            *("Answers changed", "Prompts changed", "Skipped because"),
            text=("Run", "Type", "Skipped because"),
        ),
        rows=tuple(_noise_row(noise) for noise in comparison.noise),
    )


def _noise_row(noise: NoiseFloor) -> tuple[str, ...]:
    whole = next((one for one in noise.fidelity if one.kind == "all"), None)
    return (
        noise.name,
        count(noise.batch_size),
        noise.dtype,
        signed(whole.loss.value) if whole else ABSENT,
        score(whole.kl_mean.value) if whole else ABSENT,
        percent(whole.same_top.value) if whole else ABSENT,
        f"{count(noise.flips.changed)} of {count(noise.flips.compared)}" if noise.flips else ABSENT,
        f"{count(noise.prompts.changed)} of {count(noise.prompts.compared)}"
        if noise.prompts
        else ABSENT,
        noise.skipped or ABSENT,
    )
