from __future__ import annotations

from pathlib import Path

import pytest
import report_runs

from quantspectrum.report import write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run of four profiles, its reports not yet written."""
    return report_runs.write_full_run(tmp_path / "run")


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with its reports; read it, do not change it."""
    directory = report_runs.write_full_run(tmp_path_factory.mktemp("reported") / "run")
    write_report(directory)
    return directory
