"""AutoRound 0.16: arguments of ``AutoRound(model, tokenizer, **arguments)``, foremost ``layer_config``.

``layer_config`` names every Linear of the model, quantized or kept, since whatever it does not name
gets the scheme of the whole. The same layers are what INC 3.8 and later takes (``AutoRoundConfig``).
"""

from __future__ import annotations

import json
from typing import Any

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.spectrum.exporters.assignment import Assignment, ExportedOp, only_types

__all__ = ["SUFFIX", "TARGET", "export"]

TARGET = "autoround"
SUFFIX = ".json"

_KEPT = {"bits": 16, "act_bits": 16, "data_type": "float", "act_data_type": "float"}


def export(assignment: Assignment) -> str:
    """Arguments of ``AutoRound`` as JSON.

    Raises:
        UserError: AutoRound has no such format, or the Linears that are no candidates are not known.
    """
    only_types(assignment, "AutoRound", ("Linear",))
    layers = {op.name: _layer(op) for op in assignment.ops}
    kept = assignment.kept_linears("AutoRound")
    arguments: dict[str, Any] = {
        # AutoRound judges by the scheme of the whole what it can write.
        "scheme": next(iter(layers.values())),
        "layer_config": layers | dict.fromkeys(kept, _KEPT),
    }
    return json.dumps(arguments, indent=1) + "\n"


def _layer(op: ExportedOp) -> dict[str, Any]:
    """``QuantizationScheme`` of an op (``auto_round/schemes.py``)."""
    fmt = op.format
    if lacking := _not_held(fmt):
        raise UserError(
            f"AutoRound cannot write format {fmt.name}, which has {lacking}; w8a8, fp8, w8a16 and "
            "w4a16 work"
        )
    return _weight(op) | _activation(fmt.activation)


def _not_held(fmt: Format) -> str | None:
    """What of the format AutoRound's export for compressed-tensors does not hold."""
    weight, act = fmt.weight, fmt.activation
    if fmt.output is not None:
        return "quantized outputs"
    if weight.granularity == "tensor" or not weight.symmetric:
        return "weights that are affine or have one scale for the whole tensor"
    if act is None:
        return "FP8 weights without FP8 inputs" if weight.kind == "float" else None
    if not act.dynamic or act.granularity != "token":
        return "inputs other than dynamic ones per token"
    if act.kind != weight.kind or weight.granularity == "group" or weight.bits != 8:
        return "quantized inputs of weights that are not of the same 8 bits, per channel"
    return None


def _weight(op: ExportedOp) -> dict[str, Any]:
    scheme = op.format.weight
    return {
        "bits": scheme.bits,
        "group_size": _group_size(op),
        "sym": scheme.symmetric,
        "data_type": "fp" if scheme.kind == "float" else "int",
    }


def _group_size(op: ExportedOp) -> int:
    """Elements of a group; -1 is a channel, as it is where a group has all of an op's inputs."""
    size, inputs = op.format.weight.group_size, op.shape[1]
    if size is None or inputs <= size:
        return -1
    if inputs % size:
        raise UserError(
            f"AutoRound's groups must divide an op's inputs: {op.name} has {inputs}, format "
            f"{op.format.name} has groups of {size}; leave the op out of the profile"
        )
    return size


def _activation(scheme: TensorScheme | None) -> dict[str, Any]:
    if scheme is None:
        return {"act_bits": 16}
    return {
        "act_bits": scheme.bits,
        "act_group_size": -1,
        "act_sym": scheme.symmetric,
        "act_data_type": "fp" if scheme.kind == "float" else "int",
        "act_dynamic": scheme.dynamic,
    }
