"""What a check finds, and the device it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Record
from quantspectrum.errors import UserError

__all__ = ["Capability", "CheckReport", "Finding", "error", "ok", "warning"]


class Finding(Record):
    """One thing that was looked at.

    Attributes:
        level: ``error``: the engine refuses the checkpoint or runs it wrong; ``warning``: it runs,
            but slower or otherwise than written, or this check cannot tell; ``ok``.
        what: One sentence.
        where: Names of the layers it is about, in the checkpoint's spelling; none: all of it.
        advice: What to do.
    """

    level: Literal["error", "warning", "ok"]
    what: str
    where: tuple[str, ...] = ()
    advice: str | None = None


def error(what: str, *where: str, advice: str | None = None) -> Finding:
    """A reason why the checkpoint does not serve."""
    return Finding(level="error", what=what, where=where, advice=advice)


def warning(what: str, *where: str, advice: str | None = None) -> Finding:
    """Something to know that does not keep it from serving."""
    return Finding(level="warning", what=what, where=where, advice=advice)


def ok(what: str, *where: str) -> Finding:
    """Something that was looked at and is as it should be."""
    return Finding(level="ok", what=what, where=where)


class CheckReport(Artifact):
    """What is predicted of a checkpoint in an engine.

    Attributes:
        checkpoint: The directory's name.
        engine: Engine the prediction is for.
        engine_version: Version whose rules these are.
        evidence: ``run`` where the rules were compared with that engine at work, ``read`` where
            they come from its source alone.
        capability: CUDA compute capability, ``cpu``, or ``None`` where none was given and the
            device was not judged.
        serves: Whether it will load and compute what is written, which is no ``error`` found.
    """

    KIND: ClassVar[str] = "check"
    kind: Literal["check"] = "check"
    checkpoint: str
    engine: str
    engine_version: str
    evidence: Literal["run", "read"]
    capability: str | None
    serves: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True, order=True)
class Capability:
    """What the device can do: a CUDA compute capability, ten times as an integer; 0 is a CPU."""

    tenfold: int

    @classmethod
    def parse(cls, text: str) -> Capability:
        """Read ``cpu`` or a capability such as ``9.0``.

        Raises:
            UserError: It is neither.
        """
        if text.strip().lower() == "cpu":
            return cls(0)
        if found := re.fullmatch(r"(\d{1,2})\.(\d)", text.strip()):
            return cls(int(found[1]) * 10 + int(found[2]))
        raise UserError(
            f"--capability {text}: give cpu, or a CUDA compute capability such as 9.0 "
            "(H100 9.0, A100 8.0, L40S and RTX 4090 8.9, B200 10.0, RTX 5090 12.0)"
        )

    @property
    def cpu(self) -> bool:
        """Whether it is a CPU."""
        return self.tenfold == 0

    def __str__(self) -> str:
        """As it is given on the command line."""
        return "cpu" if self.cpu else f"{self.tenfold // 10}.{self.tenfold % 10}"
