"""Sensitivity reports made up for tests of spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import models_tiny
from quantspectrum.artifacts import (
    Coverage,
    DataIdentity,
    LatencyEntry,
    LatencyTable,
    OpNote,
    OpScore,
    SensitivityReport,
)
from quantspectrum.formats import preset
from quantspectrum.models.loading import pick_device
from quantspectrum.provenance import Stopwatch

SAMPLES = DataIdentity(source="made up", split="selection", samples=4, sha256="5a")
IDENTITY = models_tiny.loaded(models_tiny.causal_lm()).identity.model_copy(
    update={"dtype": "bfloat16", "parameters": 10_000_000}
)
PROVENANCE = Stopwatch(pick_device("cpu")).provenance(IDENTITY, (SAMPLES,))

Scored = tuple[str, str, float]
"""Op, group and score."""


def report(
    fmt: str,
    scored: Sequence[Scored],
    *,
    shapes: dict[str, tuple[int, int]] | None = None,
    stderr: float | None = None,
    kept: Sequence[str] = (),
    **changes: Any,
) -> SensitivityReport:
    """A report of ops, all of shape 128 by 128 unless told otherwise."""
    ops = []
    for rank, (name, group, score) in enumerate(sorted(scored, key=lambda op: -op[2]), start=1):
        shape = (shapes or {}).get(name, (128, 128))
        ops.append(
            OpScore(
                name=name,
                type="Linear",
                component="language",
                block=0,
                group=group,
                shape=shape,
                params=shape[0] * shape[1],
                score=score,
                stderr=stderr,
                n=4,
                rank=rank,
                input_range=(-1.0, 2.0) if preset(fmt).needs_calibration else None,
            )
        )
    notes = tuple(OpNote(name=name, type="Linear", reason="kept") for name in kept)
    made: dict[str, Any] = {
        "lens": "native:kl",
        "base": "isolate",
        "format": preset(fmt),
        "provenance": PROVENANCE,
        "complete": True,
        "coverage": Coverage(found=len(ops) + len(notes), scored=len(ops), kept=notes),
        "ops": tuple(ops),
    }
    return SensitivityReport(**made | changes)


def latency_table(times: dict[tuple[tuple[int, int], str, int], float]) -> LatencyTable:
    """A table of (shape, format, rows) to seconds."""
    return LatencyTable(
        provenance=PROVENANCE,
        dtype="bfloat16",
        threads=1,
        absent=(),
        entries=tuple(
            LatencyEntry(
                shape=shape,
                format=fmt,
                rows=rows,
                kernel="made up",
                median_s=seconds,
                low_s=seconds,
                high_s=seconds,
                n=1,
                relative_l2=0.0,
            )
            for (shape, fmt, rows), seconds in times.items()
        ),
    )
