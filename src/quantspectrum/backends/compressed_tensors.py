"""Backend ``compressed-tensors``: the checkpoint format vLLM, SGLang and transformers load.

A quantized op ``NAME`` stores ``NAME.weight`` (int8), ``NAME.weight_scale`` and, with static
activations, ``NAME.input_scale`` (and ``NAME.input_zero_point`` when affine); everything else is
stored as in the source. ``config.json`` gets a ``quantization_config`` that targets ``Linear``
and lists every other Linear in ``ignore``. Tensors and ``ignore`` use the names the modules have
when the model is loaded, the one spelling that both transformers and vLLM map to themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors import safe_open
from torch import Tensor, nn

from quantspectrum.backends.checkpoint import Entry, total_bytes, write_shards
from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.models.loading import Loaded
from quantspectrum.quantizer import quantize, weight_qparams
from quantspectrum.simulation import InputQuantizer, OpPlan

__all__ = [
    "NAME",
    "check_plans",
    "count_quantized",
    "loader_input_quantizer",
    "predicted_bytes",
    "quantization_config",
    "write",
]

NAME = "compressed-tensors"


def check_plans(loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
    """Refuse what the format cannot hold.

    Raises:
        UserError: An op is not a Linear, the profile mixes formats, or its format cannot be
            written.
    """
    for name in plans:
        module = loaded.model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise UserError(
                f"op {name} is a {type(module).__name__}; compressed-tensors checkpoints hold "
                "quantized Linear ops only: leave it out of the profile"
            )
    names = sorted({plan.format.name for plan in plans.values()})
    if len(names) > 1:
        raise UserError(f"a checkpoint of this backend holds one format, not {', '.join(names)}")
    for plan in plans.values():
        if lacking := _not_written(plan.format):
            raise UserError(
                f"backend {NAME} cannot write format {plan.format.name} yet, which has {lacking}; "
                "it writes formats with int8 inputs and int8 weights per channel or tensor"
            )


def _not_written(fmt: Format) -> str | None:
    """What of the format this backend has no entries for."""
    if "float" in (fmt.weight.kind, fmt.activation and fmt.activation.kind):
        return "FP8 numbers"
    if fmt.weight.granularity == "group":
        return "weights in groups"
    if fmt.activation is None:
        return "weights alone quantized"  # The format wants such weights packed into int32.
    return "quantized outputs" if fmt.output else None


def write(loaded: Loaded, plans: Mapping[str, OpPlan], directory: Path) -> None:
    """Write model, configuration and processor into an existing, empty directory."""
    write_shards(directory, entries(loaded, plans))
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    _set_dtype(config, str(loaded.storage_dtype).removeprefix("torch."))
    config["architectures"] = [type(loaded.model).__name__]
    if plans:
        config["quantization_config"] = quantization_config(loaded, plans)
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    generation = getattr(loaded.model, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(directory)
    loaded.processor.save_pretrained(directory)


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Say the checkpoint's type, also in the configurations of its parts."""
    config["dtype"] = dtype
    for part in config.values():
        if isinstance(part, dict) and "dtype" in part:
            _set_dtype(part, dtype)


def quantization_config(loaded: Loaded, plans: Mapping[str, OpPlan]) -> dict[str, Any]:
    """The ``quantization_config`` of a profile, in the format's own terms."""
    fmt = next(iter(plans.values())).format
    linears = [n for n, m in loaded.model.named_modules() if isinstance(m, nn.Linear)]
    scheme: dict[str, Any] = {"targets": ["Linear"], "weights": _args(fmt.weight)}
    scheme["input_activations"] = _args(fmt.activation) if fmt.activation else None
    return {
        "quant_method": NAME,
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": [name for name in linears if name not in plans],
        "kv_cache_scheme": None,
    }


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
    args = QuantizationArgs(**_args(scheme))
    if scheme.dynamic:
        return lambda x: fake_quantize(x, *compute_dynamic_scales_and_zp(x, args, None), args)
    scale, zero_point = (value.reshape(1) for value in plan.input_qparams())

    def static(x: Tensor) -> Tensor:
        zero = None if scheme.symmetric else zero_point.to(x.device, torch.int8)
        output: Tensor = fake_quantize(x, scale.to(x.device, x.dtype), zero, args)
        return output

    return static


def _args(scheme: TensorScheme) -> dict[str, Any]:
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": scheme.granularity,
        "dynamic": scheme.dynamic,
    }


def entries(loaded: Loaded, plans: Mapping[str, OpPlan]) -> list[Entry]:
    """Every tensor of the checkpoint, in the model's order; tied ones once."""
    found: list[Entry] = []
    seen: set[int] = set()
    persistent = loaded.model.state_dict(keep_vars=True)
    for name, tensor in persistent.items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        op, _, leaf = name.rpartition(".")
        if leaf == "weight" and op in plans:
            found += _quantized_entries(op, tensor.detach(), plans[op])
        else:
            found.append(_plain_entry(name, tensor.detach(), loaded.storage_dtype))
    return found


def predicted_bytes(loaded: Loaded, plans: Mapping[str, OpPlan]) -> int:
    """Bytes of the checkpoint's tensors; without plans, of the unquantized model's."""
    return total_bytes(entries(loaded, plans))


def count_quantized(directory: Path) -> int:
    """Number of int8 weights in the safetensors files of a directory."""
    count = 0
    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118
            count += sum(file.get_slice(name).get_dtype() == "I8" for name in names)
    return count


def _plain_entry(name: str, tensor: Tensor, dtype: torch.dtype) -> Entry:
    if not tensor.is_floating_point():
        dtype = tensor.dtype
    return Entry(name=name, nbytes=tensor.numel() * dtype.itemsize, make=lambda: tensor.to(dtype))


def _quantized_entries(op: str, weight: Tensor, plan: OpPlan) -> list[Entry]:
    plan = plan.for_weight(weight)
    scheme = plan.format.weight

    def codes() -> Tensor:
        return quantize(weight, *weight_qparams(weight, scheme, plan.scale_dtype), scheme)

    def scale() -> Tensor:
        return weight_qparams(weight, scheme, plan.scale_dtype)[0].reshape(-1, 1)

    channels = weight.shape[0] if scheme.granularity == "channel" else 1
    made = [
        Entry(name=f"{op}.weight", nbytes=weight.numel(), make=codes),
        Entry(name=f"{op}.weight_scale", nbytes=4 * channels, make=scale),
    ]
    act = plan.format.activation
    if act is None or act.dynamic:
        return made
    input_scale, zero_point = (value.reshape(1) for value in plan.input_qparams())
    made.append(Entry(name=f"{op}.input_scale", nbytes=4, make=lambda: input_scale))
    if not act.symmetric:
        made.append(
            Entry(name=f"{op}.input_zero_point", nbytes=1, make=lambda: zero_point.to(torch.int8))
        )
    return made
