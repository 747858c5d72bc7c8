"""What a variant's manifest says of the engines that may serve it."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.artifacts.manifest import ServingNote
from quantspectrum.serving.check import check_checkpoint
from quantspectrum.serving.checkpoint import read_checkpoint

__all__ = ["serving_notes"]

NOTED = ("vllm", "sglang")


def serving_notes(directory: Path) -> tuple[ServingNote, ...]:
    """One note an engine, with the device left out; none where there is no checkpoint of tensors."""
    if not any(directory.glob("*.safetensors")):
        return ()
    checkpoint = read_checkpoint(directory)
    notes = []
    for engine in NOTED:
        report = check_checkpoint(checkpoint, engine=engine)
        errors = tuple(finding.what for finding in report.findings if finding.level == "error")
        notes.append(
            ServingNote(
                engine=engine,
                engine_version=report.engine_version,
                serves=report.serves,
                errors=errors,
            )
        )
    return tuple(notes)
