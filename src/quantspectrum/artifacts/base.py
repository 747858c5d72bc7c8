"""What every record is: immutable, without unknown keys; and where its figures come from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "DataIdentity",
    "Environment",
    "ModelIdentity",
    "Provenance",
    "Record",
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
        storage_dtype: Type its checkpoint keeps weights in; ``None`` where that is ``dtype``.
    """

    id: str
    revision: str | None = None
    model_type: str
    config_hash: str
    weights_fingerprint: str
    dtype: str
    parameters: int
    storage_dtype: str | None = None


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


class Artifact(Record):
    """A record that is a file of its own; ``kind`` and ``schema_version`` are checked on reading.

    Attributes:
        KIND: The value of ``kind``.
        VERSION: The version of the schema that this release writes.
    """

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = SCHEMA_VERSION
    schema_version: Literal[1, 2] = 1

    @classmethod
    def migrated(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """What was read, brought from an older version to :attr:`VERSION` where that is possible."""
        return raw

    def sealed(self) -> Self:
        """What is written: the record with whatever belongs to the file alone."""
        return self

    def opened(self) -> Self:
        """What reading gives, checked beyond its types.

        Raises:
            ValueError: Its parts contradict each other; the message says what to do.
        """
        return self
