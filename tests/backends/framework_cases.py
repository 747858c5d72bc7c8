"""A spectrum of a tiny model on disk, for backends of other frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import models_tiny
from quantspectrum.artifacts import Manifest, Op, Profile, Spectrum
from quantspectrum.backends.frameworks import ISOLATED
from quantspectrum.backends.isolated import quantize_isolated
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.isolation import find_environment
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.sensitivity.calibration import observe_ranges

KEPT = "layers.1.mlp.down_proj"
"""The profile keeps this op, so that a backend that ignores the profile shows."""


def load_tiny(
    family: str, directory: Path, dtype: torch.dtype = torch.float32, **spec: Any
) -> Loaded:
    models_tiny.save(models_tiny.family(family), directory, dtype)
    return load_model(ModelSpec(model=str(directory), device="cpu", **spec))


def calibration(loaded: Loaded) -> list[Batch]:
    """Batches of one sample each, of unlike lengths."""
    if not loaded.takes_text:
        return [models_tiny.pixel_batch(1, seed=seed) for seed in range(4)]
    vision = loaded.takes_images
    batches = [models_tiny.text_batch((n,), seed=n, vision=vision) for n in (20, 33, 17)]
    if vision:
        batches += [models_tiny.image_batch((n,), seed=n) for n in (9, 12)]
    return batches


def batches_for(loaded: Loaded, backend: str) -> list[Batch]:
    """Those of them that a backend takes."""
    batches = calibration(loaded)
    if ISOLATED[backend].part(loaded) is None:
        return batches
    return [batch for batch in batches if "pixel_values" not in batch.inputs]


def spectrum_of(loaded: Loaded, fmt: str, drop: str = KEPT) -> Spectrum:
    ops = [Op(**vars(op)) for op in list_ops(loaded.model, loaded.layout).candidates]
    names = [op.name for op in ops if drop not in op.name]
    assert len(names) > 1
    ranges = {}
    if preset(fmt).needs_calibration:
        ranges = observe_ranges(
            loaded.model, [op.name for op in ops], calibration(loaded), loaded.device
        )
    profiles = [
        Profile(name="none", share=0, groups=0, ops={}, predicted_damage=0),
        Profile(
            name="most", share=0.9, groups=9, ops=dict.fromkeys(names, fmt), predicted_damage=0
        ),
    ]
    return Spectrum(
        model=loaded.identity,
        lens="native:mse_v2",
        base="isolate",
        report_sha256="r",
        formats={fmt: preset(fmt)},
        candidates=tuple(ops),
        input_ranges=ranges,
        profiles=tuple(profiles),
    )


def write(
    loaded: Loaded, spectrum: Spectrum, backend: str, out: Path, profile: str = "most", **more: Any
) -> Manifest:
    return quantize_isolated(
        loaded,
        spectrum,
        profile,
        out,
        backend=ISOLATED[backend],
        spectrum_sha256="abc",
        calibration=batches_for(loaded, backend),
        **more,
    )


def need(environment: str) -> None:
    """Skip where an environment has not been made."""
    if find_environment(environment) is None:
        pytest.skip(f"environment {environment} is absent: quantspectrum doctor --install it")
