"""The stages ``spectrum`` and ``latency``: from reports, and a table of times, to profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantspectrum.artifacts import (
    LatencyTable,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
    write_artifact,
)
from quantspectrum.formats import PRESETS, preset
from quantspectrum.models.loading import Loaded
from quantspectrum.spectrum.build import DEFAULT_CUTS, build_spectrum
from quantspectrum.spectrum.latency import measure_latency
from quantspectrum.spectrum.rules import parse_budgets, parse_cuts, parse_keeps
from quantspectrum.stages.requests import (
    OpsRequest,
    Progress,
)

__all__ = ["latency", "spectrum"]


def spectrum(
    report_path: Path | Sequence[Path],
    out: Path,
    *,
    cuts: Sequence[str] = (),
    budgets: Sequence[str] = (),
    keeps: Sequence[str] = (),
    latency: Path | None = None,
) -> Spectrum:
    """Make profiles from reports, one a format, and write them to ``out``.

    Args:
        report_path: The reports; the first one ranks, and cuts quantize in its format.
        out: Where the spectrum goes.
        cuts: ``NAME=SHARE`` each; none, without budgets, means the default ones.
        budgets: ``NAME=KIND:AMOUNT`` each.
        keeps: ``PATTERN=FORMAT`` each.
        latency: A latency table.
    """
    paths = [report_path] if isinstance(report_path, Path) else list(report_path)
    solved = parse_budgets(budgets)
    default = {} if solved else DEFAULT_CUTS
    made = build_spectrum(
        [read_artifact(path, SensitivityReport) for path in paths],
        report_sha256=[sha256_file(path) for path in paths],
        cuts=parse_cuts(cuts) if cuts else default,
        budgets=solved,
        keeps=parse_keeps(keeps),
        latency=read_artifact(latency, LatencyTable) if latency is not None else None,
    ).sealed()
    write_artifact(out, made)
    return made


def latency(
    loaded: Loaded,
    out: Path,
    *,
    ops: OpsRequest,
    formats: Sequence[str],
    rows: Sequence[int],
    repeats: int,
    progress: Progress,
) -> LatencyTable:
    """Time the candidates' linears on the model's device and write the table to ``out``."""
    table = ops.table(loaded)
    names = formats or PRESETS
    measured = measure_latency(
        loaded,
        table.candidates,
        formats=[preset(name) for name in names],
        rows=rows,
        repeats=repeats,
        progress=progress,
    )
    write_artifact(out, measured)
    return measured
