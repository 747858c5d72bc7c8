"""Predict of a checkpoint whether an engine will load and serve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from quantspectrum.errors import UserError
from quantspectrum.serving import sglang, transformers, vllm
from quantspectrum.serving.checkpoint import Checkpoint, read_checkpoint
from quantspectrum.serving.findings import Capability, CheckReport, Finding

__all__ = ["ENGINES", "Engine", "check_checkpoint", "check_directory"]


class Engine(Protocol):
    """What an engine's file provides."""

    VERSION: str

    def EVIDENCE(self, capability: Capability | None, /) -> str:  # noqa: N802
        """Whether the rules for a device were compared with the engine at work, or read."""
        ...

    def examine(
        self, checkpoint: Checkpoint, capability: Capability | None, dtype: str | None, /
    ) -> Iterator[Finding]:
        """Everything found about a checkpoint."""
        ...


ENGINES: Mapping[str, Engine] = cast(
    Any, {"vllm": vllm, "sglang": sglang, "transformers": transformers}
)


def check_checkpoint(
    checkpoint: Checkpoint,
    *,
    engine: str,
    capability: Capability | None = None,
    dtype: str | None = None,
) -> CheckReport:
    """Judge a checkpoint that was read.

    Args:
        checkpoint: What :func:`quantspectrum.serving.checkpoint.read_checkpoint` gave back.
        engine: One of :data:`ENGINES`.
        capability: The device; ``None`` leaves it out of the judgement.
        dtype: Type the engine is told to compute in; ``None``: what it takes by itself.

    Raises:
        UserError: The engine is unknown.
    """
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; the engines are: {', '.join(ENGINES)}")
    judge = ENGINES[engine]
    order = ("error", "warning", "ok")
    found = sorted(judge.examine(checkpoint, capability, dtype), key=lambda f: order.index(f.level))
    return CheckReport(
        checkpoint=checkpoint.name,
        engine=engine,
        engine_version=judge.VERSION,
        evidence=cast(Literal["run", "read"], judge.EVIDENCE(capability)),
        capability=str(capability) if capability is not None else None,
        serves=all(finding.level != "error" for finding in found),
        findings=tuple(found),
    )


def check_directory(
    directory: Path,
    *,
    engine: str,
    capability: Capability | None = None,
    dtype: str | None = None,
) -> CheckReport:
    """Read a checkpoint's directory and judge it; see :func:`check_checkpoint`.

    Raises:
        UserError: The engine is unknown, or the directory holds no whole checkpoint.
    """
    return check_checkpoint(
        read_checkpoint(directory), engine=engine, capability=capability, dtype=dtype
    )
