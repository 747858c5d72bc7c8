"""The records every stage reads and writes: frozen, versioned, complete in themselves.

A record on disk is UTF-8 JSON. It is written to a temporary file beside its destination and
renamed, so that a reader never meets half a record. Reading refuses unknown versions, unknown
keys and records of another kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantspectrum.errors import UserError
from quantspectrum.formats import Format

__all__ = [
    "Accuracy",
    "Artifact",
    "Coverage",
    "DataIdentity",
    "DecodeLatency",
    "Environment",
    "Evaluation",
    "Loss",
    "Manifest",
    "ModelIdentity",
    "Op",
    "OpNote",
    "OpScore",
    "Profile",
    "PromptResult",
    "Provenance",
    "Record",
    "Resources",
    "RunRecord",
    "SampleLoss",
    "SensitivityReport",
    "Spectrum",
    "StageState",
    "Verification",
    "read_artifact",
    "sha256_file",
    "write_artifact",
    "write_text",
]

SCHEMA_VERSION = 1


class Record(BaseModel):
    """Base of everything stored: immutable, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelIdentity(Record):
    """Which model a figure belongs to.

    Attributes:
        id: Hub id, or the directory's name.
        revision: Hub commit, where there is one.
        model_type: ``config.model_type``.
        config_hash: SHA-256 of the configuration as canonical JSON.
        weights_fingerprint: SHA-256 of every parameter's name, shape and 64 of its values,
            evenly spaced, as float32.
        dtype: Type the weights were loaded in.
        parameters: Number of parameters, tied ones once.
    """

    id: str
    revision: str | None = None
    model_type: str
    config_hash: str
    weights_fingerprint: str
    dtype: str
    parameters: int


class DataIdentity(Record):
    """Which samples were used: their source, the split, how many, and a hash of their contents."""

    source: str
    split: Literal["calibration", "selection", "evaluation", "prompts"]
    samples: int
    sha256: str


class Environment(Record):
    """Where a figure was measured."""

    tool_version: str
    git_sha: str | None
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    device_name: str
    cpus: int


class Provenance(Record):
    """Everything needed to read a figure a year later; times in seconds, memory in bytes."""

    created: str
    environment: Environment
    model: ModelIdentity
    data: tuple[DataIdentity, ...] = ()
    seed: int = 0
    wall_s: float
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None


class Op(Record):
    """One quantizable module. ``shape`` and ``params`` are of its weight (and bias)."""

    name: str
    type: str
    component: str
    block: int | None
    group: str
    shape: tuple[int, ...]
    params: int


class OpNote(Record):
    """An op that is not scored, and why: kept in high precision by a rule, or skipped."""

    name: str
    type: str
    reason: str


class OpScore(Op):
    """An op with its score; higher is more sensitive, rank 1 is the most sensitive.

    Attributes:
        score: Mean over samples.
        stderr: Standard error of that mean; ``None`` with fewer than two samples.
        n: Samples behind the score.
        rank: Position in the ranking, from 1.
        raw: The lens's own numbers under their own names.
        input_range: Smallest and largest input seen in calibration, for static formats.
    """

    score: float
    stderr: float | None = None
    n: int
    rank: int
    raw: dict[str, float] = Field(default_factory=dict)
    input_range: tuple[float, float] | None = None


class Coverage(Record):
    """What of the model a report covers: ``found = scored + kept + skipped``."""

    found: int
    scored: int
    kept: tuple[OpNote, ...] = ()
    skipped: tuple[OpNote, ...] = ()


class Artifact(Record):
    """A record that is a file of its own; ``kind`` and ``schema_version`` are checked on reading."""

    KIND: ClassVar[str]
    schema_version: Literal[1] = 1


class SensitivityReport(Artifact):
    """A lens's scores for every op, most sensitive first.

    Attributes:
        complete: Every candidate was scored.
        stopped_by: What ended an incomplete scan.
    """

    KIND: ClassVar[str] = "sensitivity"
    kind: Literal["sensitivity"] = "sensitivity"
    lens: str
    base: Literal["isolate", "fallback"]
    format: Format
    provenance: Provenance
    complete: bool
    stopped_by: str | None = None
    coverage: Coverage
    ops: tuple[OpScore, ...]


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


class SampleLoss(Record):
    """Negative log-likelihood (nats, summed) of one sample's target tokens."""

    id: str
    kind: Literal["text", "image+text"]
    nll: float
    tokens: int


class Loss(Record):
    """Mean loss per target token, in nats, with its standard error clustered by sample."""

    loss: float
    stderr: float | None
    tokens: int
    samples: tuple[SampleLoss, ...]


class Accuracy(Record):
    """Share of generated answers equal to a reference, with its standard error.

    Attributes:
        correct: Sample id to whether its answer was right.
    """

    exact: float
    stderr: float | None
    correct: dict[str, bool]


class PromptResult(Record):
    """A prompt, what the model answered (greedy), and the picture shown, as a small data URI."""

    id: str
    prompt: str
    output: str
    reference: str | None = None
    image: str | None = None


class DecodeLatency(Record):
    """Median times over repeats after a warm-up: prefill in ms, then ms per generated token."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    prefill_ms: float
    per_token_ms: float


class Resources(Record):
    """What running a variant takes.

    Attributes:
        disk_bytes: Size of the checkpoint's files.
        load_s: Time to load it.
        kernel: What really multiplied: ``native`` high precision, or ``emulated`` INT8, whose
            times say nothing of INT8 on a serving engine.
        latency: One entry per batch size.
    """

    disk_bytes: int
    load_s: float
    kernel: Literal["native", "emulated"]
    latency: tuple[DecodeLatency, ...]


class Evaluation(Artifact):
    """What was measured of one variant, or of the baseline."""

    KIND: ClassVar[str] = "evaluation"
    kind: Literal["evaluation"] = "evaluation"
    label: str
    profile: str | None
    provenance: Provenance
    loss: Loss
    accuracy: Accuracy | None
    prompts: tuple[PromptResult, ...]
    resources: Resources


class StageState(Record):
    """How far a stage of a run has come."""

    state: Literal["pending", "running", "done", "failed"]
    wall_s: float | None = None
    peak_device_bytes: int | None = None
    error: str | None = None


class RunRecord(Artifact):
    """What was asked of a run, where it runs, and the state of its stages."""

    KIND: ClassVar[str] = "run"
    kind: Literal["run"] = "run"
    request: dict[str, Any]
    environment: Environment
    stages: dict[str, StageState]


A = TypeVar("A", bound=Artifact)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either what it held before or all of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose --out"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose --out"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Write a record as JSON, atomically."""
    write_text(path, artifact.model_dump_json(indent=1) + "\n")


def read_artifact(path: Path, kind: type[A]) -> A:
    """Read a record of the given kind.

    Raises:
        UserError: The file is missing, is not JSON, is another kind of record, or has a version
            or keys this release does not know.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of a {kind.KIND} record") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); write it again") from error
    if not isinstance(raw, dict) or raw.get("kind") != kind.KIND:
        found = raw.get("kind") if isinstance(raw, dict) else type(raw).__name__
        raise UserError(f"{path} is not a {kind.KIND} record (kind: {found})")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {raw.get('schema_version')}, this release reads "
            f"{SCHEMA_VERSION}; make it again with this release"
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where}: {first['msg']}") from None


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
