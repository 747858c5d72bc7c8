"""What tests of whole variants share: a spectrum made up for a model, and its variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantspectrum.artifacts import Manifest, Op, Profile, Spectrum
from quantspectrum.backends.quantize import quantize_profile
from quantspectrum.formats import PRESETS
from quantspectrum.models.lazy import LazyModel
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import list_ops

MIXED = ("w8a8", "fp8", "w4a16", "w8a16", "w4a8")


def spectrum_of(loaded: Loaded, formats: tuple[str, ...] = ("w8a8",), **changes: Any) -> Spectrum:
    """One profile, ``all``, that gives every group of ops a format in turn."""
    ops = [Op(**vars(op)) for op in list_ops(loaded.model, loaded.layout).candidates]
    groups = list(dict.fromkeys(op.group for op in ops))
    assigned = {op.name: formats[groups.index(op.group) % len(formats)] for op in ops}
    profile = Profile(name="all", share=1, groups=len(groups), ops=assigned, predicted_damage=0)
    made: dict[str, Any] = {
        "model": loaded.identity,
        "lens": "native:mse_v2",
        "base": "isolate",
        "report_sha256": "r",
        "formats": {name: PRESETS[name] for name in formats},
        "candidates": ops,
        "input_ranges": {op.name: (-3.0, 3.0) for op in ops},
        "profiles": (profile,),
    }
    return Spectrum(**made | changes)


def variant(source: Loaded | LazyModel, spectrum: Spectrum, out: Path) -> Manifest:
    """Write the variant of its profile."""
    return quantize_profile(source, spectrum, "all", out, spectrum_sha256="abc")
