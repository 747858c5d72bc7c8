"""Intel Neural Compressor up to 3.7: the arguments of ``PostTrainingQuantConfig``.

Keys of ``op_name_dict`` are regular expressions that must match a whole name
(``strategy/utils/tuning_space.py``, ``_merge_op_wise_cfg``). Where INC traces a model part by part it
names an op ``NAME.module``, so that every key allows for that. One more key keeps all other ops in
float32. ``reduce_range`` must be handed on by hand: for PyTorch, INC asks the processor and overlooks the
argument (``adaptor/pytorch.py``, ``REDUCE_RANGE``). Neural Compressor 3.8 removed this interface; AutoRound is what it has since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.spectrum.exporters.assignment import Assignment, only_types

__all__ = ["SUFFIX", "TARGET", "configuration", "export"]

TARGET = "inc"
SUFFIX = ".json"

_TYPES = {"static": ("Linear", "Conv1d", "Conv2d", "Conv3d"), "dynamic": ("Linear",)}
_WRAPPED = r"(\.module)?"
_KEPT = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
_QUANTIZED = {
    "weight": {
        "dtype": ["int8"],
        "scheme": ["sym"],
        "granularity": ["per_channel"],
        "algorithm": ["minmax"],
    },
    "activation": {
        "dtype": ["uint8"],
        "scheme": ["asym"],
        "granularity": ["per_tensor"],
        "algorithm": ["minmax"],
    },
}


def export(assignment: Assignment) -> str:
    """Keyword arguments of ``PostTrainingQuantConfig`` as JSON, which a YAML reader reads too.

    Raises:
        UserError: INC has no such format, or the profile needs two approaches or activation widths.
    """
    modes = {_mode(fmt) for fmt in assignment.formats.values()}
    if len(modes) > 1:
        raise UserError(
            "INC 3.7 takes one approach and one width of activations for the whole model, not "
            f"those of {' and '.join(sorted(assignment.formats))}: export a profile of one format"
        )
    approach, bits = modes.pop()
    only_types(assignment, f"INC 3.7 ({approach})", _TYPES[approach])
    config = configuration([op.name for op in assignment.ops], approach=approach, bits=bits)
    return json.dumps(config, indent=1) + "\n"


def configuration(
    names: Sequence[str], *, approach: Literal["static", "dynamic"], bits: int
) -> dict[str, Any]:
    """Arguments of ``PostTrainingQuantConfig`` that quantize the named ops, and nothing else.

    Args:
        names: The ops, by their names in the loaded model.
        approach: Whether ranges of activations are static.
        bits: Bits of activations that are used, 7 or 8.
    """
    quantized = "|".join(re.escape(name) for name in names)
    return {
        "approach": approach,
        "quant_level": 1,
        "reduce_range": bits == 7,
        "op_name_dict": {
            # Whatever is no chosen op, and so matched by no key below: the order does not matter.
            rf"(?!(?:{quantized}){_WRAPPED}$).*": _KEPT,
            **{re.escape(name) + _WRAPPED: _QUANTIZED for name in names},
        },
    }


def _mode(fmt: Format) -> tuple[Literal["static", "dynamic"], int]:
    """Approach, and bits of activations; PyTorch's kernels take 7 of 8 where they would overflow."""
    act = fmt.activation
    weight = fmt.weight == TensorScheme(granularity="channel")
    if weight and fmt.integer and fmt.output == act and act is not None:
        if act.observer == "minmax" and act.bits in (7, 8):
            return "static", act.bits
    elif weight and act == TensorScheme(symmetric=False, dynamic=True) and fmt.output is None:
        return "dynamic", 8
    raise UserError(
        f"INC 3.7 cannot hold format {fmt.name}: it knows int8 weights per channel with uint8 "
        "affine activations per tensor, static at inputs and outputs: score with --format inc, or "
        "export to autoround, which INC has since 3.8"
    )
