"""Names beside the points of a figure, and lines across it."""

from __future__ import annotations

from typing import Any

from quantspectrum.report.theme import INK, LONGEST, label

__all__ = ["ASIDE_TAG", "NAME_TAG", "SQUARE_TAG", "level", "level_text", "name_beside"]

NAME_TAG = "profile"
"""Marks the labels that the page turns where they would run into each other."""

ASIDE_TAG = "aside"
"""Marks the labels that phones and paper leave out, as the caption says the same."""

SQUARE_TAG = "square"
"""Marks the numbers in squares that are too narrow for them on a phone."""


def name_beside(x: float, y: float, text: str, *, below: bool = False) -> dict[str, Any]:
    """Name of a profile to the right of its point, above or below it."""
    return {
        "name": NAME_TAG,
        "x": x,
        "y": y,
        "text": label(text, LONGEST),
        "showarrow": False,
        "xanchor": "left",
        "yanchor": "top" if below else "bottom",
        "xshift": 8,
        "yshift": -1 if below else 1,
        "font": {"size": 14, "color": INK},
    }


def level(y: float, color: str, dash: str = "solid") -> dict[str, Any]:
    """Line across the plot."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "layer": "between",
        "line": {"color": color, "width": 1.25, "dash": dash},
    }


def level_text(y: float, text: str, color: str, *, right: bool = False) -> dict[str, Any]:
    """Text at an end of the line; on the left, the axis leaves room before the first point."""
    return {
        "name": ASIDE_TAG if right else "",
        "xref": "paper",
        "x": 1 if right else 0,
        "xanchor": "right" if right else "left",
        "yanchor": "bottom",
        "y": y,
        "text": text,
        "showarrow": False,
        "font": {"size": 12, "color": color},
    }
