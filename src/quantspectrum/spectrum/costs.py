"""What an op's weights take up in a format: bytes on disk, and bytes a forward pass reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quantspectrum.formats import Format

if TYPE_CHECKING:
    from quantspectrum.artifacts.base import ModelIdentity
    from quantspectrum.artifacts.sensitivity import Op

__all__ = ["count_nearest", "dtype_bytes", "model_bytes", "op_bytes", "profile_bytes", "storage_of"]

_SCALE_BYTES = 4
_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def dtype_bytes(dtype: str) -> int:
    """Bytes an element of a type such as ``bfloat16``.

    Raises:
        ValueError: The type is not a floating-point type that models are loaded in.
    """
    try:
        return _DTYPE_BYTES[dtype]
    except KeyError:
        raise ValueError(f"weights in {dtype}: their size is not known") from None


def storage_of(model: ModelIdentity) -> str:
    """The type in which a checkpoint keeps what is not quantized."""
    return model.storage_dtype or model.dtype


def op_bytes(op: Op, fmt: Format | None, dtype: str) -> int:
    r"""Bytes of an op's parameters in a format; ``None`` is high precision.

    With *n* output channels of *k* inputs each, *b* bits, *s* scales and a bias of *p - nk*
    elements:

    .. math::
        n \lceil kb / 32 \rceil 4 \;\text{(below 8 bits, packed into int32)} \quad\text{or}\quad nk,
        \qquad + 4s + [\text{affine}]\,s + (p - nk)\,\mathrm{bytes(dtype)}

    Scales are float32, and zero points one byte, as checkpoints hold them; *s* is 1, *n*, or
    :math:`n \lceil k / \text{group} \rceil`. A static input adds its own scale and zero point.

    Args:
        op: The op; ``shape`` is of its weight and ``params`` counts the bias too.
        fmt: Its format.
        dtype: Type of what is not quantized.
    """
    size = dtype_bytes(dtype)
    if fmt is None:
        return op.params * size
    channels, inputs = op.shape[0], math.prod(op.shape[1:])
    weight = fmt.weight
    packed = channels * math.ceil(inputs * weight.bits / 32) * 4
    codes = packed if weight.bits < 8 else channels * inputs
    per_channel = math.ceil(inputs / weight.group_size) if weight.group_size else 1
    scales = 1 if weight.granularity == "tensor" else channels * per_channel
    total = codes + scales * (_SCALE_BYTES + (not weight.symmetric))
    for scheme in (fmt.activation, fmt.output):
        if scheme is not None and not scheme.dynamic:
            total += _SCALE_BYTES + (not scheme.symmetric)
    return total + (op.params - channels * inputs) * size


def count_nearest(sizes: Sequence[int], target: float) -> int:
    """How many of the first sizes add up to what is nearest to a target; at least one."""
    total = 0
    for number, size in enumerate(sizes):
        if number and abs(total - target) <= abs(total + size - target):
            return number
        total += size
    return len(sizes)


def model_bytes(model: ModelIdentity) -> int:
    """Weight bytes of the unquantized checkpoint: every parameter once, in its type."""
    return model.parameters * dtype_bytes(storage_of(model))


def profile_bytes(
    ops: Mapping[str, str],
    candidates: Sequence[Op],
    formats: Mapping[str, Format],
    model: ModelIdentity,
) -> int:
    """Weight bytes of the whole model with the given ops in their formats."""
    dtype = storage_of(model)
    saved = sum(
        op_bytes(op, None, dtype) - op_bytes(op, formats[ops[op.name]], dtype)
        for op in candidates
        if op.name in ops
    )
    return model_bytes(model) - saved
