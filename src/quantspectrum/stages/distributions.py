"""The stage ``histograms``: from a model and calibration samples to the shapes of its ops' numbers."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.artifacts import write_artifact
from quantspectrum.artifacts.histograms import Histograms
from quantspectrum.data.splits import identity
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity.histograms import op_histograms
from quantspectrum.stages.requests import DataRequest, OpsRequest

__all__ = ["SAMPLES", "histograms", "histograms_path"]

SAMPLES = 8
"""Calibration samples whose inputs are counted: few, as a shape shows soon and counting costs."""


def histograms_path(run: Path) -> Path:
    """Where a run keeps them."""
    return run / "histograms.json"


def histograms(loaded: Loaded, out: Path, *, data: DataRequest, ops: OpsRequest) -> Histograms:
    """Count weights and inputs of every candidate in one pass, and write the record to ``out``.

    Args:
        loaded: The model.
        out: The record to write.
        data: Which samples there are; ``SAMPLES`` of the calibration split are used.
        ops: Which ops are candidates.
    """
    watch = Stopwatch(loaded.device)
    table = ops.table(loaded)
    splits = data.splits(loaded.takes_images)
    # Evenly spaced, so that every kind of sample is among them.
    step = max(1, len(splits.calibration) // SAMPLES)
    samples = splits.calibration[::step][:SAMPLES]
    batches = data.encode(loaded, samples, batch_size=min(data.batch_size, SAMPLES))
    names = [op.name for op in table.candidates]
    found = op_histograms(loaded.model, names, batches, loaded.device)
    record = Histograms(
        provenance=watch.provenance(
            loaded.identity, (identity(samples, splits.source, "calibration"),), seed=data.seed
        ),
        samples=len(samples),
        ops=found,
    )
    write_artifact(out, record)
    return record
