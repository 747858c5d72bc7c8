"""The figure of the first screen: which quality it draws, and where everything stands."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import report_runs as runs

from quantspectrum.artifacts import SampleLoss, write_artifact
from quantspectrum.report import Comparison, compare_run
from quantspectrum.report.drawn import shows_divergence
from quantspectrum.report.tradeoff import tradeoff_figure
from quantspectrum.report.two_runs import compare_two
from quantspectrum.report.views import tradeoff_view

TOKENS = 10


def measured(label: str, more: float, kls: Sequence[float | None], size: int) -> Any:
    """An evaluation whose loss is 2 + ``more`` and whose samples have these KL per token."""
    samples = [
        SampleLoss(
            id=f"s{i}",
            kind="text",
            nll=TOKENS * (2.0 + more),
            tokens=TOKENS,
            kl=None if kl is None else TOKENS * kl,
            same_top=None if kl is None else TOKENS,
        )
        for i, kl in enumerate(kls)
    ]
    made = runs.evaluation(label, loss=runs.loss(samples), accuracy=None)
    resources = made.resources.model_copy(update={"disk_bytes": size})
    return made.model_copy(update={"resources": resources})


def compared(run: Path, *variants: tuple[str, float, Sequence[float | None]]) -> Comparison:
    write_artifact(run / "run.json", runs.run_record())
    baseline = measured("baseline", 0.0, [None] * len(variants[0][2]), 9_000_000)
    write_artifact(run / "baseline" / "evaluation.json", baseline)
    for i, (name, more, kls) in enumerate(variants):
        size = 8_000_000 - 1_000_000 * i
        write_artifact(run / "evaluations" / f"{name}.json", measured(name, more, kls, size))
    return compare_run(run)


def drawn(comparison: Comparison) -> go.Figure:
    figure = tradeoff_figure(comparison)
    json.dumps(figure, allow_nan=False)
    return go.Figure(figure)


def names(figure: go.Figure) -> dict[str, float]:
    return {note.text: note.y for note in figure.layout.annotations}


def test_alike_losses_are_told_apart_by_kl(tmp_path: Path) -> None:
    # Within 1 % of a loss of 2; KL per token 2e-6 ± (3e-6 - 1e-6) and 1e-3 at both samples.
    found = compared(tmp_path, ("a", 0.001, (1e-6, 3e-6)), ("b", 0.002, (1e-3, 1e-3)))
    figure = drawn(found)
    points, baseline = figure.data
    assert figure.layout.yaxis.type == "log"
    assert "KL" in figure.layout.yaxis.title.text
    assert sorted(zip(points.x, points.y, strict=True)) == [
        (7.0, pytest.approx(1e-3)),
        (8.0, pytest.approx(2e-6)),
    ]
    # Student's t with 1 degree of freedom, standard error 1e-6: the interval goes below zero,
    # where a logarithmic axis has no place; its lower end stands at the foot.
    (foot,) = baseline.y
    by_size = dict(zip(points.x, range(2), strict=True))
    bars = figure.data[0].error_y
    assert bars.array[by_size[8.0]] == pytest.approx(12.7062e-6, rel=1e-4)
    assert 2e-6 - bars.arrayminus[by_size[8.0]] == pytest.approx(foot)
    assert bars.array[by_size[7.0]] == pytest.approx(0.0, abs=1e-12)
    assert foot <= 1e-6
    assert names(figure)["b"] == pytest.approx(-3.0)
    assert names(figure)["baseline: 0"] == pytest.approx(math.log10(foot))
    low, high = figure.layout.yaxis.range
    assert low < math.log10(foot) < -3.0 < high


def test_two_runs_follow_the_same_rule(tmp_path: Path) -> None:
    alike = ("a", 0.001, (1e-6, 3e-6)), ("b", 0.002, (1e-3, 1e-3))
    compared(tmp_path / "one", *alike)
    compared(tmp_path / "two", *alike)
    worse = compared(tmp_path / "worse", ("a", 0.1, (1e-6, 3e-6)))
    found = compare_two(tmp_path / "one", tmp_path / "two")
    json.dumps(found.figure, allow_nan=False)
    figure = go.Figure(found.figure)
    assert figure.layout.yaxis.type == "log"
    assert found.caption.startswith("KL divergence")
    for run in figure.data:
        assert sorted(run.y) == pytest.approx([2e-6, 1e-3])
    assert names(figure)["b"] == pytest.approx(-3.0)
    # One profile of either run whose loss differs is enough to draw the loss of both.
    assert not shows_divergence(compare_run(tmp_path / "one"), worse)
    mixed = compare_two(tmp_path / "one", tmp_path / "worse")
    assert mixed.caption.startswith("Loss increase")
    figure = go.Figure(mixed.figure)
    assert figure.layout.yaxis.type is None
    assert list(figure.data[0].y) == pytest.approx([0.001, 0.002])
    assert "+1 %" in names(figure)


def test_the_caption_says_what_is_drawn(tmp_path: Path) -> None:
    alike = tradeoff_view(compared(tmp_path / "a", ("a", 0.001, (1e-6, 3e-6))))
    assert alike.caption.startswith("KL divergence")
    assert "within 1 %" in alike.caption
    assert [table.columns[1].title for table in alike.tables] == ["Loss", "KL", "Groups quantized"]
    worse = tradeoff_view(compared(tmp_path / "b", ("a", 0.1, (1e-6, 3e-6))))
    assert worse.caption.startswith("Loss increase")


@pytest.mark.parametrize(
    "variants",
    [
        pytest.param([("a", 0.001, (1e-6, 3e-6)), ("b", 0.1, (1e-3, 2e-3))], id="a loss differs"),
        pytest.param([("a", 0.001, (1e-6, 3e-6)), ("b", 0.002, (None, None))], id="one unmeasured"),
        pytest.param([("a", 0.0, (0.0, 0.0)), ("b", 0.0, (0.0, 0.0))], id="nothing changes"),
        pytest.param([("a", 0.001, (1e-6,))], id="no interval"),
    ],
)
def test_else_the_loss_is_drawn(tmp_path: Path, variants: list[Any]) -> None:
    found = compared(tmp_path, *variants)
    assert not shows_divergence(found)
    figure = drawn(found)
    assert figure.layout.yaxis.type is None
    assert list(figure.data[0].y) == pytest.approx([more for _, more, _ in variants])
    assert figure.data[1].y == (0.0,)
    assert set(names(figure)) == {"+1 %", "baseline", *(name for name, _, _ in variants)}


def test_a_kl_of_zero_or_of_rounding_stands_at_the_foot(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        ("none", 0.0, (0.0, 0.0)),
        ("rounding", 0.0, (1e-30, 1e-30)),
        ("some", 0.001, (1e-4, 1e-4)),
    )
    figure = drawn(found)
    (foot,) = figure.data[1].y
    assert sorted(figure.data[0].y) == pytest.approx([foot, foot, 1e-4])
    assert foot == pytest.approx(1e-12)


def test_divergences_that_are_all_rounding_have_an_axis(tmp_path: Path) -> None:
    figure = drawn(compared(tmp_path, ("a", 0.0, (1e-30, 1e-30))))
    low, high = figure.layout.yaxis.range
    assert low < high
