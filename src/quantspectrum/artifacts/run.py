"""What a run was asked and how far it has come."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Environment, Record

__all__ = [
    "RunRecord",
    "StageState",
]


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
