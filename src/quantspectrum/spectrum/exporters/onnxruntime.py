"""ONNX Runtime: arguments of ``quantize_static``, or of ``MatMulNBitsQuantizer`` for weights alone.

An op is known there by the node it became, which depends on how the model was exported.
``torch.onnx.export(dynamo=True)`` leaves the path of the module that a node was traced in; see
:mod:`quantspectrum.spectrum.exporters.graph`. Enumerations are given by the names of their members.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.spectrum.exporters.assignment import Assignment
from quantspectrum.spectrum.exporters.graph import nodes_of_ops

__all__ = ["SUFFIX", "TARGET", "export"]

TARGET = "onnxruntime"
SUFFIX = ".json"

_NBITS_TYPES = ("MatMul",)
_CHANNEL = TensorScheme(granularity="channel")


def export(assignment: Assignment) -> str:
    """The function of ``onnxruntime.quantization`` to call, and its arguments, as JSON.

    Raises:
        UserError: No graph was given, an op is not in it, or ONNX Runtime has no such format.
    """
    if assignment.nodes is None:
        raise UserError(
            "the names of an ONNX graph's nodes depend on its export: give --onnx, the graph that "
            "torch.onnx.export(..., dynamo=True) wrote"
        )
    if len(assignment.formats) > 1:
        raise UserError(
            "one run of ONNX Runtime's quantizer knows one format, not "
            f"{' and '.join(sorted(assignment.formats))}: export a profile of one format"
        )
    (fmt,) = assignment.formats.values()
    call = _weights_alone(fmt) or _static(fmt)
    if call is None:
        raise UserError(
            f"ONNX Runtime cannot hold format {fmt.name}: it knows int8 weights per channel with "
            "static inputs per tensor (w8a8-static, w8a8-static-affine, w8a8-static-percentile, inc) "
            "and 4-bit or 8-bit weights in groups (w4a16)"
        )
    function, arguments = call
    chosen = nodes_of_ops(assignment)
    others = [node.name for node in assignment.nodes if node.name not in chosen]
    types = sorted({node.op_type for node in assignment.nodes if node.name in chosen})
    if function == "MatMulNBitsQuantizer":
        _only(types, _NBITS_TYPES, fmt)
        # What is in nodes_to_include is quantized whatever its type; the type alone would do too.
        arguments |= {"nodes_to_include": chosen, "nodes_to_exclude": others}
    else:
        arguments |= {
            "op_types_to_quantize": types,
            "nodes_to_quantize": chosen,
            "nodes_to_exclude": others,
        }
        if fmt.output is None:
            arguments["extra_options"]["OpTypesToExcludeOutputQuantization"] = types
    return json.dumps({"function": function, "arguments": arguments}, indent=1) + "\n"


def _only(types: Sequence[str], known: Sequence[str], fmt: Format) -> None:
    for kind in types:
        if kind not in known:
            raise UserError(
                f"ONNX Runtime holds format {fmt.name} in {' and '.join(known)} nodes only, and an "
                f"op of the profile became a {kind}: leave it out of the profile"
            )


def _weights_alone(fmt: Format) -> tuple[str, dict[str, Any]] | None:
    """Packed weights in blocks of a power of two, from 16 on; a last, smaller block is padded."""
    weight = fmt.weight
    size = weight.group_size or 0
    if fmt.activation is not None or fmt.output is not None or weight.kind != "int":
        return None
    if weight.bits not in (4, 8) or size < 16 or size & (size - 1):
        return None
    arguments = {"bits": weight.bits, "block_size": size, "is_symmetric": weight.symmetric}
    return "MatMulNBitsQuantizer", arguments


def _static(fmt: Format) -> tuple[str, dict[str, Any]] | None:
    act = fmt.activation
    if fmt.weight != _CHANNEL or act is None or act.dynamic:
        return None
    if (act.kind, act.bits) != ("int", 8) or fmt.output not in (None, act):
        return None
    options: dict[str, Any] = {
        "ActivationSymmetric": act.symmetric,
        "WeightSymmetric": True,
        # Biases stay as they are, and a node reads a rounded tensor of its own.
        "QuantizeBias": False,
        "DedicatedQDQPair": True,
    }
    method = "MinMax"
    if act.observer == "percentile":
        method = "Percentile"
        options["CalibPercentile"] = act.percentile
    return "quantize_static", {
        "quant_format": "QDQ",
        "per_channel": True,
        "weight_type": "QInt8",
        # Of int8 inputs that several nodes read, x86 makes no integer products by default. The
        # scale and the codes are the format's, plus 128; symmetric ones have zero point 128.
        "activation_type": "QUInt8",
        "calibrate_method": method,
        "extra_options": options,
    }
