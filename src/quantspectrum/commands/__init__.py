"""What each command does: read its options, call a stage, print a short table.

One file for commands that belong together. Everything heavy is imported inside the functions, so that
``--help`` answers at once.
"""

from __future__ import annotations

from quantspectrum.commands.agreeing import agree, truth
from quantspectrum.commands.checking import check
from quantspectrum.commands.exporting import export
from quantspectrum.commands.machine import doctor
from quantspectrum.commands.quality import guard
from quantspectrum.commands.running import compare, demo, run
from quantspectrum.commands.scoring import ops, sensitivity
from quantspectrum.commands.spectra import latency, spectrum
from quantspectrum.commands.variants import evaluate, quantize

__all__ = [
    "agree",
    "check",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "guard",
    "latency",
    "ops",
    "quantize",
    "run",
    "sensitivity",
    "spectrum",
    "truth",
]
