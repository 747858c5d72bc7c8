"""Tables of how far each variant's predictions agree with the baseline's.

Every statistic has its 95 % interval and its noise floor: the same statistic of the baseline
against itself, computed another way. A difference is called one only where the record says that
its interval excludes none (:class:`quantspectrum.artifacts.Figure`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from quantspectrum.artifacts import Fidelity, Figure, NoiseFloor
from quantspectrum.report.answers import benchmarks_table, flips_table, prompt_table, yes_no_table
from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.numbers import (
    ABSENT,
    between,
    count,
    number,
    percent,
    score,
    signed,
    yes_no,
)
from quantspectrum.report.tables import Table, columns

__all__ = ["distance_table", "fidelity_tables", "noise_table", "probability_table"]


def fidelity_tables(comparison: Comparison) -> tuple[tuple[str, Table | None], ...]:
    """Every table of predictions and of answers under its heading."""
    return (
        ("Distance from the baseline's predictions", distance_table(comparison)),
        ("Probability of the right token", probability_table(comparison)),
        ("Answers that flipped", flips_table(comparison)),
        ("Yes/no questions", yes_no_table(comparison)),
        ("Answers to the prompts", prompt_table(comparison)),
        ("Benchmarks", benchmarks_table(comparison)),
        ("Noise floors", noise_table(comparison)),
    )


def _measured(comparison: Comparison) -> Iterator[tuple[ComparisonRow, Fidelity]]:
    """Statistics by profile; those of one kind alone are left out where there is no other."""
    for row in comparison.rows:
        several = len(row.fidelity) > 2
        for found in row.fidelity:
            if several or found.kind == "all":
                yield row, found


def _uncertainty(figure: Figure, text: Callable[[float], str]) -> tuple[str, str, str]:
    """Interval, floor, and whether the record says that it differs."""
    floor = ABSENT if figure.floor is None else text(figure.floor)
    return between(figure, text), floor, yes_no(figure.differs)


def _with_floor(figure: Figure, text: Callable[[float], str]) -> str:
    """A value and its floor: ``2.11e-3 (1.54e-5)``."""
    floor = f" ({text(figure.floor)})" if figure.floor is not None else ""
    return f"{text(figure.value)}{floor}"


def distance_table(comparison: Comparison) -> Table | None:
    """KL divergence by kind of sample, with its tail."""
    kinds = {one.kl_kind for _, one in _measured(comparison)}
    exact = {
        frozenset({"exact"}): "Exact, over the whole vocabulary.",
        frozenset({"lower bound"}): "Over the baseline's likeliest tokens with all others as one, "
        "which is a lower bound.",
    }.get(frozenset(kinds), "Some are exact and some lower bounds; the column says which.")
    mixed = len(kinds) > 1
    return _by_kind(
        comparison,
        "KL(baseline ‖ variant) of the next-token prediction, in nats per target token: 0 "
        f"where nothing changed. {exact} Intervals are 95 %, from resampling whole samples; in "
        "parentheses and under Floor, the same of the baseline against itself. Above the floor: the "
        "interval of the paired excess over every noise floor excludes zero.",
        (
            *("n", "Mean KL", "95 % interval", "Floor", "Above the floor"),
            *("Median", "99th percentile", "Largest"),
            *(("Kind of KL",) if mixed else ()),
        ),
        lambda one: (
            count(one.samples),
            score(one.kl_mean.value),
            *_uncertainty(one.kl_mean, score),
            *(_with_floor(figure, score) for figure in (one.kl_median, one.kl_p99, one.kl_max)),
            *((one.kl_kind,) if mixed else ()),
        ),
    )


def probability_table(comparison: Comparison) -> Table | None:
    """Perplexity, change of the right token's probability, and likeliest tokens that stay."""
    return _by_kind(
        comparison,
        "Perplexity against the baseline's, Δp (change of the probability of the right "
        "token, in percentage points) and the share of tokens whose likeliest prediction stays, each "
        "with its 95 % interval or its noise floor in parentheses. Differs: the interval excludes no "
        "difference; for the root mean square and the share, the interval of the paired excess over "
        "every noise floor excludes zero.",
        (
            *("Perplexity", "Change of it", "95 % interval", "Floor", "Differs"),
            *("Mean Δp", "Root mean square Δp", "1st to 99th percentile"),
            *("Same likeliest token", "Share differs"),
        ),
        lambda one: (
            number(one.perplexity),
            _ratio(one.perplexity_ratio.value),
            *_uncertainty(one.perplexity_ratio, _ratio),
            _with_floor(one.delta_p_mean, _points),
            _with_floor(one.delta_p_rms, _size),
            _spread(one),
            _with_floor(one.same_top, percent),
            yes_no(one.same_top.differs),
        ),
    )


def _by_kind(
    comparison: Comparison,
    caption: str,
    titles: tuple[str, ...],
    cells: Callable[[Fidelity], tuple[str, ...]],
) -> Table | None:
    """A row for each profile and kind of sample; ``None`` where nothing was measured."""
    found = list(_measured(comparison))
    if not found:
        return None
    words = ("Profile", "Samples", "Above the floor", "Differs", "Share differs", "Kind of KL")
    return Table(
        caption=caption,
        columns=columns("Profile", "Samples", *titles, text=words),
        rows=tuple((row.profile, one.kind, *cells(one)) for row, one in found),
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
        *(
            f"{count(found.changed)} of {count(found.compared)}" if found else ABSENT
            for found in (noise.flips, noise.prompts)
        ),
        noise.skipped or ABSENT,
    )
