"""Ctrl-C, SIGTERM and the time budget while a lens's worker runs: what it wrote becomes the report."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantspectrum.artifacts import SensitivityReport, read_artifact
from quantspectrum.cli import main
from quantspectrum.demo import model_dir
from quantspectrum.isolation import worker
from quantspectrum.lenses import isolated

RECORDS = """
import time
from _exchange import read_request, write_result
first, second = read_request()["ops"][:2]
write_result({"scores": {first: 1.0, second: 2.0}, "versions": {}, "settings": {}})
time.sleep(120)
"""
"""A worker that has scored two ops and never ends; it does not say that there is more to come."""


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for INC's workers, run by this interpreter; gives the report to write."""
    scripts = tmp_path / "workers"
    scripts.mkdir()
    (scripts / "_exchange.py").write_text((worker.WORKERS / "_exchange.py").read_text())
    for name in ("inc_mse_v2", "inc_hawq_v2"):
        (scripts / f"{name}.py").write_text(RECORDS)
    monkeypatch.setattr(worker, "WORKERS", scripts)
    monkeypatch.setenv("QUANTSPECTRUM_ENV_INC", sys.executable)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path / "report.json"
    for number, handler in kept.items():
        signal.signal(number, handler)


def score(out: Path, *more: str) -> int:
    return main(
        [
            *("sensitivity", str(model_dir()), "--out", str(out), "--quiet", "--device", "cpu"),
            *("--data", "demo", "--calibration", "2", "--samples", "2", "--eval-samples", "1"),
            *("--include", "*.language_model.*", *more),
        ]
    )


def signal_when(path: Path, number: int) -> None:
    def wait() -> None:
        end = time.monotonic() + 120
        while not path.is_file() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def check_partial(report: SensitivityReport, stopped_by: str) -> None:
    assert (report.complete, report.stopped_by) == (False, stopped_by)
    assert [(op.rank, op.score) for op in report.ops] == [(1, 2.0), (2, 1.0)]
    coverage = report.coverage
    assert coverage.scored == 2
    assert coverage.found == coverage.scored + len(coverage.kept) + len(coverage.skipped)
    reasons = {note.reason for note in coverage.skipped if ".layers." in note.name}
    assert f"not measured: {stopped_by}" in reasons


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_partial_report(
    recording: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_when(recording.with_name(".report.work") / "result.json", number)
    assert score(recording, "--lens", "inc:mse_v2") == 3
    check_partial(read_artifact(recording, SensitivityReport), "interrupted")
    assert "INCOMPLETE: inc:mse_v2, 2 of" in capsys.readouterr().err
    assert "interrupted" in recording.with_suffix(".md").read_text()
    assert not recording.with_name(".report.work").exists()


def test_no_other_lens_is_begun_after_an_interrupt(recording: Path) -> None:
    first = recording.with_name("report.inc-mse_v2.json")
    signal_when(first.with_name(f".{first.stem}.work") / "result.json", signal.SIGINT)
    assert score(recording, "--lens", "inc:mse_v2", "--lens", "inc:hawq_v2") == 3
    check_partial(read_artifact(first, SensitivityReport), "interrupted")
    assert not recording.with_name("report.inc-hawq_v2.json").exists()


def test_a_worker_that_overruns_its_budget_leaves_the_partial_report(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "SLACK_SECONDS", 1.0)
    assert score(recording, "--lens", "inc:mse_v2", "--time-budget", "2s") == 3
    check_partial(read_artifact(recording, SensitivityReport), "time budget")


def test_an_interrupt_before_the_first_score_leaves_no_report(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = "import time\nopen('begun', 'w').close()\ntime.sleep(120)\n"
    (worker.WORKERS / "inc_mse_v2.py").write_text(silent)
    signal_when(recording.with_name(".report.work") / "begun", signal.SIGINT)
    assert score(recording, "--lens", "inc:mse_v2") == 3
    assert "interrupted" in capsys.readouterr().err
    assert not recording.exists()
