"""Guard, additivity, quality search and ground truth in the report, from the files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_pages import column, parse

from quantspectrum import artifacts
from quantspectrum.errors import UserError
from quantspectrum.report import compare_run, measured, write_report
from quantspectrum.report.measured import read_measured
from quantspectrum.report.resources import size_table


def interval(value: float) -> dict[str, Any]:
    return {"n": 8, "value": value, "stderr": 0.1, "low": value - 0.01, "high": value + 0.01}


def reading() -> dict[str, Any]:
    return {"ops_sha256": "0", "groups": 3, "weight_bytes": 9, "kl": interval(0.1), "nll": None}


GUARD: dict[str, Any] = {
    "kind": "guard",
    "lens": "native:mse_v2",
    "base": "fallback",
    "held_out": True,
    "quantity": "kl",
    "profiles": [
        {"name": "mild", "damage": interval(0.1), "beats_all": True},
        {
            "name": "medium",
            "damage": interval(0.2),
            "beats_all": False,
            "rivals": [
                {
                    "kind": "random",
                    "seed": 1,
                    "more_damage": interval(0.0),
                    "verdict": "not told apart",
                }
            ],
        },
    ],
    "additivity": {
        "metric": "kl",
        "same_unit": True,
        "points": [{"groups": 3, "share": 0.5, "predicted": 0.1, "measured": interval(0.2)}],
        "fit": {"points": 3, "slope": 1.2, "r2": 0.9, "relative_error_median": 0.4},
    },
}
SEARCH: dict[str, Any] = {
    "kind": "quality",
    "budget": {"text": "kl:0.01", "quantity": "kl", "limit": 0.01},
    "profile": {"rule": "the largest that keeps to it"},
    "held_out_judged": interval(0.5),
    "trials": [
        {
            "number": 1,
            "step": "whole",
            "reading": reading(),
            "judged": interval(0.5),
            "meets": False,
        }
    ],
}
TRUTH: dict[str, Any] = {
    "kind": "truth",
    "held_out": True,
    "samples": 8,
    "best": "native:kl",
    "orders": [
        {
            "label": "native:kl",
            "kind": "lens",
            "spearman": {"value": 0.9, "low": 0.8, "high": 0.95},
            "curve": [{"share": 0.5, "groups": 3, "kl": interval(0.2)}],
            "area": interval(0.3),
            "area_more": interval(0.0),
        }
    ],
}


def test_what_is_there_is_shown(run: Path) -> None:
    for name, record in (
        ("guard", GUARD),
        ("spectrum.quality", SEARCH),
        ("truth", TRUTH),
    ):
        (run / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    write_report(run)
    page = parse((run / "report.html").read_text(encoding="utf-8"))
    markdown = (run / "report.md").read_text(encoding="utf-8")
    figures = json.loads(page.scripts[0])["figures"]
    assert {"additivity", "truth"} <= figures.keys()
    for said in (
        "Not better than every rival of equal size: medium",
        "to the power 1.20",
        "OVER the budget",
        "the smallest area under the curve is that of native:kl",
    ):
        assert said in page.text
        assert said in markdown
    table = size_table(compare_run(run))
    verdicts = dict(zip(column(table, "Profile"), column(table, "Against rivals"), strict=True))
    assert verdicts["mild"] == "beats all"
    assert verdicts["medium"] == "NOT better than all rivals"
    # The recommended profile does not beat its rivals, and the first sentence says so.
    assert "the ranking did not choose do as well" in page.text


def test_every_field_that_is_read_is_written() -> None:
    """The stages' own records have all fields that the report reads."""
    for read, written in (
        (measured.GuardRead, artifacts.Guard),
        (measured.RivalRead, artifacts.RivalReading),
        (measured.AdditivityRead, artifacts.Additivity),
        (measured.FitRead, artifacts.AdditivityFit),
        (measured.PointRead, artifacts.AdditivityPoint),
        (measured.SearchRead, artifacts.QualitySearch),
        (measured.TrialRead, artifacts.Trial),
        (measured.ReadingRead, artifacts.ProfileReading),
        (measured.FoundRead, artifacts.Profile),
    ):
        assert read.model_fields.keys() <= written.model_fields.keys(), read.__name__


def test_what_is_absent_is_said(run: Path) -> None:
    write_report(run)
    page = parse((run / "report.html").read_text(encoding="utf-8"))
    assert "guard.json is missing" in page.text
    assert "histograms.json is missing" in page.text


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "guard"}', '{"kind": "truth"}'])
def test_a_broken_file_is_an_error_that_names_it(run: Path, text: str) -> None:
    (run / "guard.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"guard\.json"):
        read_measured(run)
