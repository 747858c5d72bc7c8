"""Figures of rivals and of the ground truth, and the matrix of lenses, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import report_measured as measured
from report_measured import around, guard, guarded

from quantspectrum.artifacts import GuardedProfile, RankInterval
from quantspectrum.report.check_figures import guard_figure, truth_figure
from quantspectrum.report.lenses import MOST_NARROW, Matrix, matrix_figure
from quantspectrum.report.marks import SQUARE_TAG


def traces(figure: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    assert figure is not None
    return {trace["name"]: trace for trace in figure["data"]}


def test_rivals_stand_in_the_row_of_their_profile() -> None:
    drawn = traces(guard_figure(guard(guarded("mild", "beats"), guarded("medium", "beats"))))
    assert list(drawn) == ["spread evenly", "random", "the profile"]
    # The baseline quantizes nothing, has no rivals, and no row.
    assert drawn["the profile"]["y"] == drawn["random"]["y"] == [0, 1]
    more = measured.rival("random", "beats").more_damage.value
    own = guarded("mild", "beats").damage.value
    assert drawn["the profile"]["x"] == [own, own]
    assert drawn["random"]["x"] == pytest.approx([own + more] * 2)
    # Told apart without colour.
    assert len({trace["marker"]["symbol"] for trace in drawn.values()}) == 3


def test_without_rivals_or_damage_there_is_no_figure() -> None:
    assert guard_figure(guard()) is None
    none = GuardedProfile(
        name="mild",
        reading=measured.reading(3),
        damage=around(0, 0),
        rivals=(
            measured.rival("random", "beats").model_copy(update={"more_damage": around(0, 0)}),
        ),
        beats_all=False,
    )
    assert guard_figure(guard(none)) is None


def test_a_damage_of_nothing_has_no_place_on_the_axis() -> None:
    perfect = guarded("mild", "beats").model_copy(update={"damage": around(0, 0)})
    drawn = traces(guard_figure(guard(perfect)))
    assert drawn["the profile"]["x"] == [None]


def test_chance_is_named_once_and_orders_are_told_apart_without_colour() -> None:
    truth = measured.truth()
    order = next(one for one in truth.orders if one.kind == "lens")
    chance = order.model_copy(update={"kind": "yardstick"})
    many = [order.model_copy(update={"label": f"lens {n}"}) for n in range(14)]
    draws = [chance.model_copy(update={"label": f"random {n}"}) for n in (1, 2, 3)]
    figure = truth_figure(truth.model_copy(update={"orders": (*draws, *many)}))
    assert figure is not None
    named = [trace for trace in figure["data"] if trace.get("showlegend", True)]
    assert [trace["name"] for trace in named] == [f"lens {n}" for n in range(14)] + ["random"]
    looks = {
        (t["line"]["color"], t["line"]["dash"], t["marker"]["symbol"])
        for t in named
        if "error_y" in t
    }
    assert len(looks) == 14


@pytest.mark.parametrize("lenses", [2, MOST_NARROW, MOST_NARROW + 1])
def test_the_numbers_of_many_lenses_leave_a_narrow_matrix(lenses: int) -> None:
    labels = tuple(f"lens {n}" for n in range(lenses))
    pairs = {
        (a, b): (RankInterval(value=-0.5), 9) for i, a in enumerate(labels) for b in labels[i + 1 :]
    }
    layout = matrix_figure(Matrix(labels=labels, pairs=pairs, resampled=False))["layout"]
    assert len(layout["annotations"]) == lenses**2
    aside = {note["name"] == SQUARE_TAG for note in layout["annotations"]}
    assert aside == {lenses > MOST_NARROW}
    assert {(n["text"], n["font"]["color"]) for n in layout["annotations"]} == {
        ("1.00", "#000000"),
        ("−0.50", "#ffffff"),
    }
    assert layout["yaxis"]["ticktext"][0] == "1 · lens 0"
    assert layout["xaxis"]["ticktext"] == [str(n + 1) for n in range(lenses)]
