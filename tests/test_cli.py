"""The command line as a process: what becomes of output that nobody reads to the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quantspectrum.demo import model_dir


@pytest.mark.slow
@pytest.mark.parametrize("command", [["ops", str(model_dir())], ["doctor"], ["doctor", "--json"]])
def test_a_closed_output_pipe_ends_without_a_traceback(command: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "quantspectrum", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    # Closed before anything is written, so that it does not depend on what fits into a pipe.
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert told == ""
