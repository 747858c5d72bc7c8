"""Profiles, the spectrum they form, and the manifest of a variant made from one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from quantspectrum.artifacts.base import (
    Artifact,
    DataIdentity,
    ModelIdentity,
    Provenance,
    Record,
)
from quantspectrum.artifacts.sensitivity import Op
from quantspectrum.errors import UserError
from quantspectrum.formats import Format

__all__ = [
    "Manifest",
    "Profile",
    "Spectrum",
    "Treatment",
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
    """What was found when a variant was read back.

    Attributes:
        compared: What was: ``tensors`` (every tensor on disk against the source: codes and scales
            by what compressed-tensors' own decompressor makes of them, all others bit for bit), and
            ``logits`` of the variant loaded back.
        relative_l2: ``||reloaded - simulated|| / ||simulated||`` over the logits; ``None`` where
            they were not compared, because no model was in memory.
        bound: Largest value accepted.
        loader: Library that loaded it, or that its schemes and tensors were matched with.
        quantized_tensors: Quantized weights counted on disk.
        counts: The same by format.
        predicted_bytes: Bytes of the tensors, as they were planned.
        tensor_bytes: Bytes of the tensors on disk.
    """

    compared: tuple[Literal["tensors", "logits"], ...] = ("logits",)
    relative_l2: float | None
    bound: float
    loader: str
    quantized_tensors: int
    counts: dict[str, int] = Field(default_factory=dict)
    predicted_bytes: int | None = None
    tensor_bytes: int | None = None


class Treatment(Record):
    """What was done to a model's weights by another framework before it was quantized.

    Attributes:
        transform: ``smoothquant``, or none.
        algorithm: What rounded the weights: ``rtn`` (each to the nearest), or ``gptq``.
        framework: What did it, with its version.
        packages: Versions in its environment.
        changed: Tensors that it changed.
        relative_l2: ``||transformed - original|| / ||original||`` over the logits, before
            anything was quantized: how far the transform is from changing nothing. ``None``
            without one.
        data: Samples it was calibrated on.
    """

    transform: Literal["smoothquant"] | None = None
    algorithm: Literal["rtn", "gptq"] = "rtn"
    framework: str
    packages: dict[str, str]
    changed: int
    relative_l2: float | None = None
    data: tuple[DataIdentity, ...] = ()


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
    treatment: Treatment | None = None
