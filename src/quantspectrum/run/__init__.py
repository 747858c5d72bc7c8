"""``run``: all stages in a row, in one directory, going on from where they were."""

from __future__ import annotations

from quantspectrum.run.request import RunRequest, demo_request
from quantspectrum.run.runner import Run
from quantspectrum.run.states import Stopped

__all__ = ["Run", "RunRequest", "Stopped", "demo_request"]
