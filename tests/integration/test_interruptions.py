"""A run that is killed or interrupted anywhere goes on, and ends as one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.runs import run_arguments
from quantspectrum.artifacts import RunRecord, SensitivityReport, Spectrum, read_artifact

pytestmark = pytest.mark.slow

DEADLINE_S = 240


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "quantspectrum", *run_arguments(out)]
    return subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})


def state_of(out: Path, stage: str) -> str:
    try:
        record = json.loads((out / "run.json").read_text())
    except FileNotFoundError:
        return "pending"
    return str(record["stages"][stage]["state"])


def journal_lines(out: Path) -> int:
    path = out / "sensitivity" / "native-mse_v2.isolate.journal.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_until(process: subprocess.Popen[bytes], reached) -> None:
    end = time.monotonic() + DEADLINE_S
    while not reached():
        assert process.poll() is None, f"ended with {process.returncode} before it was reached"
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.005)


def test_kill_in_every_stage_then_resume(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    moments = {
        "baseline": lambda: state_of(out, "baseline") == "running",
        "sensitivity:isolate": lambda: journal_lines(out) > 12,
        "quantize:medium": lambda: state_of(out, "quantize:medium") == "running",
        "evaluate:mild": lambda: state_of(out, "evaluate:mild") == "running",
    }
    for stage, reached in moments.items():
        process = start(out)
        wait_until(process, reached)
        process.kill()
        process.wait()
        assert state_of(out, stage) in ("running", "done")
        # What has its final name is whole, whenever the process died.
        for manifest in out.glob("variants/*/manifest.json"):
            json.loads(manifest.read_text())
    measured = journal_lines(out)
    process = start(out)
    assert process.wait(DEADLINE_S) == 0
    assert measured == 0, "the scan was through by then, and its journal gone"
    record = read_artifact(out / "run.json", RunRecord)
    assert {state.state for state in record.stages.values()} == {"done"}
    reports = [
        read_artifact(run / "sensitivity/native-mse_v2.isolate.json", SensitivityReport)
        for run in (out, finished_run)
    ]
    assert reports[0].ops == reports[1].ops
    spectra = [read_artifact(run / "spectrum.json", Spectrum) for run in (out, finished_run)]
    assert spectra[0].profiles == spectra[1].profiles
    assert list(out.rglob(".*.partial")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_a_partial_report_and_exits_3(tmp_path: Path, number: int) -> None:
    out = tmp_path / "interrupted"
    process = start(out)
    wait_until(process, lambda: journal_lines(out) > 12)
    process.send_signal(number)
    assert process.wait(60) == 3
    path = out / "sensitivity/native-mse_v2.isolate.json"
    report = read_artifact(path, SensitivityReport)
    assert not report.complete
    assert report.stopped_by == "interrupted"
    assert 0 < report.coverage.scored < report.coverage.found
    assert "interrupted" in path.with_suffix(".md").read_text()
    accounted = report.coverage.scored + len(report.coverage.kept) + len(report.coverage.skipped)
    assert accounted == report.coverage.found
