"""One whole run on the embedded model, shared by the tests that look at it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.runs import run_arguments
from quantspectrum.cli import main

# Makers of pages are tested by their files, and import their neighbours.
sys.path.append(str(Path(__file__).parents[2] / "bench"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "demo"
    assert main(run_arguments(out)) == 0
    return out


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """Run a command that must fail, and return the one sentence it printed."""

    def check(arguments: Sequence[str], code: int = 1) -> str:
        assert main(list(arguments)) == code
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("quantspectrum: ")
        assert "Traceback" not in captured.err
        return lines[0]

    return check
