"""AutoRound 0.16: arguments of ``AutoRound(model, tokenizer, **arguments)``, foremost ``layer_config``.

``layer_config`` names every Linear of the model, quantized or kept, since whatever it does not name
gets the scheme of the whole. The same layers are what INC 3.8 and later takes (``AutoRoundConfig``).
"""

from __future__ import annotations

import json
from typing import Any

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.spectrum.exporters.assignment import Assignment, only_types

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
    layers = {op.name: _layer(op.format) for op in assignment.ops}
    kept = assignment.kept_linears("AutoRound")
    schemes = {json.dumps(layer) for layer in layers.values()}
    arguments: dict[str, Any] = {
        # Of the whole: that of the quantized ops, for AutoRound checks an export by it.
        "scheme": next(iter(layers.values())),
        "layer_config": layers | dict.fromkeys(kept, _KEPT),
    }
    assert schemes
    return json.dumps(arguments, indent=1) + "\n"


def _layer(fmt: Format) -> dict[str, Any]:
    """``QuantizationScheme`` of an op (``auto_round/schemes.py``)."""
    if lacking := _not_held(fmt):
        raise UserError(
            f"AutoRound cannot hold format {fmt.name}, which has {lacking}; w8a8, fp8, w8a16, "
            "w4a16 and w4a8 work"
        )
    return _weight(fmt.weight) | _activation(fmt.activation)


def _not_held(fmt: Format) -> str | None:
    if fmt.output is not None:
        return "quantized outputs"
    act = fmt.activation
    if act is not None and not act.symmetric:
        return "affine inputs"
    if act is not None and not act.dynamic and act.kind == "int":
        return "static int8 inputs, which none of its export formats holds"
    if act is not None and act.observer != "minmax":
        return "ranges by percentile"
    return None


def _weight(scheme: TensorScheme) -> dict[str, Any]:
    return {
        "bits": scheme.bits,
        "group_size": _group_size(scheme),
        "sym": scheme.symmetric,
        "data_type": "fp" if scheme.kind == "float" else "int",
    }


def _activation(scheme: TensorScheme | None) -> dict[str, Any]:
    if scheme is None:
        return {"act_bits": 16}
    return {
        "act_bits": scheme.bits,
        "act_group_size": _group_size(scheme),
        "act_sym": scheme.symmetric,
        "act_data_type": "fp" if scheme.kind == "float" else "int",
        "act_dynamic": scheme.dynamic,
    }


def _group_size(scheme: TensorScheme) -> int:
    """Elements of a group; -1 is a channel or a token, 0 the whole tensor."""
    if scheme.group_size is not None:
        return scheme.group_size
    return 0 if scheme.granularity == "tensor" else -1
