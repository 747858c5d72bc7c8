"""Writers of variants. A new one: one file with these functions and one entry in ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.weights import Scales, Source
from quantspectrum.errors import UserError
from quantspectrum.simulation import InputQuantizer, OpPlan

__all__ = ["BACKENDS", "Backend", "backend_named"]


class Backend(Protocol):
    """What a backend's file provides."""

    NAME: str

    def check_plans(self, source: Source, plans: Mapping[str, OpPlan]) -> None:
        """Refuse, with a :class:`UserError`, what the backend cannot write."""
        ...

    def predicted_bytes(self, source: Source, plans: Mapping[str, OpPlan]) -> int:
        """Bytes of the variant's tensors, before anything is written."""
        ...

    def write(
        self,
        source: Source,
        plans: Mapping[str, OpPlan],
        directory: Path,
        scales: Scales | None = None,
    ) -> None:
        """Write the variant into an existing, empty directory."""
        ...

    def count_quantized(self, directory: Path) -> int:
        """Number of quantized weights on disk."""
        ...

    def loader_input_quantizer(self, plan: OpPlan) -> InputQuantizer:
        """Input quantization as the loader the variant is verified with computes it."""
        ...


BACKENDS: Mapping[str, Backend] = {compressed_tensors.NAME: compressed_tensors}


def backend_named(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        UserError: There is none; the message lists those there are.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        known = ", ".join(BACKENDS)
        raise UserError(f"unknown backend {name!r}; the backends are: {known}") from None
