"""The manifest of a variant: what it was made of and by, and what was found when it was read back."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from quantspectrum.artifacts.base import Artifact, DataIdentity, Provenance, Record
from quantspectrum.artifacts.spectrum import Profile
from quantspectrum.formats import Format

__all__ = ["Manifest", "ServingNote", "Treatment", "Verification", "WriterNote"]


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
        distances: Relative L2 to what else it was compared with: ``ours`` is the same profile with
            this program's own rounding, ``unquantized`` the model it was made from,
            ``ours to unquantized`` the distance of these two, and ``framework`` the framework's
            own simulation (``framework to unquantized`` likewise).
    """

    compared: tuple[Literal["tensors", "logits"], ...] = ("logits",)
    relative_l2: float | None
    bound: float
    loader: str
    quantized_tensors: int
    counts: dict[str, int] = Field(default_factory=dict)
    predicted_bytes: int | None = None
    tensor_bytes: int | None = None
    distances: dict[str, float] = Field(default_factory=dict)


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


class WriterNote(Record):
    """How a variant that another framework wrote came to be.

    Attributes:
        name: The framework and what of it was used.
        versions: Its version and those of what it computes with.
        settings: What it was told, and what it chose itself.
        notes: What was put right, and what readers must know.
        loaders: What loads the variant.
        components: Components of the model that the variant holds; none where it is the whole.
        left_out: Ops of the profile that are in none of these.
        seconds: Wall time of its process.
        peak_bytes: Peak memory of its process.
    """

    name: str
    versions: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    loaders: tuple[str, ...]
    components: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    seconds: float | None = None
    peak_bytes: int | None = None


class ServingNote(Record):
    """What is predicted of a variant in a serving engine, the device left out.

    Attributes:
        engine: Its name.
        engine_version: Version whose rules these are.
        serves: Whether it will load the variant and compute what is written.
        errors: Why it will not.
    """

    engine: str
    engine_version: str
    serves: bool
    errors: tuple[str, ...] = ()


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
    writer: WriterNote | None = None
    serving: tuple[ServingNote, ...] = ()
