"""What is wrong with a checkpoint in any engine that fuses layers: torn groups, tensors, names."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from quantspectrum.errors import UserError
from quantspectrum.serving.findings import Finding, error, warning
from quantspectrum.serving.fusion import Fusion
from quantspectrum.serving.layers import Layer, StoredOp, scheme_of
from quantspectrum.serving.schemes import Quantization, Scheme, matches, quantization_of

__all__ = ["Assigned", "assign", "check_schemes", "check_torn"]

Assigned = list[tuple[Layer, Scheme | None]]
"""Layers that are not torn, each with the scheme of all its members."""

_KINDS = {"plain": "unquantized", "int8": "int8", "float8": "FP8", "packed": "packed integers"}


def check_schemes(
    config: Mapping[str, Any], layers: Sequence[Layer], fusion: Fusion
) -> Generator[Finding, None, tuple[Quantization, Assigned] | None]:
    """What is wrong with a ``quantization_config`` and the tensors it speaks of, in any engine.

    Returns:
        The configuration and the layers that are not torn; ``None`` where it is not readable.
    """
    try:
        quantization = quantization_of(config)
    except UserError as failure:
        yield error(str(failure))
        return None
    assigned, torn = assign(layers, quantization, fusion)
    yield from torn
    yield from _check_tensors(assigned)
    yield from _check_names(quantization, layers, fusion)
    return quantization, assigned


def assign(
    layers: Sequence[Layer], quantization: Quantization, fusion: Fusion
) -> tuple[Assigned, list[Finding]]:
    """The scheme of each layer, and an error for each whose members do not have one."""
    assigned: Assigned = []
    findings = []
    for layer in layers:
        schemes = {
            op.name: scheme_of(fusion.rename(op.name), quantization, fusion, head=layer.head)
            for op in layer.members
        }
        if len(set(schemes.values())) > 1:
            findings.append(_torn(layer, schemes))
        else:
            assigned.append((layer, next(iter(schemes.values()))))
    return assigned, findings


def _torn(layer: Layer, schemes: dict[str, Scheme | None]) -> Finding:
    members: dict[str, list[str]] = {}
    for op, scheme in schemes.items():
        how = "unquantized" if scheme is None else f"{scheme} ({scheme.group})"
        members.setdefault(how, []).append(op.rpartition(".")[2])
    parts = "; ".join(f"{', '.join(sorted(set(ops)))}: {how}" for how, ops in members.items())
    return error(
        f"{layer.group} is one layer in the engine and its members differ: {parts}",
        *schemes,
        advice="give all members one format; a spectrum that keeps groups together does",
    )


def check_torn(layers: Sequence[Layer]) -> Iterator[Finding]:
    """Errors where a checkpoint without schemes, or one of them, stores members differently."""
    for layer in layers:
        if len({op.storage for op in layer.members}) > 1:
            parts = ", ".join(f"{op.name.rpartition('.')[2]} {op.storage}" for op in layer.members)
            yield error(
                f"{layer.group} is one layer in the engine and its members are stored "
                f"differently: {parts}",
                *(op.name for op in layer.members),
                advice="give all members one format",
            )


def _check_tensors(assigned: Assigned) -> Iterator[Finding]:
    """Errors where what is on disk is not what the scheme says, or is incomplete."""
    wrong: dict[tuple[str, str], list[str]] = {}
    for layer, scheme in assigned:
        wanted = "plain" if scheme is None else scheme.storage
        for op in layer.members:
            if op.storage != wanted:
                wrong.setdefault((op.storage, wanted), []).append(op.name)
            elif scheme is not None:
                yield from _parts(op, scheme)
            elif extra := sorted(n for n in op.tensors if n not in ("weight", "bias")):
                yield warning(f"{op.name} is not quantized and yet has {', '.join(extra)}", op.name)
    for (found, wanted), ops in wrong.items():
        yield error(
            f"{len(ops)} layers are stored as {_KINDS[found]} weights and the configuration, "
            f"under the engine's names, makes them {_KINDS[wanted]}",
            *ops,
            advice="targets and ignore must name the modules as the tensors do; see the names that "
            "match nothing",
        )


def _parts(op: StoredOp, scheme: Scheme) -> Iterator[Finding]:
    needed = ["weight_scale"]
    if scheme.storage == "packed":
        needed.append("weight_shape")
    if not scheme.weight.symmetric:
        needed.append("weight_zero_point")
    if scheme.activation is not None and not scheme.activation.dynamic:
        needed.append("input_scale")
        if not scheme.activation.symmetric:
            needed.append("input_zero_point")
    if missing := [name for name in needed if name not in op.tensors]:
        yield error(
            f"{op.name} has no {' and no '.join(missing)}; the engine would compute with what "
            "happens to be in memory",
            op.name,
            advice="write the checkpoint again",
        )
        return
    rows, columns = op.shape(scheme)
    shape, strategy = op.tensors["weight_scale"].shape, scheme.weight.strategy
    expected: tuple[tuple[int, ...], ...] = ()
    if strategy == "channel":
        expected = ((rows, 1), (rows,))
    elif strategy == "tensor":
        expected = ((), (1,))
    elif strategy == "group" and (size := scheme.weight.group_size):
        if columns % size:
            yield error(f"{op.name} has {columns} inputs, no multiple of the group size {size}", op.name,
                        advice="choose a group size that divides them")  # fmt: skip
            return
        expected = ((rows, columns // size),)
    if expected and shape not in expected:
        yield error(
            f"{op.name}: weight_scale has shape {shape}, a scheme per {strategy} has {expected[0]}",
            op.name,
            advice="write the checkpoint again",
        )


def _check_names(
    quantization: Quantization, layers: Sequence[Layer], fusion: Fusion
) -> Iterator[Finding]:
    """A warning for names of the configuration that no layer of the checkpoint has."""
    known = {fusion.rename(op.name) for layer in layers for op in layer.members}
    known |= {layer.name for layer in layers}
    for what, names in (("ignore", quantization.ignore), ("targets", quantization.targets)):
        lost = [
            name
            for name in names
            if "." in name
            and not any(
                matches(op, name if name[:3] == "re:" else fusion.rename(name)) for op in known
            )
        ]
        if lost:
            yield warning(f"{len(lost)} names in {what} match no layer", *lost)
