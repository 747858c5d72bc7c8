"""torchao 0.18: an ``FqnToConfig``, as ``torchao.core.config.config_from_dict`` reads it.

It names the weight of each op with a configuration of its own; what it does not name stays as it is.
The same object is what ``transformers.TorchAoConfig`` takes, and the reason why weights are named:
transformers 5.23 applies what stands under the name of a module to its bias as well.
"""

from __future__ import annotations

import json
from typing import Any

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.spectrum.exporters.assignment import Assignment, ExportedOp, only_types

__all__ = ["SUFFIX", "TARGET", "export"]

TARGET = "torchao"
SUFFIX = ".json"

_CHANNEL = TensorScheme(granularity="channel")
_TOKEN = TensorScheme(granularity="token", dynamic=True)
_FLOAT_CHANNEL = TensorScheme(kind="float", granularity="channel")
_FLOAT_TOKEN = TensorScheme(kind="float", granularity="token", dynamic=True)


def export(assignment: Assignment) -> str:
    """The ``FqnToConfig`` as JSON.

    Raises:
        UserError: torchao has no such format, or its groups do not divide an op's inputs.
    """
    only_types(assignment, TARGET, ("Linear",))
    configs = {f"{op.name}.weight": _config(op) for op in assignment.ops}
    # The two keys are an old and a new name of one thing, and equal wherever torchao writes them.
    data = {"fqn_to_config": configs, "module_fqn_to_config": configs}
    return json.dumps({"_type": "FqnToConfig", "_version": 1, "_data": data}, indent=1) + "\n"


def _config(op: ExportedOp) -> dict[str, Any]:
    fmt = op.format
    schemes = (fmt.weight, fmt.activation)
    if fmt.output is None and schemes == (_CHANNEL, _TOKEN):
        return _of("Int8DynamicActivationInt8WeightConfig", granularity=_per_row())
    if fmt.output is None and schemes == (_CHANNEL, None):
        return _of("Int8WeightOnlyConfig", granularity=_per_row())
    if fmt.output is None and schemes == (_FLOAT_CHANNEL, _FLOAT_TOKEN):
        return _of("Float8DynamicActivationFloat8WeightConfig", granularity=[_per_row()] * 2)
    if fmt.output is None and schemes == (_FLOAT_CHANNEL, None):
        return _of("Float8WeightOnlyConfig", granularity=_per_row())
    weight = fmt.weight
    if (weight.kind, weight.granularity, fmt.activation, fmt.output) == (
        "int",
        "group",
        None,
        None,
    ):
        return _in_groups(op, weight)
    raise UserError(_refusal(fmt))


def _in_groups(op: ExportedOp, weight: TensorScheme) -> dict[str, Any]:
    """Integer weights in groups.

    Symmetric ones are torchao's ``IntxWeightOnlyConfig``; its ``Int4WeightOnlyConfig`` has a zero
    point in each group, and is what affine ones of 4 bits are.
    """
    size, inputs = weight.group_size, op.shape[1]
    assert size is not None
    if inputs > size and inputs % size:
        raise UserError(
            f"torchao's groups must divide an op's inputs: {op.name} has {inputs}, format "
            f"{op.format.name} has groups of {size}; leave the op out of the profile"
        )
    if not weight.symmetric and weight.bits == 4 and inputs >= size:
        return _of("Int4WeightOnlyConfig", group_size=size)
    if not weight.symmetric:
        raise UserError(_refusal(op.format))
    whole = {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
    parts = {"_type": "PerGroup", "_version": 1, "_data": {"group_size": size}}
    return _of(
        "IntxWeightOnlyConfig",
        weight_dtype={"_type": "torch.dtype", "_data": f"int{weight.bits}"},
        granularity=parts if inputs > size else whole,
        mapping_type={"_type": "MappingType", "_data": "SYMMETRIC"},
    )


def _of(name: str, **data: Any) -> dict[str, Any]:
    return {"_type": name, "_version": 2, "_data": data}


def _per_row() -> dict[str, Any]:
    return {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}


def _refusal(fmt: Format) -> str:
    return (
        f"torchao has no configuration for format {fmt.name}; it has them for w8a8, w8a16, fp8 and "
        "w4a16: make the spectrum of one of these"
    )
