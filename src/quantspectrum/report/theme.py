"""Colours and the parts every figure shares; each colour has a light and a dark value."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

__all__ = [
    "ACCENT",
    "COMPONENTS",
    "DARK",
    "FAINT",
    "FONT",
    "GREY",
    "INK",
    "LONGEST",
    "MUTED",
    "NAMED",
    "POINT",
    "Figure",
    "axis",
    "error_bars",
    "figure",
    "label",
    "log_axis",
]

Figure = dict[str, Any]
"""A Plotly figure as JSON: ``data`` and ``layout``."""

INK = "#1c2126"
MUTED = "#5c6670"
GRID = "#e4e8ec"
FAINT = "#c3cad1"
GREY = "#d3d8dd"
POINT = "#0072b2"
ACCENT = "#d55e00"

LONGEST = 30
"""Characters of a label on an axis or beside a point."""

COMPONENTS = (POINT, ACCENT, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, told apart with any colour vision; labels say the same in words."""

DARK = {
    INK: "#e6e9ec",
    MUTED: "#a0aab4",
    GRID: "#2c343c",
    FAINT: "#4c5762",
    GREY: "#3a434c",
    POINT: "#59b3e6",
    ACCENT: "#f28a3f",
    "#009e73": "#2fc79b",
    "#cc79a7": "#e0a3c6",
    "#56b4e9": "#a5d8f5",
}
"""What the page puts in place of each colour on a dark background."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"

NAMED: dict[str, Any] = {
    "height": 380,
    "showlegend": True,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "font": {"color": INK}},
    "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
}
"""Layout of a figure whose lines or marks are named above it."""


def label(text: str, longest: int | None = None) -> str:
    """Text that came from data, as Plotly shows it literally: its labels read some HTML.

    Args:
        text: The text; white space becomes single spaces.
        longest: Characters beyond which the middle is left out.
    """
    line = " ".join(text.split())
    if longest is not None and len(line) > longest:
        half = (longest - 1) // 2
        line = f"{line[:half]}…{line[-half:]}"
    return html.escape(line, quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Axis with a quiet grid; touching it does not zoom, so that pages scroll on a phone."""
    return {
        "title": {"text": title, "standoff": 12, "font": {"size": 13, "color": MUTED}},
        "gridcolor": GRID,
        "linecolor": FAINT,
        "tickcolor": FAINT,
        "tickfont": {"size": 12, "color": MUTED},
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        **more,
    }


def log_axis(title: str, decades: float, **more: Any) -> dict[str, Any]:
    """Logarithmic axis over so many decades: whole powers of ten, and 2 and 5 where they are few."""
    return axis(
        title,
        type="log",
        exponentformat="power",
        dtick=1 if decades > 2 else "D2",
        # Plotly writes whole powers a quarter larger than this.
        tickfont={"size": 10, "color": MUTED},
        **more,
    )


def figure(data: list[dict[str, Any]], *, height: int, **layout: Any) -> Figure:
    """Figure of the given height in pixels with a transparent background."""
    return {
        "data": data,
        "layout": {
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": INK},
            "showlegend": False,
            "dragmode": False,
            "hovermode": "closest",
            **layout,
        },
    }


def error_bars(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], **more: Any
) -> dict[str, Any]:
    """Bars from ``lows`` to ``highs`` at points of these values."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(high - value, 0) for value, high in zip(values, highs, strict=True)],
        "arrayminus": [max(value - low, 0) for value, low in zip(values, lows, strict=True)],
        "color": MUTED,
        **more,
    }
