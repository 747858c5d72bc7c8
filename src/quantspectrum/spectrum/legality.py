"""Which assignments a serving engine cannot load: fused ops must share a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantspectrum.artifacts.sensitivity import Op

__all__ = ["HIGH", "TornGroup", "torn_groups"]

HIGH = "bf16"
"""What high precision is called: the type the model was loaded in, whichever it is."""


@dataclass(frozen=True, kw_only=True)
class TornGroup:
    """A group of fused ops that were given more than one format.

    Attributes:
        name: The group's name.
        formats: Each of its candidates to its format, :data:`HIGH` where it is not quantized.
    """

    name: str
    formats: Mapping[str, str]

    def __str__(self) -> str:
        """One sentence: which ops of the group have which format."""
        members: dict[str, list[str]] = {}
        for op, fmt in self.formats.items():
            members.setdefault(fmt, []).append(op.rpartition(".")[2])
        parts = "; ".join(f"{', '.join(ops)} in {fmt}" for fmt, ops in members.items())
        return f"a serving engine fuses the ops of {self.name}, which would be torn apart: {parts}"


def torn_groups(ops: Mapping[str, str], candidates: Sequence[Op]) -> list[TornGroup]:
    """The groups whose ops do not all have one format, in the order of the candidates.

    Args:
        ops: Op name to format name, as in a profile; what is not named is in high precision.
        candidates: Every op that may be quantized, with its group.
    """
    groups: dict[str, dict[str, str]] = {}
    for op in candidates:
        groups.setdefault(op.group, {})[op.name] = ops.get(op.name, HIGH)
    return [
        TornGroup(name=name, formats=formats)
        for name, formats in groups.items()
        if len(set(formats.values())) > 1
    ]
