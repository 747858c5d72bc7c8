"""Profiles, the spectrum they form, and the manifest of a variant made from one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from quantspectrum.artifacts.base import Artifact, ModelIdentity, Provenance, Record
from quantspectrum.artifacts.sensitivity import Op
from quantspectrum.errors import UserError
from quantspectrum.formats import Format

__all__ = [
    "Manifest",
    "Profile",
    "Spectrum",
    "Verification",
]


class Profile(Record):
    """Which ops get which format; what is not named stays in high precision.

    Attributes:
        name: ``baseline``, ``mild``, ``medium``, ``aggressive``, ``max``, or the user's own.
        share: Share of the candidate groups that is quantized, from 0 to 1.
        groups: Number of groups quantized.
        ops: Op name to format name.
        predicted_damage: Sum of the scores of the quantized ops.
    """

    name: str
    share: float
    groups: int
    ops: dict[str, str]
    predicted_damage: float


class Spectrum(Artifact):
    """The ordered family of profiles made from one sensitivity report.

    Attributes:
        report_sha256: Hash of the sensitivity report's file.
        formats: Format name to format, for every format a profile names.
        candidates: Every op a profile may quantize, least sensitive group first.
        input_ranges: Calibrated input range of each candidate, for static formats.
    """

    KIND: ClassVar[str] = "spectrum"
    kind: Literal["spectrum"] = "spectrum"
    model: ModelIdentity
    lens: str
    base: Literal["isolate", "fallback"]
    report_sha256: str
    formats: dict[str, Format]
    candidates: tuple[Op, ...]
    input_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    profiles: tuple[Profile, ...]

    def profile(self, name: str) -> Profile:
        """Return the profile called ``name``; the error lists those there are."""
        for profile in self.profiles:
            if profile.name == name:
                return profile
        known = ", ".join(p.name for p in self.profiles)
        raise UserError(f"no profile {name!r} in this spectrum; it has: {known}")


class Verification(Record):
    """What was found when a variant was loaded back.

    Attributes:
        relative_l2: ``||reloaded - simulated|| / ||simulated||`` over the logits.
        bound: Largest value accepted.
        loader: Library that loaded it.
        quantized_tensors: Quantized weights counted on disk.
    """

    relative_l2: float
    bound: float
    loader: str
    quantized_tensors: int


class Manifest(Artifact):
    """What a variant consists of: which op has which format, the files and their bytes."""

    KIND: ClassVar[str] = "manifest"
    kind: Literal["manifest"] = "manifest"
    profile: Profile
    backend: str
    formats: dict[str, Format]
    spectrum_sha256: str
    provenance: Provenance
    files: dict[str, int]
    total_bytes: int
    baseline_bytes: int
    quantized_weight_bytes: int
    verification: Verification | None
