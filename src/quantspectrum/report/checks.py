"""Whether the ranking earned its profiles: guard, additivity, quality search, ground truth."""

from __future__ import annotations

from typing import Any

from quantspectrum.report.measured import (
    AdditivityRead,
    GuardRead,
    IntervalRead,
    SearchRead,
    TruthRead,
)
from quantspectrum.report.numbers import (
    ABSENT,
    count,
    duration,
    minus,
    percent,
    plural,
    score,
    size,
)
from quantspectrum.report.tables import Table, columns
from quantspectrum.report.theme import COMPONENTS, INK, MUTED, Figure, axis, figure, label

__all__ = [
    "additivity_figure",
    "additivity_sentence",
    "additivity_table",
    "guard_sentence",
    "guard_table",
    "search_sentence",
    "search_table",
    "truth_figure",
    "truth_sentence",
    "truth_tables",
]

_UNITS = {
    "kl": "KL in nats per token",
    "nll": "change of the loss in nats per token",
    "nll_relative": "change of the loss as a share of it",
    "accuracy": "exact match lost",
    "mse_v2": "relative squared error of the output",
}

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def _unit(quantity: str) -> str:
    return _UNITS.get(quantity, quantity)


def _interval(found: IntervalRead | None) -> str:
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return score(found.value)
    return f"{score(found.value)} ({score(found.low)} to {score(found.high)})"


def guard_sentence(guard: GuardRead) -> str:
    """Which profiles are not better than rivals of their size that were not chosen by the ranking."""
    asked = [found for found in guard.profiles if found.beats_all is not None]
    failing = [found.name for found in asked if not found.beats_all]
    if not asked:
        said = "No profile has a rival of its size to be compared with."
    elif failing:
        said = (
            f"Not better than every rival of equal size: {', '.join(failing)}. There the ranking of "
            f"{guard.lens} is not shown to help."
        )
    else:
        said = "Every profile with rivals of equal size beats all of them."
    if not guard.held_out:
        said += " It was not checked that the ranking never saw these samples."
    return said


def guard_table(guard: GuardRead) -> Table:
    """A row for each profile and rival."""
    return Table(
        caption=f"Profiles beside rivals of equal size; damage is the {_unit(guard.quantity)}, with "
        "its 95 % interval. A rival is beaten where the interval of the paired difference lies "
        "above zero.",
        columns=columns(
            *("Profile", "Damage", "Rival", "More damage than the profile", "Verdict"),
            text=("Profile", "Rival", "Verdict"),
        ),
        rows=tuple(
            row
            for found in guard.profiles
            for row in (
                (
                    found.name,
                    _interval(found.damage),
                    ABSENT,
                    ABSENT,
                    guard.verdict(found.name) or "",
                ),
                *(
                    (
                        found.name,
                        ABSENT,
                        rival.kind if rival.seed is None else f"{rival.kind} {rival.seed}",
                        _interval(rival.more_damage),
                        rival.verdict,
                    )
                    for rival in found.rivals
                ),
            )
        ),
    )


def additivity_sentence(additivity: AdditivityRead) -> str:
    """How far sums of single damages foretell the damage of many."""
    fit = additivity.fit
    if fit.slope is None or fit.r2 is None:
        return "Too few points with positive damage to say how far damages add up."
    said = (
        f"Measured damage grows as predicted damage to the power {fit.slope:.2f} (line through the "
        f"logarithms of {plural(fit.points, 'point')}, R² {fit.r2:.2f}; 1 where damages add up)"
    )
    if fit.relative_error_median is None:
        return f"{said}; predicted and measured are in different units."
    return f"{said}; in the median a prediction is off by {percent(fit.relative_error_median)}."


def additivity_table(additivity: AdditivityRead) -> Table:
    """A row for each point of the curve."""
    return Table(
        caption="The least sensitive groups quantized together: sum of their single scores, and what "
        f"was measured ({_unit(additivity.metric)}, with its 95 % interval).",
        columns=columns("Groups", "Share", "Predicted", "Measured"),
        rows=tuple(
            (count(p.groups), percent(p.share), score(p.predicted), _interval(p.measured))
            for p in additivity.points
        ),
    )


def additivity_figure(additivity: AdditivityRead) -> Figure | None:
    """Predicted and measured damage by groups quantized, on a logarithmic axis."""
    points = [p for p in additivity.points if p.predicted > 0 or p.measured.value > 0]
    if not points:
        return None
    groups = [p.groups for p in points]
    measured = [p.measured for p in points]
    data = [
        _line("predicted", groups, [p.predicted for p in points], 0),
        _line("measured", groups, [m.value for m in measured], 1) | {"error_y": _errors(measured)},
    ]
    return _logarithmic(data, "Groups quantized, least sensitive first", _unit(additivity.metric))


def search_sentence(search: SearchRead) -> str:
    """What the search found, and how it does on samples it never saw."""
    said = f"Budget {search.budget.text}: {search.profile.rule or 'nothing kept to it'}."
    held = search.held_out_judged
    if held is not None:
        over = " — OVER the budget" if held.value > search.budget.limit else ""
        said += f" On samples that the search never saw: {_interval(held)}{over}."
    return said


def search_table(search: SearchRead) -> Table:
    """A row for each profile that was tried."""
    return Table(
        caption=f"Profiles measured in search of {search.budget.text}: "
        f"{_unit(search.budget.quantity)}, at most {score(search.budget.limit)}.",
        columns=columns(
            *("Trial", "Step", "Groups", "Weights", "Judged", "KL", "Loss change", "Keeps to it"),
            text=("Step", "Keeps to it"),
        ),
        rows=tuple(
            (
                count(trial.number),
                trial.step,
                count(trial.reading.groups),
                size(trial.reading.weight_bytes),
                _interval(trial.judged),
                _interval(trial.reading.kl),
                _interval(trial.reading.nll),
                "yes" if trial.meets else "no",
            )
            for trial in search.trials
        ),
    )


def truth_sentence(truth: TruthRead) -> str:
    """Which lens foresaw best, and what none could exceed."""
    said = f"Measured on {plural(truth.samples, 'sample')}"
    said += "" if truth.held_out else ", not checked to be held out"
    if truth.best is not None:
        said += f"; the smallest area under the curve is that of {truth.best}"
    if truth.ceiling is not None:
        said += (
            f"; no lens can be expected to exceed a rank correlation of {truth.ceiling:.2f}, the "
            "measured damages' own repeatability"
        )
    return f"{said}."


def truth_tables(truth: TruthRead) -> tuple[Table, ...]:
    """The orders beside each other, and the points of their curves."""
    orders = Table(
        caption="Every order of the groups: rank correlation with the measured damages, and the area "
        "under the curve of KL over the share of bytes quantized (nats per token; smaller is "
        "better), alone and less the best lens's, paired over samples.",
        columns=columns(
            *("Order", "Kind", "Spearman", "Area", "More than the best", "Differs", "Time"),
            text=("Order", "Kind", "Differs"),
        ),
        rows=tuple(
            (
                order.label,
                order.kind,
                ABSENT
                if order.spearman is None or order.spearman.value is None
                else rank_text(order.spearman.value, order.spearman.low, order.spearman.high),
                _interval(order.area),
                _interval(order.area_more),
                _excludes_zero(order.area_more),
                duration(order.seconds),
            )
            for order in truth.orders
        ),
    )
    curves = Table(
        caption="Points of the curves: KL in nats per token with its 95 % interval.",
        columns=columns("Order", "Share of bytes", "Groups", "KL", text=("Order",)),
        rows=tuple(
            (order.label, percent(point.share), count(point.groups), _interval(point.kl))
            for order in truth.orders
            for point in order.curve
        ),
    )
    return orders, curves


def _excludes_zero(found: IntervalRead | None) -> str:
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return "unknown"
    return "yes" if found.low > 0 or found.high < 0 else "no"


def rank_text(value: float, low: float | None, high: float | None) -> str:
    """A rank correlation with its interval: ``0.93 (0.90 to 0.95)``."""
    said = minus(f"{value:.2f}")
    return (
        said
        if low is None or high is None
        else f"{said} ({minus(f'{low:.2f}')} to {minus(f'{high:.2f}')})"
    )


def truth_figure(truth: TruthRead) -> Figure | None:
    """KL by share of bytes, a line for each order."""
    data = []
    for number, order in enumerate(truth.orders):
        points = [point for point in order.curve if point.kl.value > 0]
        if points:
            line = _line(
                order.label, [100 * p.share for p in points], [p.kl.value for p in points], number
            )
            data.append(line | {"error_y": _errors([p.kl for p in points])})
    if not data:
        return None
    return _logarithmic(data, "Share of bytes quantized (%), by each order", _unit("kl"))


def _line(name: str, x: list[Any], y: list[float], number: int) -> dict[str, Any]:
    """A line told from others by colour, dashes and marks alike."""
    color = COMPONENTS[number % len(COMPONENTS)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name, 40),
        "x": x,
        "y": [value if value > 0 else None for value in y],
        "line": {"color": color, "width": 2, "dash": _DASHES[number % len(_DASHES)]},
        "marker": {"color": color, "size": 8, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
        "hovertemplate": "%{x}: %{y:.3g}",
    }


def _errors(found: list[IntervalRead]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max((f.high if f.high is not None else f.value) - f.value, 0) for f in found],
        "arrayminus": [
            # A bar that reaches 0 or below has no end on a logarithmic axis: it stays above.
            min(max(f.value - (f.low if f.low is not None else f.value), 0), 0.95 * abs(f.value))
            for f in found
        ],
        "color": MUTED,
        "thickness": 1,
        "width": 4,
    }


def _logarithmic(data: list[dict[str, Any]], across: str, up: str) -> Figure:
    return figure(
        data,
        height=380,
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "font": {"color": INK}},
        margin={"l": 56, "r": 16, "t": 48, "b": 48},
        xaxis=axis(across, rangemode="tozero"),
        yaxis=axis(up, type="log", exponentformat="power"),
    )
