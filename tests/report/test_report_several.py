"""Runs with several sensitivity reports: metrics, bases and formats side by side."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import report_runs as runs
from report_pages import Page, markdown_page, parse

from quantspectrum.artifacts import RunRecord, SensitivityReport, read_artifact, write_artifact
from quantspectrum.cli import build_parser
from quantspectrum.report import write_report
from quantspectrum.report.inputs import read_run
from quantspectrum.report.overview import overview_table
from quantspectrum.report.provenance import command_line
from quantspectrum.report.views import DRAWN, coverage_views, lens_views
from quantspectrum.run import RunRequest
from quantspectrum.sensitivity import METRICS
from quantspectrum.stages import ScoringRequest

LIMIT = 8_000_000


def written(run: Path) -> tuple[Page, Page]:
    """report.html and report.md of a run."""
    write_report(run)
    html, markdown = (
        (run / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md")
    )
    return parse(html), markdown_page(markdown)


def test_each_report_is_shown_once(tmp_path: Path) -> None:
    run = runs.write_reports(
        tmp_path, ("kl", "mse_v2"), ("isolate", "fallback"), ops=runs.qwen_ops(3, 2)
    )
    page, markdown = written(run)
    names = ["native-kl.isolate", "native-mse_v2.isolate"]
    names += ["native-kl.fallback", "native-mse_v2.fallback"]
    text = (run / "report.md").read_text(encoding="utf-8")
    assert [line[4:] for line in text.splitlines() if line.startswith("### native")] == [
        name.replace("_", "\\_") for name in names
    ]
    figures = json.loads(page.scripts[0])["figures"]
    assert sorted(key for key in figures if key.startswith("ranking")) == [
        f"ranking-{i}" for i in range(4)
    ]
    for shown in (page.text, markdown.text):
        assert "The spectrum was made from native-kl.isolate." in shown
        assert "Score (nats per token)" in shown
        assert "Score (relative squared error)" in shown
    # All four cover the same ops, which are listed once.
    assert len(coverage_views(read_run(run))) == 1
    assert page.text.count("the head is kept in high precision") == 2
    assert "All 33 scored ops are in sensitivity/native-mse_v2.fallback.md." in markdown.text


def test_the_order_is_that_of_the_request(tmp_path: Path) -> None:
    run = runs.write_reports(
        tmp_path, ("nll", "kl"), ("isolate",), ("w8a8-static", "fp8"), ops=runs.qwen_ops(1, 0)
    )
    expected = [
        "native-nll.isolate.w8a8-static",
        "native-nll.isolate.fp8",
        "native-kl.isolate.w8a8-static",
        "native-kl.isolate.fp8",
    ]
    assert list(read_run(run).reports) == expected
    (run / "spectrum.json").unlink()
    files = read_run(run)
    assert (list(files.reports), files.source) == (expected, None)
    table = overview_table(files.reports, files.source)
    assert table is not None
    assert "The spectrum" not in table.caption


def test_a_request_of_single_words_orders_too(tmp_path: Path) -> None:
    run = runs.write_reports(tmp_path, ("nll", "kl"), ops=runs.qwen_ops(1, 0))
    (run / "spectrum.json").unlink()
    write_artifact(run / "run.json", runs.run_record(request={"metric": "nll"}, stages={}))
    assert list(read_run(run).reports) == ["native-nll.isolate", "native-kl.isolate"]
    write_artifact(run / "run.json", runs.run_record(request={}, stages={}))
    assert list(read_run(run).reports) == ["native-kl.isolate", "native-nll.isolate"]


def test_the_overview_by_hand(tmp_path: Path) -> None:
    run = runs.write_reports(tmp_path, ("kl", "nll"), ops=runs.qwen_ops(1, 0))
    path = run / "sensitivity" / "native-nll.isolate.json"
    first = read_artifact(run / "sensitivity" / "native-kl.isolate.json", SensitivityReport)
    # The first's scores in the opposite order, and one op less.
    scores = [op.score for op in first.ops][::-1]
    turned = [op.model_copy(update={"score": s}) for op, s in zip(first.ops, scores, strict=True)]
    other = first.model_copy(
        update={
            "lens": "native:nll",
            "ops": tuple(turned[1:]),
            "complete": False,
            "stopped_by": "interrupted",
        }
    )
    write_artifact(
        path, runs.detailed(other, estimated=2, **other.model_dump(include={"complete"}))
    )
    files = read_run(run)
    table = overview_table(files.reports, files.source)
    assert table is not None
    assert [row[4:10] for row in table.rows] == [
        ("nats per token", "7 of 8", "0", "2 of 6", "—", "complete"),
        ("nats per token", "4 of 8", "2", "1 of 3", "−1.000", "stopped: interrupted"),
    ]
    assert overview_table({"a": first}) is None


def test_one_report_needs_no_overview(tmp_path: Path) -> None:
    run = runs.write_full_run(tmp_path, second=False)
    page, markdown = written(run)
    for shown in (page.text, markdown.text):
        assert "rank correlation with the first report" not in shown
        assert "no lenses to compare" in shown


def test_many_reports_stay_readable_and_small(tmp_path: Path) -> None:
    formats = ("w8a8", "w8a8-static", "fp8")
    run = runs.write_reports(tmp_path, ("kl", "nll", "mse_v2"), ("isolate", "fallback"), formats)
    page, markdown = written(run)
    assert (run / "report.html").stat().st_size < LIMIT
    views = lens_views(read_run(run))
    assert len(views) == 18
    assert [len(view.figures) for view in views] == [4] * DRAWN + [1] * (18 - DRAWN)
    drawn = set(json.loads(page.scripts[0])["figures"])
    assert {f"ranking-{i}" for i in range(18)} <= drawn
    assert drawn <= set(page.attributes("id"))
    assert len(markdown.text) < 400_000


def test_a_spectrum_belongs_to_the_report_it_was_made_from(run: Path) -> None:
    path = run / "sensitivity" / "native-mse_v2.fallback.json"
    changed = read_artifact(path, SensitivityReport).model_copy(update={"lens": "native:kl"})
    write_artifact(path, changed)
    files = read_run(run)
    assert files.source is None
    assert [files.spectrum_of(name) for name in files.reports] == [None, None]
    page, markdown = written(run)
    assert "Where each profile cuts" not in page.text + markdown.text


def test_partial_reports_are_said_on_the_first_screen(tmp_path: Path) -> None:
    run = runs.write_reports(
        tmp_path,
        ("kl", "nll"),
        ops=runs.qwen_ops(2, 1),
        estimated=5,
        complete=False,
        stopped_by="time budget",
    )
    page, markdown = written(run)
    said = (
        "Partial sensitivity reports (all 2): this scan stopped early (time budget); 10 of their "
        "42 scores are estimates."
    )
    for shown in (page.text, markdown.text):
        assert shown.index(said) < shown.index("Variants")
        assert "estimated (native:visibility)" in shown
    assert "Hatched bars are estimates." in page.text
    assert "5 scores of it are estimates." in page.text


def test_the_second_ranking_is_in_both(tmp_path: Path) -> None:
    made = runs.report(runs.qwen_ops(2, 1))
    made = made.model_copy(update={"rescored": runs.rescored(made, 17, [4, 1, 2, 3])})
    run = runs.write_full_run(tmp_path, made, second=False)
    page, markdown = written(run)
    for shown in (page.text, markdown.text):
        assert "Spearman's rank correlation of the 4 other ops before and after: −0.200" in shown
        assert "The ops that moved most" in shown
        assert "+3" in shown
    assert "Whole second ranking" in page.text


def test_how_it_was_measured_is_in_both(reported: Path) -> None:
    page = parse((reported / "report.html").read_text(encoding="utf-8"))
    markdown = markdown_page((reported / "report.md").read_text(encoding="utf-8"))
    for shown in (page.text, markdown.text):
        # The run's second report is of the older shape and does not say.
        assert shown.count("How it was measured") == 1
        assert "up to 7 ops of a block a replay (8 slots, one of them unperturbed)" in shown


def test_the_command_of_a_real_request_is_accepted() -> None:
    scoring = ScoringRequest(
        metric=METRICS[:3],
        format=("w8a8", "fp8"),
        attribute=True,
        max_ops=20,
        time_budget=90.5,
        memory_limit=2**30,
    )
    for request in (RunRequest(model="m"), RunRequest(model="m", scoring=scoring)):
        record: RunRecord = runs.run_record(request=request.options())
        arguments = build_parser().parse_args(shlex.split(command_line(record))[1:])
        assert arguments.metric == list(request.scoring.metric)
        assert arguments.rescore == request.scoring.rescore
