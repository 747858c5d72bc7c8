"""What backends read in the answer of a framework's worker: its predictions, its ops, its note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from quantspectrum.artifacts import WriterNote
from quantspectrum.errors import UserError

__all__ = ["check_quantized", "note_of", "probe_logits"]


def check_quantized(framework: str, planned: Iterable[str], quantized: Iterable[str]) -> None:
    """Refuse a variant in which the framework quantized other ops than planned.

    Raises:
        UserError: Naming the first that differs.
    """
    if differing := sorted(set(planned) ^ set(quantized)):
        raise UserError(
            f"{framework} did not quantize exactly the profile's ops: {differing[0]} differs; "
            "leave it out"
        )


def probe_logits(directory: Path) -> list[Tensor]:
    """What the framework's model predicts for the probe batches, in their order.

    Args:
        directory: Where its worker left ``found.safetensors``, with ``probe.INDEX`` in it.
    """
    found = load_file(directory / "found.safetensors")
    count = sum(name.startswith("probe.") for name in found)
    return [found[f"probe.{index}"] for index in range(count)]


def note_of(
    result: Mapping[str, Any],
    *,
    name: str,
    loaders: tuple[str, ...],
    notes: tuple[str, ...],
    findings: Mapping[str, float] | None = None,
) -> WriterNote:
    """How the framework ran, by what its worker says of itself.

    Args:
        result: The worker's result.
        name: The framework, and what of it ran.
        loaders: What loads the variant.
        notes: What readers of the variant must know.
        findings: What was found in the variant, besides the settings it was made with.
    """
    return WriterNote(
        name=name,
        versions=result["versions"],
        settings=result["settings"] | (findings or {}),
        notes=notes,
        loaders=loaders,
        seconds=result["seconds"],
        peak_bytes=result["peak_bytes"],
    )
