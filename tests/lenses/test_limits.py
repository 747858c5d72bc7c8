"""Scans with less time or fewer measurements than ops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import models_tiny
from quantspectrum.artifacts import SensitivityReport, read_artifact, write_artifact
from quantspectrum.errors import UserError
from quantspectrum.models.ops import list_ops
from quantspectrum.sensitivity.anytime import estimates, measuring_order
from quantspectrum.spectrum.build import build_spectrum
from scans import BASES, MIXED, Base, score, score_all, scores, stop_at

CUTS = (0.15, 0.45, 0.75)


def by_kind(report: SensitivityReport, kind: str) -> dict[str, float]:
    return {op.name: op.score for op in report.ops if op.kind == kind}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("most", [1, 5, 13])
def test_so_many_ops_are_measured_and_the_others_estimated(
    llama: nn.Module, most: int, base: Base
) -> None:
    whole = score(llama, base=base)
    cheap = scores(score(llama, metrics=("visibility",)))
    report = score(llama, base=base, max_ops=most)
    order = measuring_order(
        list(list_ops(llama, models_tiny.loaded(llama).layout).candidates), cheap, CUTS
    )
    measured = by_kind(report, "measured")
    assert set(measured) == {op.name for op in order[:most]}
    # An op's score does not depend on how many others were measured.
    assert measured == {name: scores(whole)[name] for name in measured}
    rest = [op.name for op in whole.ops if op.name not in measured]
    assert by_kind(report, "estimated") == pytest.approx(estimates(rest, cheap, measured))
    assert [op.rank for op in report.ops] == list(range(1, 15))
    assert [op.score for op in report.ops] == sorted(scores(report).values(), reverse=True)


def test_a_limit_that_was_asked_for_is_no_lack(llama: nn.Module, tmp_path: Path) -> None:
    report = score(llama, max_ops=5)
    assert report.complete
    assert report.stopped_by is None
    assert report.estimator == "native:visibility"
    assert (report.coverage.scored, report.coverage.estimated) == (14, 9)
    assert report.coverage.skipped == ()
    for op in report.ops:
        estimated = op.kind == "estimated"
        assert (op.n == 0) is estimated
        assert (op.stderr is None) is estimated
        assert (op.raw == {}) is estimated
    write_artifact(tmp_path / "report.json", report)
    assert read_artifact(tmp_path / "report.json", SensitivityReport) == report
    assert len(build_spectrum(report, report_sha256="").candidates) == 14


def test_a_limit_of_all_ops_estimates_none(llama: nn.Module) -> None:
    report = score(llama, max_ops=14)
    assert report.coverage.estimated == 0
    assert report.estimator is None
    assert scores(report) == scores(score(llama))


@pytest.mark.parametrize("base", BASES)
def test_without_time_everything_is_estimated(llama: nn.Module, base: Base) -> None:
    report = score(llama, base=base, time_budget=0.0001)
    assert report.stopped_by == "time budget"
    assert not report.complete
    assert report.coverage.skipped == ()
    assert {op.kind for op in report.ops} == {"estimated"}
    assert len(report.ops) == report.coverage.estimated == report.coverage.scored == 14
    # Nothing tells the scale: the cheap scores are kept as they are, from the first batch.
    from_first = score(llama, metrics=("visibility",), selection=[models_tiny.text_batch()])
    assert scores(report) == pytest.approx(scores(from_first))
    # It says what every op is worth, so a spectrum can be made.
    assert len(build_spectrum(report, report_sha256="").candidates) == 14
    assert models_tiny.forwards(llama) == {}
    assert models_tiny.hooks(llama) == 0


def test_time_that_lasts_changes_nothing(llama: nn.Module) -> None:
    report = score(llama, time_budget=3600.0)
    assert report.complete
    assert report.stopped_by is None
    assert scores(report) == scores(score(llama))


class Clock:
    """Time that moves with every op measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("quantspectrum.sensitivity.scan.time.monotonic", lambda: self.now)

    def step(self) -> None:
        self.now += 1.0


@pytest.mark.parametrize("seconds", [0.5, 4.5, 13.5, 14.5, 20.5])
def test_when_time_is_up_what_was_measured_is_kept(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock = Clock(monkeypatch)
    report = score(llama, time_budget=seconds, step=clock.step)
    assert report.stopped_by == "time budget"
    assert not report.complete
    done = int(seconds) + 1
    measured = by_kind(report, "measured")
    assert len(measured) == min(done, 14)
    assert len(report.ops) == 14
    # Until the second batch is through for all, scores are of the first one.
    assert {op.n for op in report.ops if op.kind == "measured"} == {2}
    first = scores(score(llama, selection=[models_tiny.text_batch()]))
    assert measured == {name: first[name] for name in measured}


def test_more_time_goes_on_where_it_ended(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, journal=journal, time_budget=0.0001)
    score(llama, journal=journal, max_ops=3)
    score(llama, journal=journal, max_ops=6, step=stop_at(4))
    steps: list[int] = []
    report = score(llama, journal=journal, step=lambda: steps.append(1))
    assert report.complete
    assert report.ops == score(llama).ops
    assert len(steps) == 28


@pytest.mark.parametrize("stop", [1, 3, 9, 14, 20])
def test_fewer_ops_than_were_begun(llama: nn.Module, tmp_path: Path, stop: int) -> None:
    """What the first call measured of other ops, on fewer batches, does not get in the way."""
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, journal=journal, step=stop_at(stop))
    report = score(llama, journal=journal, max_ops=3)
    assert report.complete
    assert report.coverage.scored == 14
    expected = score(llama, max_ops=3)
    assert scores(report).keys() == scores(expected).keys()
    measured = by_kind(expected, "measured")
    assert measured.items() <= scores(report).items()
    assert {op.n for op in report.ops if op.kind == "measured"} == {5}


def test_limits_are_for_every_metric_of_a_scan(llama: nn.Module) -> None:
    reports = score_all(llama, metrics=("kl", "mse_v2", "sqnr"), max_ops=4)
    counts = [report.coverage.estimated for report in reports]
    assert counts == [10, 10, 0]
    assert [report.estimator for report in reports] == ["native:visibility"] * 2 + [None]
    one, other = (by_kind(report, "measured") for report in reports[:2])
    assert one.keys() == other.keys()


def test_ops_that_no_batch_reaches_are_not_estimated(vl: nn.Module) -> None:
    more: dict[str, Any] = {"selection": MIXED[:1], "max_ops": 3}
    report = score(vl, **more)
    assert {op.component for op in report.ops} == {"language"}
    assert {note.reason for note in report.coverage.skipped} == {
        "the selection data never reaches it"
    }
    assert not report.complete


def test_limits_of_a_metric_that_knows_none_are_refused(llama: nn.Module) -> None:
    for more in ({"max_ops": 3}, {"time_budget": 1.0}, {"attribute": True}):
        with pytest.raises(UserError, match="sqnr measures all ops at once; limits and --attrib"):
            score(llama, metrics=("sqnr",), **more)


def test_a_second_ranking_measures_no_more_than_the_first(llama: nn.Module) -> None:
    first = by_kind(score(llama, base="fallback", max_ops=5), "measured")
    report = score(llama, base="fallback", max_ops=5, rescore=1)
    assert report.rescored is not None
    again = {op.name for op in report.rescored.ops}
    assert again
    assert again == set(first) - set(report.rescored.restored)
