"""What an exporter is given: a profile with everything that a framework may want to know of its ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantspectrum.artifacts import OpNote, Profile, Spectrum
from quantspectrum.errors import UserError
from quantspectrum.formats import Format

__all__ = ["Assignment", "ExportedOp", "Node", "assign", "only_types"]

_NO_MATRICES = ("Conv1d", "Conv2d", "Conv3d", "Parameter")


@dataclass(frozen=True, kw_only=True)
class ExportedOp:
    """A quantized op: its name in the loaded model, its type, the shape of its weight, its format."""

    name: str
    type: str
    shape: tuple[int, ...]
    format: Format


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of an ONNX graph that an op may have become.

    Attributes:
        name: Name in the graph.
        op_type: ``MatMul``, ``Gemm`` or ``Conv``.
        module: Name of the module that it was traced in, below the module that was exported;
            ``None`` where the exporter left none.
    """

    name: str
    op_type: str
    module: str | None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A profile, resolved.

    Attributes:
        profile: Its name.
        ops: The quantized ops, in the order of the spectrum's candidates.
        kept: Candidates that stay in high precision.
        others: Ops of the model that are no candidates; ``None`` where no report was given.
        nodes: Nodes of the ONNX graph; ``None`` where none was given.
    """

    profile: str
    ops: tuple[ExportedOp, ...]
    kept: tuple[str, ...]
    others: tuple[OpNote, ...] | None = None
    nodes: tuple[Node, ...] | None = None

    @property
    def formats(self) -> dict[str, Format]:
        """The formats in use, by name."""
        return {op.format.name: op.format for op in self.ops}

    def kept_linears(self, target: str) -> list[str]:
        """Every other Linear of the model: candidates that are kept, and ops that were none.

        Args:
            target: The framework that wants to be told them.

        Raises:
            UserError: No report was given, so that the latter are not known.
        """
        if self.others is None:
            raise UserError(
                f"{target} must be told every Linear that stays in high precision, and the "
                "spectrum holds the candidates alone: give --report, the sensitivity report it "
                "was made from"
            )
        found = [note.name for note in self.others if note.type not in _NO_MATRICES]
        return [*self.kept, *found]


def assign(
    spectrum: Spectrum,
    profile: Profile,
    *,
    components: Sequence[str] = (),
    others: tuple[OpNote, ...] | None = None,
    nodes: tuple[Node, ...] | None = None,
) -> Assignment:
    """Resolve a profile of a spectrum.

    Args:
        spectrum: The spectrum.
        profile: One of its profiles.
        components: Components whose ops are exported, such as ``language``; all, where empty.
            Ops of the others are neither quantized nor kept: they do not occur.
        others: Ops of the model that are no candidates.
        nodes: Nodes of the ONNX graph.

    Raises:
        UserError: A component is unknown, or nothing would be quantized.
    """
    known = {op.component for op in spectrum.candidates}
    for component in components:
        if component not in known:
            raise UserError(
                f"no candidate is in a component {component!r}; the components are: "
                f"{', '.join(sorted(known))}"
            )
    candidates = [op for op in spectrum.candidates if not components or op.component in components]
    chosen = tuple(
        ExportedOp(
            name=op.name,
            type=op.type,
            shape=op.shape,
            format=spectrum.formats[profile.ops[op.name]],
        )
        for op in candidates
        if op.name in profile.ops
    )
    if not chosen:
        where = f" in {', '.join(components)}" if components else ""
        raise UserError(
            f"profile {profile.name} quantizes no op{where}: there is nothing to tell a framework"
        )
    if components and others is not None:
        others = tuple(note for note in others if note.component in components)
    return Assignment(
        profile=profile.name,
        ops=chosen,
        kept=tuple(op.name for op in candidates if op.name not in profile.ops),
        others=others,
        nodes=nodes,
    )


def only_types(assignment: Assignment, target: str, types: Sequence[str]) -> None:
    """Refuse ops of a type that a framework does not quantize.

    Raises:
        UserError: Naming the first such op.
    """
    for op in assignment.ops:
        if op.type not in types:
            raise UserError(
                f"{target} quantizes {' and '.join(types)} ops only, and {op.name} is a "
                f"{op.type}: leave it out of the profile"
            )
