"""Guard, additivity, quality search and ground truth in the report, from the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_measured as measured
from report_measured import guard, guarded
from report_pages import column, markdown_page, parse

from quantspectrum.agreement import agree_files
from quantspectrum.artifacts import Artifact, sha256_file, write_artifact
from quantspectrum.errors import UserError
from quantspectrum.report import compare_run, write_report
from quantspectrum.report.inputs import read_run
from quantspectrum.report.prose import warnings
from quantspectrum.report.quality import KL_TOKENS
from quantspectrum.report.resources import size_table

RECORDS = {
    "guard": guard(guarded("mild", "beats"), guarded("medium", "beats", "not told apart")),
    "quality": measured.search(0.02),
    "truth": measured.truth(),
}


def test_what_is_there_is_shown(run: Path) -> None:
    for name, record in RECORDS.items():
        write_artifact(run / f"{name}.json", record)
    reports = sorted((run / "sensitivity").glob("*.json"))
    write_artifact(run / "agreement.json", agree_files(reports))
    write_report(run)
    page = parse((run / "report.html").read_text(encoding="utf-8"))
    markdown = markdown_page((run / "report.md").read_text(encoding="utf-8"))
    assert {"additivity", "guard", "truth", "agreement-figure"} <= json.loads(page.scripts[0])[
        "figures"
    ].keys()
    for said in (
        "Not better than every rival of equal size: medium",
        "to the power 1.00",
        "OVER the budget",
        "the order that costs least is that of native:kl",
        "Where they disagree most",
        # Rows of the tables, the same in both.
        "not told apart 1",
        "random 1",
        "4.00e-1 (3.00e-1 to 5.00e-1)",
        KL_TOKENS,
        # The recommended profile does not beat its rivals, and the first screen says so.
        "the ranking did not choose do as well",
    ):
        assert said in page.text, said
        assert said in markdown.text, said
    table = size_table(compare_run(run))
    verdicts = dict(zip(column(table, "Profile"), column(table, "Against rivals"), strict=True))
    assert verdicts["mild"] == "beats all"
    assert verdicts["medium"] == "NOT better than all rivals"


def test_a_search_beside_the_spectrum_is_shown_too(run: Path) -> None:
    """``spectrum --max-quality`` names the record after the spectrum's file."""
    write_artifact(run / "spectrum.quality.json", measured.search(0.005))
    assert list(read_run(run).searches) == ["spectrum.quality"]
    write_report(run)
    assert "On samples it never saw" in (run / "report.md").read_text(encoding="utf-8")


def test_a_guard_of_another_spectrum_is_a_warning(run: Path) -> None:
    made = guard(guarded("mild", "beats"), spectrum=sha256_file(run / "spectrum.json"))
    write_artifact(run / "guard.json", made)
    assert not any("another spectrum" in said for said in warnings(read_run(run)))
    with (run / "spectrum.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    assert any("another spectrum" in said for said in warnings(read_run(run)))
    (run / "spectrum.json").unlink()
    assert any("another spectrum" in said for said in warnings(read_run(run)))


def test_what_is_absent_is_said(run: Path) -> None:
    write_report(run)
    page = parse((run / "report.html").read_text(encoding="utf-8"))
    assert "guard.json is missing" in page.text
    assert "histograms.json is missing" in page.text


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "guard"}', '{"kind": "truth"}'])
def test_a_broken_file_is_an_error_that_names_it(run: Path, name: str, text: str) -> None:
    (run / f"{name}.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}\.json"):
        read_run(run)


@pytest.mark.parametrize(("name", "record"), RECORDS.items())
def test_a_field_that_no_record_has_is_refused(run: Path, name: str, record: Artifact) -> None:
    """What the report does not know it must not pass over."""
    raw = record.model_dump(mode="json") | {"more": 1}
    (run / f"{name}.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}\.json: more: Extra inputs"):
        read_run(run)
