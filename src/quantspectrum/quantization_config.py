"""Formats in the terms of compressed-tensors: what it can hold, and a profile's configuration.

Nothing here needs a loaded model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import gcd
from typing import Any

from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme

__all__ = [
    "METHOD",
    "check_format",
    "group_size_on_disk",
    "input_args",
    "quantization_config",
    "storage_of",
    "weight_args",
]

METHOD = "compressed-tensors"


def storage_of(fmt: Format) -> str:
    """How the format's weights lie on disk, by the names compressed-tensors has for it.

    ``int-quantized``: int8, also of 4-bit weights with quantized activations, which vLLM reads
    like that alone; ``float-quantized``: FP8; ``pack-quantized``: integers packed into int32,
    for weights whose activations stay in high precision.
    """
    if fmt.weight.kind == "float":
        return "float-quantized"
    return "int-quantized" if fmt.activation is not None else "pack-quantized"


def check_format(fmt: Format) -> None:
    """Refuse a format that a compressed-tensors checkpoint cannot hold.

    Raises:
        UserError: The message says what of it there is no spelling for.
    """
    if lacking := _not_held(fmt):
        raise UserError(
            f"backend {METHOD} cannot write format {fmt.name}, which has {lacking}; make the "
            "spectrum of another format"
        )


def _not_held(fmt: Format) -> str | None:
    weight, act = fmt.weight, fmt.activation
    if fmt.output is not None:
        return "quantized outputs, that no engine reads from such a checkpoint"
    if not weight.symmetric:
        return "affine weights, that vLLM does not read"
    if weight.kind == "float" and act is None:
        return "FP8 weights without FP8 inputs"
    if act is not None and act.kind != weight.kind:
        return f"{weight.kind} weights with {act.kind} inputs"
    if weight.bits not in (4, 8) or (act is not None and act.bits != 8):
        return "numbers of neither 4 nor 8 bits"
    if weight.kind == "float" and weight.granularity == "group":
        return "FP8 weights in groups"
    if act is None and weight.granularity == "tensor":
        return "packed weights with one scale for the whole tensor"
    if weight.granularity == "group" and act is not None and not act.dynamic:
        return "weights in groups with static inputs"
    return None


def group_size_on_disk(scheme: TensorScheme, in_features: int) -> int | None:
    """Group size that spells a weight's groups where they may not divide its inputs.

    compressed-tensors knows groups of one size alone. Where the scheme's last group is smaller,
    the largest size that divides both is written, with the scale of each group repeated: codes
    and scales stay those of the scheme. ``None``: the whole channel is one group.
    """
    assert scheme.group_size is not None
    if in_features <= scheme.group_size:
        return None
    return gcd(in_features, scheme.group_size)


def weight_args(scheme: TensorScheme, in_features: int | None = None) -> dict[str, Any]:
    """A weight's ``QuantizationArgs``; ``in_features`` ``None``: its groups divide its inputs."""
    if scheme.granularity != "group":
        return _args(scheme)
    size = scheme.group_size
    if in_features is not None:
        size = group_size_on_disk(scheme, in_features)
    if size is None:
        return _args(scheme) | {"strategy": "channel"}
    return _args(scheme) | {"group_size": size}


def input_args(fmt: Format) -> dict[str, Any] | None:
    """The ``QuantizationArgs`` of an op's input; ``None`` where it is not quantized."""
    return None if fmt.activation is None else _args(fmt.activation)


def _args(scheme: TensorScheme) -> dict[str, Any]:
    return {
        "num_bits": scheme.bits,
        "type": scheme.kind,
        "symmetric": scheme.symmetric,
        "strategy": scheme.granularity,
        "dynamic": scheme.dynamic,
    }


def quantization_config(
    linears: Collection[str],
    ops: Mapping[str, str],
    formats: Mapping[str, Format],
    *,
    in_features: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The ``quantization_config`` of ``config.json`` for a profile.

    One group of ops targets the class ``Linear``; several target the exact names of their ops,
    which transformers and vLLM (with its own names for them) both match, and regular expressions
    do not survive vLLM's renaming. ``ignore`` names every other Linear.

    Args:
        linears: Names of all Linear modules of the model.
        ops: Op to the name of its format; all are among ``linears``.
        formats: Format by name.
        in_features: Inputs of ops whose weights have groups; of those that are not named the
            groups divide them.

    Raises:
        UserError: A format cannot be held.
    """
    groups: dict[tuple[str, int | None], list[str]] = {}
    for op, name in ops.items():
        check_format(formats[name])
        width = (in_features or {}).get(op)
        size = weight_args(formats[name].weight, width).get("group_size")
        groups.setdefault((name, size), []).append(op)
    storages = {storage_of(formats[name]) for name, _ in groups}
    only = len(groups) == 1
    config_groups = {
        f"group_{number}": _group(
            formats[name], ["Linear"] if only else targets, (in_features or {}).get(targets[0])
        )
        for number, ((name, _), targets) in enumerate(groups.items())
    }
    return {
        "quant_method": METHOD,
        "format": storages.pop() if len(storages) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": _others(linears, ops),
        "kv_cache_scheme": None,
    }


def _group(fmt: Format, targets: list[str], in_features: int | None) -> dict[str, Any]:
    return {
        "targets": targets,
        "weights": weight_args(fmt.weight, in_features),
        "input_activations": input_args(fmt),
        "format": storage_of(fmt),
    }


def _others(linears: Iterable[str], ops: Mapping[str, str]) -> list[str]:
    return [name for name in linears if name not in ops]
