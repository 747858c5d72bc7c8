"""Ops and the nodes they became in an ONNX graph.

PyTorch's exporter (``dynamo=True``) notes for each node the modules it was traced in, from the outermost
inwards, and last the node itself. A model is mostly exported inside a wrapper, or a part of it alone,
so that paths in the graph and names of ops agree at their ends only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from quantspectrum.errors import UserError
from quantspectrum.spectrum.exporters.assignment import Assignment, Node

__all__ = ["nodes_of_ops", "read_nodes"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_TYPES = ("MatMul", "Gemm", "Conv")

_PART = "where it holds a part of the model, such as its language model, name that part with --component"
_FOLDED = (
    "torch.onnx.export folds a batch norm into the convolution before it and names the node after "
    "the norm: export with optimize=False; where the graph holds a part of the model, name that part "
    "with --component"
)


def read_nodes(path: Path) -> tuple[Node, ...]:
    """Every node of an ONNX file that an op may have become.

    Raises:
        UserError: The package ``onnx`` is absent, or the file is no ONNX graph or names no modules.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("--onnx needs the package onnx: pip install onnx") from None
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), format="protobuf", load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise UserError(f"--onnx {path} is not readable as an ONNX graph ({error})") from None
    found = []
    for node in graph.node:
        if node.op_type not in _TYPES:
            continue
        kept = {entry.key: entry.value for entry in node.metadata_props}
        found.append(Node(name=node.name, op_type=node.op_type, module=_module(kept)))
    if not any(node.module is not None for node in found):
        raise UserError(
            f"no node of {path} says which module it came from: export the model with "
            "torch.onnx.export(..., dynamo=True)"
        )
    return tuple(found)


def _module(metadata: dict[str, str]) -> str | None:
    if _SCOPES not in metadata:
        return None
    try:
        scopes = ast.literal_eval(metadata[_SCOPES])
    except (ValueError, SyntaxError):
        return None
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None


def nodes_of_ops(assignment: Assignment) -> list[str]:
    """Names of the nodes that the quantized ops became, in the order of the graph.

    Raises:
        UserError: An op is not in the graph, or cannot be told from another.
    """
    assert assignment.nodes is not None
    modules = {node.module for node in assignment.nodes if node.module is not None}
    chosen: dict[str, str] = {}
    missing = []
    for op in assignment.ops:
        module = _find(op.name, modules)
        if module is None:
            missing.append(op)
        elif module in chosen:
            raise UserError(_alike(op.name, chosen[module], module))
        else:
            chosen[module] = op.name
    if missing:
        first = missing[0]
        raise UserError(
            f"{len(missing)} of {len(assignment.ops)} ops of profile {assignment.profile} are not in "
            f"the ONNX graph, {first.name} first; "
            + (_FOLDED if first.type.startswith("Conv") else _PART)
        )
    for name in assignment.kept:
        module = _find(name, modules)
        if module in chosen:
            raise UserError(_alike(name, chosen[module], module))
    return [node.name for node in assignment.nodes if node.module in chosen]


def _alike(one: str, other: str, module: str) -> str:
    return (
        f"{one} and {other} both fit the module {module} of the ONNX graph; name the part of the "
        "model that it holds with --component"
    )


def _find(op: str, modules: Iterable[str]) -> str | None:
    """The one module whose path ends as the op's name does, with as little left out as possible.

    What tells blocks apart is never left out: ``layers.0`` of ``model.layers.0.mlp.up_proj``.

    Raises:
        UserError: Several paths end so.
    """
    parts = op.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    last = max(0, numbers[0] - 1) if numbers else len(parts) - 1
    for start in range(last + 1):
        end = ".".join(parts[start:])
        found = [module for module in modules if f".{module}".endswith(f".{end}")]
        if len(found) > 1:
            raise UserError(
                f"{op} fits several modules of the ONNX graph, {found[0]} and {found[1]} among them; "
                "export one model at a time"
            )
        if found:
            return found[0]
    return None
