"""Rows, grids, curves and figures of a sensitivity report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import report_runs as runs
from report_pages import column, markdown_page, parse
from report_runs import of

from quantspectrum.artifacts import (
    Coverage,
    OpNote,
    SensitivityReport,
    read_artifact,
    write_artifact,
)
from quantspectrum.cli import main
from quantspectrum.report import ranking_text, sensitivity_markdown
from quantspectrum.report.comparison import compare
from quantspectrum.report.coverage import coverage_sentence, coverage_table, reasons_table
from quantspectrum.report.damage import cut_table, damage_curve
from quantspectrum.report.figures import damage_figure, heatmap_figure, ranking_figure
from quantspectrum.report.grids import grid_table, grids, score_limits
from quantspectrum.report.inputs import read_run
from quantspectrum.report.op_pages import op_pages
from quantspectrum.report.ops import kind_of, places_of_notes, short_label, short_names
from quantspectrum.report.parts import parts_sentence
from quantspectrum.report.ranking import ranking_table
from quantspectrum.report.theme import label
from quantspectrum.report.tradeoff import tradeoff_figure


def test_places() -> None:
    q = runs.op("model.layers.1.experts.11.up", "language", 1, "g", (1,))
    assert kind_of(q) == "experts.*.up"
    assert kind_of(runs.op("merger.mlp.0", "merger", None, "g", (1,))) == "merger.mlp.0"
    assert kind_of(runs.op("11.1.fc", "language", 1, "g", (1,))) == "fc"
    assert short_names(["a.fc", "b.fc", "b.out"]) == {
        "a.fc": "a.fc",
        "b.fc": "b.fc",
        "b.out": "out",
    }
    assert short_label(q) == "language 1 · up"
    assert short_label(runs.op("visual.merger.mlp", "merger", None, "g", (1,))) == "merger · mlp"


def test_notes_find_the_component_of_ops_with_like_names() -> None:
    report = of(2.0, 1.0).model_copy(
        update={
            "coverage": Coverage(
                found=4,
                scored=2,
                kept=(
                    OpNote(name="model.language_model.layers.7.mlp.up", type="Linear", reason="r"),
                    OpNote(name="lm_head", type="Linear", reason="r"),
                ),
            )
        }
    )
    assert places_of_notes(report) == ([("language", 7, "mlp.up")], 1)
    grid = grids(report)[0]
    assert grid.blocks == (0, 1, 7)
    assert grid.unscored == ((False, False, False), (False, False, True))
    assert grid.scores[0] == (2.0, 1.0, None)
    assert grid_table(grid).rows[2] == ("7", "—", "not scored")


def test_notes_say_their_own_place() -> None:
    note = OpNote(
        name="vision.blocks.3.mlp.up", type="Linear", reason="r", component="vision", block=3
    )
    report = of(1.0).model_copy(update={"coverage": Coverage(found=2, scored=1, kept=(note,))})
    assert places_of_notes(report) == ([("vision", 3, "mlp.up")], 0)


def test_experts_share_a_cell_and_the_largest_shows() -> None:
    ops = [runs.op(f"layers.0.experts.{i}.up", "language", 0, f"g{i}", (1,)) for i in range(3)]
    ranked = tuple(
        runs.scored(op, s, None, i)
        for i, (op, s) in enumerate(zip(ops, (3.0, 2.0, -1.0), strict=True), 1)
    )
    report = of(1.0).model_copy(update={"ops": ranked})
    assert grids(report)[0].scores == ((3.0,),)


def test_the_damage_curve_adds_up_in_the_spectrums_order() -> None:
    report = runs.report(runs.qwen_ops(3, 2))
    spectrum = runs.spectrum(report)
    steps = damage_curve(report, spectrum)
    assert [step.group for step in steps] == list(
        dict.fromkeys(op.group for op in spectrum.candidates)
    )
    assert steps[-1].damage == pytest.approx(sum(op.score for op in report.ops))
    assert sum(step.ops for step in steps) == len(report.ops)
    for profile in spectrum.profiles[1:]:
        assert steps[profile.groups - 1].damage == pytest.approx(profile.predicted_damage)
    assert [step.damage for step in damage_curve(report, None)] == pytest.approx(
        [step.damage for step in steps]
    )


def test_cuts_without_damage_have_no_share() -> None:
    report = of(0.0, 0.0)
    table = cut_table(damage_curve(report, runs.spectrum(report)), runs.spectrum(report))
    assert table is not None
    assert column(table, "Of the total")[-1] == "—"


def test_incomplete_coverage_is_loud() -> None:
    report = of(1.0).model_copy(
        update={
            "complete": False,
            "stopped_by": "time budget",
            "coverage": Coverage(
                found=3,
                scored=1,
                kept=(OpNote(name="lm_head", type="Linear", reason="a rule"),),
                skipped=(OpNote(name="a|b", type="Linear", reason="not reached"),),
            ),
        }
    )
    assert coverage_sentence(report).startswith("INCOMPLETE: this scan stopped early (time budget)")
    assert sensitivity_markdown(report).startswith("> **INCOMPLETE: ")
    unknown = report.model_copy(update={"stopped_by": None})
    assert coverage_sentence(unknown).startswith("INCOMPLETE: not every candidate was scored. ")
    table = reasons_table(report)
    assert table is not None
    assert [row[0] for row in table.rows] == ["kept", "skipped"]
    assert len(coverage_table(report).rows) == 2
    assert "a\\|b" in sensitivity_markdown(report)


def test_the_sensitivity_report_lists_every_op() -> None:
    report = runs.report(runs.qwen_ops(4, 3))
    text = sensitivity_markdown(report)
    assert text == sensitivity_markdown(report)
    assert text.splitlines()[2].startswith("Complete: 46 ops found: 45 scored")
    for op in report.ops:
        assert f"| {op.rank} | `{op.name}` |" in text
    assert "the head is kept in high precision" in text


def test_a_report_without_scores_or_notes() -> None:
    report = runs.report([]).model_copy(update={"coverage": Coverage(found=0, scored=0)})
    text = sensitivity_markdown(report)
    assert "No op was scored." in text
    assert "Every op that was found has a score." in text
    assert (grids(report), damage_curve(report, None), score_limits(report)) == ([], [], None)


def valid(figure: dict[str, Any] | None) -> go.Figure:
    """The figure as Plotly's own classes read it; they refuse what plotly.js does not know."""
    assert figure is not None
    json.dumps(figure, allow_nan=False)
    return go.Figure(figure)


def test_figures_are_plotly_figures(run: Any) -> None:
    files = read_run(run)
    report = next(iter(files.reports.values()))
    valid(tradeoff_figure(compare(files)))
    assert len(valid(ranking_figure(report)).data[0].x) == 40
    limits = score_limits(report)
    assert limits is not None
    for grid in grids(report):
        valid(heatmap_figure(grid, limits))
    assert files.spectrum is not None
    cuts = valid(damage_figure(damage_curve(report, files.spectrum), files.spectrum)).data[1]
    assert list(cuts.text) == [" mild ", " medium ", " aggressive ", " max "]


def test_the_name_of_a_cut_near_the_last_one_stands_below(run: Any) -> None:
    spectrum = read_run(run).spectrum
    assert spectrum is not None
    at = (10, 14, 15, 40)
    profiles = [
        p.model_copy(update={"groups": n})
        for p, n in zip([p for p in spectrum.profiles if p.groups][:4], at, strict=True)
    ]
    figure = damage_figure(
        damage_curve(of(1.0, 0.5), None), spectrum.model_copy(update={"profiles": tuple(profiles)})
    )
    assert figure is not None
    below = ["top left", "bottom right", "top left", "top left"]
    assert figure["data"][1]["textposition"] == below


def test_scores_that_are_not_positive_are_marked_on_the_logarithmic_axis() -> None:
    figure = valid(ranking_figure(of(1.0, 0.05, 0.0, -2.0)))
    bars = figure.data[0]
    floor = 10 ** figure.layout.xaxis.range[0]
    assert bars.x == pytest.approx((1.0, 0.05, floor, floor))
    assert bars.text == ("", "", "0, off the axis", "−2.00e0, off the axis")
    # 0.05 - 0.1 would be below zero: the bar's error ends on the axis.
    assert bars.x[1] - bars.error_x.arrayminus[1] >= floor * (1 - 1e-12) > 0


def test_one_tiny_score_does_not_stretch_the_axis() -> None:
    report = of(1.0, 0.5, 1e-12)
    bars = valid(ranking_figure(report)).data[0]
    assert bars.x == pytest.approx((1.0, 0.5, 1e-4))
    assert bars.text[2] == "1.00e-12, off the axis"
    assert score_limits(report) == (1e-4, 1.0)


def test_a_heatmap_of_scores_that_are_not_positive_is_marked() -> None:
    report = of(1.0, 0.0, -2.0)
    limits = score_limits(report)
    assert limits == (1.0, 1.0)
    cells = valid(heatmap_figure(grids(report)[0], limits)).data[0]
    assert list(cells.text[0]) == ["", "≤ 0", "≤ 0"]
    assert cells.zmin < cells.zmax


def test_nothing_positive_nothing_drawn() -> None:
    assert ranking_figure(of(0.0, -1.0)) is None
    assert ranking_figure(of()) is None
    assert damage_figure([], None) is None


def test_labels_are_cut_in_the_middle() -> None:
    assert label("a" * 40 + "b" * 40, 11) == "aaaaa…bbbbb"
    assert label("a" * 11, 11) == "a" * 11
    assert label("a\n b") == "a b"


def test_labels_do_not_become_markup() -> None:
    op = runs.op("<b>x</b>", "<i>", None, "g", (1,))
    report = of().model_copy(update={"ops": (runs.scored(op, 1.0),), "estimator": "<u>"})
    drawn = ranking_figure(report)
    assert drawn is not None
    # What a click leads to is looked up, never drawn.
    assert drawn["data"][0].pop("customdata") == ["<b>x</b>"]
    text = json.dumps(drawn)
    assert "<i>" not in text
    assert "<b>x" not in text


@pytest.mark.parametrize(
    ("weight", "activation", "said"),
    [
        (1.0, 3.0, "activations, 75 %"),
        (3.0, 1.0, "weights, 75 %"),
        (0.0, 0.0, "both alike"),
        (-0.1, 1.0, None),
        (1.0, None, None),
    ],
)
def test_an_op_says_what_does_its_damage(
    run: Any, weight: float, activation: float | None, said: str | None
) -> None:
    files = read_run(run)
    label, report = next(iter(files.reports.items()))
    parts = {"weight_score": weight, "activation_score": activation}
    ops = (report.ops[0].model_copy(update=parts), *report.ops[1:])
    changed = replace(files, reports={label: report.model_copy(update={"ops": ops})})
    page = op_pages(changed)
    facts = dict(page["ops"][0]["facts"])
    assert facts.get("What does the damage") == (said and f"{said} ({label})")
    assert page["reports"][0] == [f"{label} (relative squared error)", str(len(ops))]


def _with_parts(report: SensitivityReport, *parts: tuple[float, float]) -> SensitivityReport:
    """The report with these parts (weights, activations) of its first ops."""
    ops = [
        op.model_copy(update={"weight_score": weight, "activation_score": activation})
        for op, (weight, activation) in zip(report.ops, parts, strict=False)
    ]
    return report.model_copy(update={"ops": (*ops, *report.ops[len(ops) :])})


def test_every_document_says_what_does_the_damage(run: Path, capsys: Any) -> None:
    path = run / "sensitivity/native-mse_v2.fallback.json"
    report = _with_parts(read_artifact(path, SensitivityReport), (1.0, 3.0), (1.0, 1.0), (9.0, 1.0))
    write_artifact(path, report)
    said = parts_sentence(report)
    assert said.startswith("Of 3 of the 10 most sensitive ops, each part restored alone, ")
    assert "activations do more of the damage in 1, weights in 1, both alike in 1." in said
    assert "activations, 75 %; " in said
    assert ": weights, 90 %." in said
    assert main(["compare", str(run), "--quiet"]) == 0
    terminal = capsys.readouterr().out
    markdown = markdown_page((run / "report.md").read_text(encoding="utf-8")).text
    page = parse((run / "report.html").read_text(encoding="utf-8")).text
    alone = markdown_page(sensitivity_markdown(report)).text
    for text in (terminal, markdown, page, alone):
        assert said in " ".join(text.split())
    cells = column(ranking_table(report), "Damage by")
    assert cells[:4] == ["activations, 75 %", "both alike", "weights, 90 %", "—"]
    first = ranking_text(report).splitlines()
    assert first[0].endswith("damage by")
    assert first[1].startswith("   1  ")
    assert first[1].endswith("  activations, 75 %")


def test_nothing_is_said_of_parts_that_were_not_measured(run: Path) -> None:
    report = read_artifact(run / "sensitivity/native-mse_v2.fallback.json", SensitivityReport)
    assert parts_sentence(report) == ""
    assert "damage by" not in ranking_text(report)
    assert all(one.title != "Damage by" for one in ranking_table(report).columns)
