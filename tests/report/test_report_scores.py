"""What a ranking says of each score: its kind, unit, ties and parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import report_runs as runs
from report_pages import column
from report_runs import of

from quantspectrum.artifacts import (
    SensitivityReport,
)
from quantspectrum.report.coverage import components_table
from quantspectrum.report.damage import cut_table, damage_curve, steps_table
from quantspectrum.report.figures import damage_figure, ranking_figure
from quantspectrum.report.grids import grid_table, grids
from quantspectrum.report.quantities import quantity_of
from quantspectrum.report.ranking import header_sentence, ranking_table, ties_sentence
from quantspectrum.report.ties import Ties, ties_of
from quantspectrum.report.variants import size_table
from quantspectrum.sensitivity import METRICS, PASSES

UNITS = {
    "mse_v2": "relative squared error",
    "kl": "nats per token",
    "nll": "nats per token",
    "visibility": "nats per token",
    "sqnr": "noise to signal",
    "hawq_v2": "loss",
}


def tied(*pairs: bool | None, **more: Any) -> SensitivityReport:
    """A report whose neighbouring ranks are tied as given."""
    made = of(*range(len(pairs) + 1, 0, -1), **more)
    ops = [
        op.model_copy(update={"tied_with_next": pair})
        for op, pair in zip(made.ops, (*pairs, None), strict=True)
    ]
    return made.model_copy(update={"ops": tuple(ops)})


class TestTies:
    def test_marks_name_the_neighbours(self) -> None:
        table = ranking_table(tied(True, True, False, False))
        assert column(table, "Tied with rank") == ["2", "1, 3", "2", "none", "none"]
        assert "paired difference" in table.caption

    def test_a_neighbour_that_cannot_be_judged_is_not_called_apart(self) -> None:
        table = ranking_table(tied(True, None, False))
        assert column(table, "Tied with rank") == ["2", "1", "—", "none"]

    def test_the_sentence_counts_the_pairs(self) -> None:
        assert ties_sentence(tied(True, True, False, None)) == (
            "2 of 3 neighbouring pairs of ranks cannot be told apart at 95 % (paired differences). "
            "1 more pair cannot be judged, for want of an error."
        )
        assert ties_sentence(tied(False)).startswith("0 of 1 neighbouring pair of ranks")
        assert ties_of(tied(True, None).ops).counts() == "1 of 1"

    def test_without_errors_nothing_is_judged(self) -> None:
        made = of(2.0, 1.9, stderr=None)
        assert ties_sentence(made).startswith("No neighbouring ranks can be told apart or called")
        assert ties_of(made.ops).counts() == "—"
        assert column(ranking_table(made), "Tied with rank") == ["—", "—"]

    def test_one_op_has_no_neighbour(self) -> None:
        assert ties_sentence(of(1.0)) == ""
        assert column(ranking_table(of(1.0)), "Tied with rank") == ["—"]
        assert ties_of(()) == Ties(pairs=(), paired=False)

    def test_a_report_without_marks_is_judged_by_its_errors(self) -> None:
        # 2 * sqrt(0.1^2 + 0.1^2) = 0.2828.
        made = of(2.0, 1.0, 0.8, 0.6, 0.1)
        assert ties_of(made.ops).pairs == (False, True, True, False)
        assert column(ranking_table(made), "Tied with rank") == ["none", "3", "2, 4", "3", "none"]
        assert "standard errors taken as independent" in ties_sentence(made)
        assert "2·√(se₁² + se₂²)" in ranking_table(made).caption

    def test_a_score_without_an_error_is_tied_to_none(self) -> None:
        first, second, third = of(2.0, 1.9, 1.8).ops
        ops = (first, second, third.model_copy(update={"stderr": None}))
        assert ties_of(ops).pairs == (True, None)


class TestKinds:
    def test_each_op_says_whether_it_was_measured(self) -> None:
        table = ranking_table(runs.detailed(of(3.0, 2.0, 1.0), estimated=1))
        kinds = ["measured", "measured", "estimated (native:visibility)"]
        assert column(table, "Kind") == kinds
        assert column(table, "±") == ["1.00e-1", "1.00e-1", "—"]
        assert column(table, "n") == ["32", "32", "0"]
        assert "An estimate has no error" in table.caption
        assert "estimate" not in ranking_table(of(1.0)).caption

    def test_an_estimate_of_unknown_origin_is_an_estimate(self) -> None:
        made = runs.detailed(of(1.0), estimated=1, estimator=None)
        assert column(ranking_table(made), "Kind") == ["estimated"]

    def test_bars_of_estimates_are_hatched(self) -> None:
        figure = go.Figure(ranking_figure(runs.detailed(of(3.0, 2.0, 1.0), estimated=1)))
        (bars,) = figure.data
        assert bars.marker.pattern.shape == ("", "", "/")
        assert bars.hovertext[0].endswith("n = 32<br>cannot be told from rank 2")
        assert "estimated (native:visibility): 1.00e0 relative squared error" in bars.hovertext[2]
        assert "n = 0" not in bars.hovertext[2]

    def test_estimates_in_a_grid_are_marked(self) -> None:
        (grid,) = grids(runs.detailed(of(3.0, 2.0), estimated=1))
        assert grid.estimated == ((False, True),)
        table = grid_table(grid)
        assert [row[1] for row in table.rows] == ["3.00e0", "~2.00e0"]
        assert "~ before an estimate" in table.caption
        assert "~" not in grid_table(grids(of(3.0))[0]).caption

    def test_the_larger_of_two_in_a_place_says_its_kind(self) -> None:
        ops = [runs.op(f"layers.0.experts.{i}.up", "language", 0, f"g{i}", (1,)) for i in (0, 1)]
        ranked = [runs.scored(op, score) for op, score in zip(ops, (2.0, 3.0), strict=True)]
        ranked[0] = ranked[0].model_copy(update={"kind": "estimated"})
        (grid,) = grids(of().model_copy(update={"ops": tuple(ranked)}))
        assert (grid.scores, grid.estimated) == (((3.0,),), ((False,),))


class TestParts:
    @pytest.mark.parametrize(("base", "how"), [("isolate", "quantized"), ("fallback", "restored")])
    def test_parts_have_columns_where_they_were_measured(self, base: str, how: str) -> None:
        first, second = of(2.0, 1.0).ops
        first = first.model_copy(update={"weight_score": 1.5, "activation_score": -0.25})
        table = ranking_table(of(base=base).model_copy(update={"ops": (first, second)}))
        assert column(table, f"Weights alone {how}") == ["1.50e0", "—"]
        assert column(table, f"Activations alone {how}") == ["−2.50e-1", "—"]
        assert "need not add up" in table.caption

    def test_no_part_no_column(self) -> None:
        table = ranking_table(of(2.0))
        assert not [c.title for c in table.columns if "alone" in c.title]
        assert "add up" not in table.caption

    def test_decibels_stand_beside_the_ratio(self) -> None:
        op = of(1.0).ops[0].model_copy(update={"raw": {"sqnr_db": -3.21}})
        made = of(lens="native:sqnr").model_copy(update={"ops": (op,)})
        assert column(ranking_table(made), "SQNR (dB)") == ["−3.2"]


class TestUnits:
    def test_every_metric_has_one(self) -> None:
        assert {name: quantity_of(f"native:{name}").unit for name in METRICS} == UNITS
        assert all(quantity_of(f"native:{name}").says for name in METRICS)
        at_once = [name for name in METRICS if quantity_of(f"native:{name}").at_once]
        assert tuple(at_once) == PASSES

    @pytest.mark.parametrize(("metric", "unit"), UNITS.items())
    def test_it_is_on_axes_and_in_heads(self, metric: str, unit: str) -> None:
        made = of(2.0, 1.0, lens=f"native:{metric}")
        spectrum = runs.spectrum(made)
        steps = damage_curve(made, spectrum)
        for table, title in (
            (ranking_table(made), "Score"),
            (components_table(made), "Sum of scores"),
            (steps_table(steps, made.lens), "Score"),
            (cut_table(steps, spectrum, made.lens), "Predicted damage"),
        ):
            assert column(table, f"{title} ({unit})")
        bars, curve = ranking_figure(made), damage_figure(steps, spectrum, made.lens)
        assert bars is not None
        assert curve is not None
        assert bars["layout"]["xaxis"]["title"]["text"] == f"Score (logarithmic)<br>{unit}"
        assert curve["layout"]["yaxis"]["title"]["text"] == f"Sum of scores ({unit})"
        assert f"Score: {unit}; higher is more sensitive." in header_sentence(made)

    def test_a_lens_of_another_framework_has_a_unit_of_its_own(self) -> None:
        made = of(2.0, lens="inc:mse_v2")
        assert column(ranking_table(made), "Score")
        assert "Higher scores are more sensitive." in header_sentence(made)
        figure = ranking_figure(made)
        assert figure is not None
        assert figure["layout"]["xaxis"]["title"]["text"] == "Score (logarithmic)"

    def test_the_size_table_says_what_was_summed(self, run: Path) -> None:
        from quantspectrum.report import compare_run

        table = size_table(compare_run(run))
        assert column(table, "Predicted damage (relative squared error)")
        (run / "spectrum.json").unlink()
        assert column(size_table(compare_run(run)), "Predicted damage")

    def test_probes_are_no_samples(self) -> None:
        assert "over n random probes." in ranking_table(of(1.0, lens="native:hawq_v2")).caption
        assert "over n samples." in ranking_table(of(1.0)).caption
