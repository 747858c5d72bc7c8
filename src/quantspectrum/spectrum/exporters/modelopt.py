"""NVIDIA ModelOpt: the configuration that ``mtq.quantize`` takes, in the list form of 0.47.

The first entry disables every quantizer, the others enable those of one op each; an entry replaces
all attributes of what it matches, and the last match wins (``modelopt/torch/quantization/config.py``).
YAML, since keys of ``block_sizes`` are integers.
"""

from __future__ import annotations

import glob
from typing import Any

import yaml

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.spectrum.exporters.assignment import Assignment, ExportedOp, only_types

__all__ = ["SUFFIX", "TARGET", "export"]

TARGET = "modelopt"
SUFFIX = ".yaml"


def export(assignment: Assignment) -> str:
    """The quantization configuration as YAML.

    Raises:
        UserError: ModelOpt has no such format.
    """
    for fmt in assignment.formats.values():
        if lacking := _not_held(fmt):
            raise UserError(
                f"ModelOpt cannot hold format {fmt.name}, which has {lacking}; formats such as "
                "w8a8, w8a8-static, fp8, w8a16 and w4a16 work"
            )
    only_types(assignment, "the export to ModelOpt", ("Linear",))
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for op in assignment.ops:
        entries += _entries(op)
    text: str = yaml.safe_dump(
        {"algorithm": "max", "quant_cfg": entries},
        sort_keys=False,
        default_flow_style=None,
        width=200,
    )
    return text


def _not_held(fmt: Format) -> str | None:
    """What of the format ModelOpt has no spelling for."""
    schemes = [scheme for scheme in (fmt.weight, fmt.activation, fmt.output) if scheme is not None]
    if not all(scheme.symmetric for scheme in schemes):
        return "affine numbers"
    if any(scheme.observer != "minmax" for scheme in schemes):
        return "ranges by percentile"
    act = fmt.activation
    if act is not None and act.dynamic and act.granularity != "token":
        return "dynamic inputs with one scale for the whole tensor"
    return None


def _entries(op: ExportedOp) -> list[dict[str, Any]]:
    quantizers = {
        "weight_quantizer": op.format.weight,
        "input_quantizer": op.format.activation,
        "output_quantizer": op.format.output,
    }
    return [
        {"quantizer_name": f"{glob.escape(op.name)}.{quantizer}", "cfg": _attributes(scheme, op)}
        for quantizer, scheme in quantizers.items()
        if scheme is not None
    ]


def _attributes(scheme: TensorScheme, op: ExportedOp) -> dict[str, Any]:
    """``QuantizerAttributeConfig``: exponent and mantissa bits of a float, axis or blocks of scales."""
    bits: Any = [4, 3] if scheme.kind == "float" else scheme.bits
    if scheme.granularity == "token":
        return {"num_bits": bits, "type": "dynamic", "block_sizes": {-1: None}}
    if scheme.granularity == "group":
        # ModelOpt pads the last block of a row, so that it need not be full.
        assert scheme.group_size is not None
        size = min(scheme.group_size, op.shape[1])
        return {"num_bits": bits, "block_sizes": {-1: size, "type": "static"}}
    return {"num_bits": bits, "axis": 0 if scheme.granularity == "channel" else None}
