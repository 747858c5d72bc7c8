"""The latency table: how long an op's matrix product takes here, per shape, format and rows."""

from __future__ import annotations

from typing import ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Provenance, Record

__all__ = ["AbsentKernel", "LatencyEntry", "LatencyTable"]


class LatencyEntry(Record):
    """Times of one linear, in seconds; whatever turns its input into codes is counted.

    Attributes:
        shape: Shape of the weight, outputs by inputs.
        format: Format, or ``bf16`` for high precision, the type the model was loaded in.
        rows: Rows of the input: tokens or image patches.
        kernel: Which kernel ran.
        median_s: Median over the repeats.
        low_s: Lower quartile.
        high_s: Upper quartile.
        n: Repeats.
        relative_l2: Distance of the kernel's result from the product with the same quantized
            numbers in float32.
    """

    shape: tuple[int, ...]
    format: str
    rows: int
    kernel: str
    median_s: float
    low_s: float
    high_s: float
    n: int
    relative_l2: float


class AbsentKernel(Record):
    """A shape and format that no kernel of this machine computes, and why; it is never emulated."""

    shape: tuple[int, ...]
    format: str
    rows: int
    reason: str


class LatencyTable(Artifact):
    """Times measured on one machine.

    Attributes:
        dtype: The type that high precision is.
        threads: CPU threads of PyTorch.
        entries: What was measured.
        absent: What has no kernel here.
    """

    KIND: ClassVar[str] = "latency"
    kind: Literal["latency"] = "latency"
    provenance: Provenance
    dtype: str
    threads: int
    entries: tuple[LatencyEntry, ...]
    absent: tuple[AbsentKernel, ...]

    def rows(self) -> list[int]:
        """The counts of rows that were measured, ascending."""
        return sorted({entry.rows for entry in self.entries})

    def median(self, shape: tuple[int, ...], fmt: str, rows: int) -> float | None:
        """Median time of a shape in a format; ``None`` where it was not measured."""
        for entry in self.entries:
            if (entry.shape, entry.format, entry.rows) == (shape, fmt, rows):
                return entry.median_s
        return None
