"""What the tests of frameworks' lenses share: a model on disk and a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.lenses.request import LensRequest
from quantspectrum.models.loading import Loaded, ModelSpec

__all__ = ["request_of", "saved"]


def saved(model: Any, directory: Path) -> Loaded:
    """A tiny model, saved where workers find it."""
    models_tiny.save(model, directory)
    spec = ModelSpec(model=str(directory), device="cpu", dtype="float32")
    return models_tiny.loaded(model, spec=spec)


def request_of(
    batches: Sequence[Batch], directory: Path, *, base: Any, fmt: str, **more: Any
) -> LensRequest:
    return LensRequest(
        format=preset(fmt),
        base=base,
        calibration=batches,
        selection=batches,
        data=(),
        seed=0,
        directory=directory,
        **more,
    )
