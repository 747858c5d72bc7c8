"""A profile in each framework's own terms. A new target: one file and one line in ``EXPORTERS``.

An exporter turns an :class:`.assignment.Assignment` into the text of a configuration that its
framework reads as it is. What the framework cannot express is refused, never approximated. Nothing
here imports torch or a framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from quantspectrum.artifacts import (
    OpNote,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
    write_text,
)
from quantspectrum.errors import UserError
from quantspectrum.spectrum.exporters import (
    autoround,
    compressed_tensors,
    inc,
    modelopt,
    onnxruntime,
    torchao,
)
from quantspectrum.spectrum.exporters.assignment import Assignment, assign
from quantspectrum.spectrum.exporters.graph import read_nodes

__all__ = ["EXPORTERS", "Exporter", "export_profile"]


class Exporter(Protocol):
    """What an exporter's file provides."""

    TARGET: str
    SUFFIX: str

    def export(self, assignment: Assignment) -> str:
        """The configuration's text; a :class:`UserError` where it cannot be expressed."""
        ...


EXPORTERS: Mapping[str, Exporter] = {
    inc.TARGET: inc,
    modelopt.TARGET: modelopt,
    compressed_tensors.TARGET: compressed_tensors,
    onnxruntime.TARGET: onnxruntime,
    torchao.TARGET: torchao,
    autoround.TARGET: autoround,
}


def export_profile(
    spectrum_path: Path,
    profile: str,
    target: str,
    out: Path,
    *,
    report: Path | None = None,
    onnx: Path | None = None,
    components: Sequence[str] = (),
) -> tuple[Assignment, str]:
    """Write a profile of a spectrum as a framework's configuration.

    Args:
        spectrum_path: The spectrum's file.
        profile: Name of one of its profiles.
        target: One of :data:`EXPORTERS`.
        out: File to write.
        report: Sensitivity report that the spectrum was made from, which names the other ops.
        onnx: ONNX graph of the model.
        components: Components to export; all, where empty.

    Returns:
        What was exported, and the text that was written.

    Raises:
        UserError: A file is not what it should be, or the target cannot express the profile.
    """
    if target not in EXPORTERS:
        raise UserError(f"unknown target {target!r}; the targets are: {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[target]
    if out.suffix != exporter.SUFFIX:
        raise UserError(f"--out {out}: a file for {target} must end in {exporter.SUFFIX}")
    spectrum = read_artifact(spectrum_path, Spectrum)
    assignment = assign(
        spectrum,
        spectrum.profile(profile),
        components=components,
        others=None if report is None else _others(report, spectrum),
        nodes=None if onnx is None else read_nodes(onnx),
    )
    text = exporter.export(assignment)
    write_text(out, text)
    return assignment, text


def _others(path: Path, spectrum: Spectrum) -> tuple[OpNote, ...]:
    """Ops of the model that were no candidates."""
    report = read_artifact(path, SensitivityReport)
    known = {spectrum.report_sha256, *(source.sha256 for source in spectrum.reports)}
    if sha256_file(path) not in known:
        raise UserError(
            f"--report {path} is not the report that the spectrum was made from; give that one"
        )
    return (*report.coverage.kept, *report.coverage.skipped)
