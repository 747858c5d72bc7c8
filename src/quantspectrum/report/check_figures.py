"""Figures of what was measured without a checkpoint: rivals, additivity, and the ground truth."""

from __future__ import annotations

import math
from typing import Any

from quantspectrum.artifacts import Additivity, Guard, GuardedProfile, Interval, OrderTruth, Truth
from quantspectrum.report.quality import UNITS
from quantspectrum.report.theme import (
    ACCENT,
    COMPONENTS,
    LONGEST,
    MUTED,
    NAMED,
    Figure,
    axis,
    error_bars,
    figure,
    label,
    log_axis,
)

__all__ = ["additivity_figure", "guard_figure", "truth_figure"]

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def additivity_figure(additivity: Additivity) -> Figure | None:
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
    return _logarithmic(data, "Groups quantized, least sensitive first", UNITS[additivity.metric])


def guard_figure(guard: Guard) -> Figure | None:
    """Damage of each profile beside that of its rivals, on a logarithmic axis; a row a profile."""
    asked = [profile for profile in guard.profiles if profile.rivals]
    rows = [(y, _damages(profile)) for y, profile in enumerate(asked)]
    positive = [v for _, found in rows for kind in found.values() for v in kind if v > 0]
    if not positive:
        return None
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [v if v > 0 else None for _, found in rows for v in found.get(kind, ())],
            "y": [y for y, found in rows for _ in found.get(kind, ())],
            "marker": {"size": size, "symbol": symbol, "color": color, "line": {"width": 1.5}},
            "hovertemplate": "%{x:.3g}",
        }
        for kind, name, size, symbol, color in _CHOICES
        if any(kind in found for _, found in rows)
    ]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    room = 0.06 * (high - low) + 0.05
    layout = NAMED | {"height": 150 + 46 * len(asked)}
    return figure(
        data,
        **layout,
        xaxis=log_axis(
            f"{UNITS[guard.quantity]}: less is better", high - low, range=[low - room, high + room]
        ),
        yaxis=axis(
            "",
            tickvals=[y for y, _ in rows],
            ticktext=[label(profile.name, LONGEST) for profile in asked],
            range=[len(asked) - 0.5, -0.5],
        ),
    )


_CHOICES = (
    ("uniform", "spread evenly", 10, "square-open", MUTED),
    ("random", "random", 10, "circle-open", MUTED),
    ("inverted", "most sensitive first", 11, "triangle-up-open", MUTED),
    ("profile", "the profile", 13, "diamond", ACCENT),
)
"""Kinds of choice, least worth a look first, as later marks lie on earlier ones."""


def _damages(profile: GuardedProfile) -> dict[str, list[float]]:
    """Damages of a profile and of its rivals by their kind."""
    found = {"profile": [profile.damage.value]}
    for rival in profile.rivals:
        more = rival.more_damage.value
        found.setdefault(rival.kind, []).append(profile.damage.value + more)
    return found


def truth_figure(truth: Truth) -> Figure | None:
    """KL by share of bytes, a line for each order."""
    data = []
    for number, order in enumerate(sorted(truth.orders, key=_by_chance)):
        points = [point for point in order.curve if point.kl.value > 0]
        if not points:
            continue
        line = _line(
            order.label, [100 * p.share for p in points], [p.kl.value for p in points], number
        )
        if _by_chance(order):
            # Chance is one quiet thing, beside the orders that are to be told apart.
            line |= {"line": {"color": MUTED, "width": 1}, "mode": "lines", "name": "random"}
            line |= {"showlegend": order.label == "random 1"}
        else:
            line |= {"error_y": _errors([p.kl for p in points])}
        data.append(line)
    if not data:
        return None
    return _logarithmic(data, "Share of bytes quantized (%), by each order", UNITS["kl"])


def _by_chance(order: OrderTruth) -> bool:
    return order.kind == "yardstick" and order.label.startswith("random")


def _line(name: str, x: list[Any], y: list[float], number: int) -> dict[str, Any]:
    """A line told from others by colour, dashes and marks alike."""
    # Each round through the colours shifts dashes and marks: 36 lines until two are alike.
    turn, place = divmod(number, len(COMPONENTS))
    color = COMPONENTS[place]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name, 40),
        "x": x,
        "y": [value if value > 0 else None for value in y],
        "line": {"color": color, "width": 2, "dash": _DASHES[(number + turn) % len(_DASHES)]},
        "marker": {"color": color, "size": 8, "symbol": _SYMBOLS[(number + turn) % len(_SYMBOLS)]},
        "hovertemplate": "%{x}: %{y:.3g}",
    }


def _errors(found: list[Interval]) -> dict[str, Any]:
    values = [one.value for one in found]
    lows = [
        # A bar that reaches 0 or below has no end on a logarithmic axis: it stays above.
        max(one.value if one.low is None else one.low, one.value - 0.95 * abs(one.value))
        for one in found
    ]
    highs = [one.value if one.high is None else one.high for one in found]
    return error_bars(values, lows, highs, thickness=1, width=4)


def _logarithmic(data: list[dict[str, Any]], across: str, up: str) -> Figure:
    drawn = [value for line in data for value in line["y"] if value is not None]
    # A phone has a line of its own for each name.
    layout = NAMED | {"height": 340 + 20 * len(data)}
    return figure(
        data,
        **layout,
        xaxis=axis(across, rangemode="tozero"),
        yaxis=log_axis(up, math.log10(max(drawn) / min(drawn))),
    )
