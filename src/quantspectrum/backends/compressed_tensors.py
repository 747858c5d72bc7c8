"""Backend ``compressed-tensors``: the checkpoint format vLLM, SGLang and transformers load.

A quantized op ``NAME`` stores ``NAME.weight`` (int8 or FP8), or ``NAME.weight_packed`` (int32) and
``NAME.weight_shape``; ``NAME.weight_scale``; and, with static activations, ``NAME.input_scale``
(and ``NAME.input_zero_point`` when affine). Everything else is stored as in the source.
``config.json`` gets the ``quantization_config`` of :mod:`quantspectrum.quantization_config`. Tensors, targets and ``ignore``
use the names the modules have when the model is loaded, the one spelling that both transformers
and vLLM map to themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig

from quantspectrum import quantization_config as terms
from quantspectrum.backends.checkpoint import Entry, total_bytes, write_shards
from quantspectrum.backends.weights import QuantizedWeight, Scales, Source, source_tensors
from quantspectrum.errors import UserError
from quantspectrum.models.lazy import LazyModel
from quantspectrum.quantization_config import check_format, input_args
from quantspectrum.simulation import InputQuantizer, OpPlan

__all__ = [
    "NAME",
    "check_plans",
    "count_quantized",
    "entries",
    "loader_input_quantizer",
    "predicted_bytes",
    "quantization_config",
    "quantized_weights",
    "write",
]

NAME = terms.METHOD


def check_plans(source: Source, plans: Mapping[str, OpPlan]) -> None:
    """Refuse what the format cannot hold.

    Raises:
        UserError: An op is not a Linear, or its format cannot be written.
    """
    for name, plan in plans.items():
        module = source.model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise UserError(
                f"op {name} is a {type(module).__name__}; compressed-tensors checkpoints hold "
                "quantized Linear ops only: leave it out of the profile"
            )
        check_format(plan.format)


def write(
    source: Source, plans: Mapping[str, OpPlan], directory: Path, scales: Scales | None = None
) -> None:
    """Write model, configuration and processor into an existing, empty directory."""
    write_shards(directory, entries(source, plans, scales))
    config = source.config.to_dict()
    config.pop("quantization_config", None)
    _set_dtype(config, str(source.storage_dtype).removeprefix("torch."))
    config["architectures"] = [type(source.model).__name__]
    if plans:
        config["quantization_config"] = quantization_config(source, plans)
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    generation = getattr(source.model, "generation_config", None)
    if isinstance(source, LazyModel) and (source.directory / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(source.directory)
    if generation is not None:
        generation.save_pretrained(directory)
    source.processor.save_pretrained(directory)


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Say the checkpoint's type, also in the configurations of its parts."""
    config["dtype"] = dtype
    for part in config.values():
        if isinstance(part, dict) and "dtype" in part:
            _set_dtype(part, dtype)


def quantization_config(source: Source, plans: Mapping[str, OpPlan]) -> dict[str, Any]:
    """The ``quantization_config`` of plans for a model; see :mod:`quantspectrum.quantization_config`."""
    linears = {n: m for n, m in source.model.named_modules() if isinstance(m, nn.Linear)}
    return terms.quantization_config(
        linears,
        {op: plan.format.name for op, plan in plans.items()},
        {plan.format.name: plan.format for plan in plans.values()},
        in_features={op: linears[op].in_features for op in plans},
    )


def loader_input_quantizer(plan: OpPlan) -> InputQuantizer:
    """Fake-quantization of an op's input as transformers does it for these checkpoints.

    compressed-tensors emulates activations with its own arithmetic, which serving engines do not
    share: in the type of ``x`` rather than in float32, and, where ``x`` has only two dimensions
    (vision towers), with one scale per tensor although the scheme says one per token. A reloaded
    checkpoint can only be checked against that, so this calls the library's own functions.
    """
    scheme = plan.format.activation
    if scheme is None:
        return lambda x: x
    args = QuantizationArgs(**input_args(plan.format) or {})
    if scheme.dynamic:
        return lambda x: fake_quantize(x, *compute_dynamic_scales_and_zp(x, args, None), args)
    scale, zero_point = (value.reshape(1) for value in plan.input_qparams())

    def static(x: Tensor) -> Tensor:
        zero = None if scheme.symmetric else zero_point.to(x.device, torch.int8)
        output: Tensor = fake_quantize(x, scale.to(x.device, x.dtype), zero, args)
        return output

    return static


def entries(
    source: Source, plans: Mapping[str, OpPlan], scales: Scales | None = None
) -> list[Entry]:
    """Every tensor of the checkpoint, in the model's order; tied ones once."""
    weights = quantized_weights(source, plans, scales)
    found: list[Entry] = []
    for tensor in source_tensors(source):
        if (weight := weights.get(tensor.name)) is not None:
            found += weight.entries()
            continue
        like = tensor.like
        dtype = source.storage_dtype if like.is_floating_point() else like.dtype
        make = partial(tensor.copied, dtype)
        found.append(Entry(name=tensor.name, shape=tuple(like.shape), dtype=dtype, make=make))
    return found


def quantized_weights(
    source: Source, plans: Mapping[str, OpPlan], scales: Scales | None = None
) -> dict[str, QuantizedWeight]:
    """The weights that are quantized, by name."""
    return {
        tensor.name: QuantizedWeight(tensor, plans[op], (scales or {}).get(op))
        for tensor in source_tensors(source)
        if tensor.name.endswith(".weight") and (op := tensor.name.rpartition(".")[0]) in plans
    }


def predicted_bytes(source: Source, plans: Mapping[str, OpPlan]) -> int:
    """Bytes of the checkpoint's tensors; without plans, of the unquantized model's."""
    return total_bytes(entries(source, plans))


def count_quantized(directory: Path) -> int:
    """Number of quantized weights in the safetensors files of a directory."""
    count = 0
    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                leaf, kind = name.rpartition(".")[2], file.get_slice(name).get_dtype()
                count += (leaf, kind) in _QUANTIZED
    return count


_QUANTIZED = {("weight", "I8"), ("weight", "F8_E4M3"), ("weight_packed", "I32")}
