"""Reading a variant back: is what lies on disk what was planned?

Three questions, each with an answer of its own:

* **layout**: names, shapes and types of the tensors on disk, against the plan;
* **values**: every quantized weight, decompressed by compressed-tensors itself, against the source
  weight fake-quantized by :mod:`quantspectrum.quantizer`; every other tensor bit for bit;
* **schemes**: which ops ``config.json`` makes quantized, and how, when it is applied to the model
  as transformers applies it.

None needs the variant in memory. A logits comparison on top (:mod:`.quantize`) asks whether the
loader puts the three together as the simulation did.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from torch import Tensor, nn
from transformers import AutoConfig

from quantspectrum.backends.checkpoint import Entry, total_bytes
from quantspectrum.backends.compressed_tensors import (
    Scales,
    Source,
    count_quantized,
    entries,
    read_tensor,
    row_blocks,
)
from quantspectrum.errors import UserError
from quantspectrum.models.lazy import StoredTensor, map_names, meta_model, stored_tensors
from quantspectrum.quantization_config import input_args, storage_of, weight_args
from quantspectrum.quantizer import fake_quantize, fake_quantize_weight
from quantspectrum.simulation import OpPlan

__all__ = ["TensorFindings", "check_schemes", "check_tensors", "skeleton_of"]

Stored = Mapping[str, StoredTensor]


@dataclass(frozen=True, kw_only=True)
class TensorFindings:
    """What the files of a variant hold; see :class:`quantspectrum.artifacts.Verification`."""

    quantized_tensors: int
    counts: dict[str, int]
    predicted_bytes: int
    tensor_bytes: int


def check_tensors(
    directory: Path, source: Source, plans: Mapping[str, OpPlan], scales: Scales | None = None
) -> TensorFindings:
    """Compare every tensor on disk with what was planned.

    Raises:
        UserError: One is missing, too many, of another shape or type, or holds other values; the
            files hold another number of quantized weights, or 1 % more or fewer bytes.
    """
    due = entries(source, plans, scales)
    size = _check_layout(directory, due, plans)
    _check_values(directory, source, due, plans, scales)
    return TensorFindings(
        quantized_tensors=count_quantized(directory),
        counts=_counts_by_format(directory, plans),
        predicted_bytes=total_bytes(due),
        tensor_bytes=size,
    )


def _check_layout(directory: Path, due: Sequence[Entry], plans: Mapping[str, OpPlan]) -> int:
    """Names, shapes and types; returns the tensors' bytes."""
    counted = count_quantized(directory)
    if counted != len(plans):
        raise UserError(
            f"{directory} holds {counted} quantized weights where {len(plans)} were planned; "
            "this is a fault of the backend: please report it"
        )
    found = stored_tensors(directory)
    for entry in due:
        stored = found.get(entry.name)
        if stored is None:
            raise _refusal(directory, f"lacks {entry.name}")
        if (stored.shape, stored.dtype) != (entry.shape, entry.dtype):
            raise _refusal(
                directory,
                f"holds {entry.name} as {stored.dtype} {stored.shape}, not as {entry.dtype} "
                f"{entry.shape}",
            )
    if extra := sorted(found.keys() - {entry.name for entry in due}):
        raise _refusal(directory, f"holds {extra[0]}, which was not planned")
    size = sum(_tensor_bytes(path) for path in directory.glob("*.safetensors"))
    planned = total_bytes(due)
    if abs(size - planned) > 0.01 * planned:
        raise _refusal(directory, f"holds {size} bytes of tensors where {planned} were planned")
    return size


def _tensor_bytes(path: Path) -> int:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return path.stat().st_size - 8 - header


def _counts_by_format(directory: Path, plans: Mapping[str, OpPlan]) -> dict[str, int]:
    found = stored_tensors(directory)
    weights = ("weight_packed", "weight")
    return dict(
        Counter(
            plan.format.name
            for op, plan in plans.items()
            if any(f"{op}.{leaf}" in found for leaf in weights)
        )
    )


def _check_values(
    directory: Path,
    source: Source,
    due: Sequence[Entry],
    plans: Mapping[str, OpPlan],
    scales: Scales | None = None,
) -> None:
    found = stored_tensors(directory)
    weights = {f"{op}.{leaf}" for op in plans for leaf in ("weight", "weight_packed")}
    for entry in due:
        if entry.name in weights:
            op = entry.name.rpartition(".")[0]
            same = _same_weight(found, source, op, plans[op], (scales or {}).get(op))
        else:
            same = _same_bits(found[entry.name].read(), entry.make())
        if not same:
            raise _refusal(directory, f"holds other values of {entry.name} than were planned")


def _same_bits(found: Tensor, expected: Tensor) -> bool:
    found = found.to(expected.device).contiguous()
    return torch.equal(_bytes(found), _bytes(expected.contiguous()))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _same_weight(
    found: Stored, source: Source, op: str, plan: OpPlan, scale: Tensor | None
) -> bool:
    """Compare a part of the rows at a time, so that large weights take little memory."""
    weight = read_tensor(source, f"{op}.weight")
    state = {
        leaf: found[f"{op}.{leaf}"].read().to(weight.device)
        for leaf in ("weight", "weight_packed", "weight_scale")
        if f"{op}.{leaf}" in found
    }
    # In float32: that is what loading in float32 does, and rounds to the same in other types.
    state["weight_scale"] = state["weight_scale"].float()
    plan = plan.for_weight(weight)
    for rows in row_blocks(weight, plan.format.weight):
        own = {leaf: value if value.ndim < 2 else value[rows] for leaf, value in state.items()}
        part = weight[rows]
        if "weight_packed" in own:
            own["weight_shape"] = torch.tensor(part.shape)
        compressor = BaseCompressor.get_value_from_registry(storage_of(plan.format))
        made = compressor.decompress(own, _scheme(plan, weight.shape[1]))["weight"]
        given = None if scale is None else scale[rows]
        if not torch.equal(made.to(part.dtype), _simulated(part, plan, given)):
            return False
    return True


def _simulated(weight: Tensor, plan: OpPlan, scale: Tensor | None) -> Tensor:
    scheme = plan.format.weight
    if scale is None:
        return fake_quantize_weight(weight, scheme, plan.scale_dtype)
    scale = scale.to(weight.device)
    return fake_quantize(weight, scale, torch.zeros_like(scale), scheme)


def _scheme(plan: OpPlan, in_features: int) -> QuantizationScheme:
    return QuantizationScheme(
        targets=["Linear"],
        weights=weight_args(plan.format.weight, in_features),
        input_activations=input_args(plan.format),
        format=storage_of(plan.format),
    )


def skeleton_of(directory: Path, source: Source) -> nn.Module:
    """The variant as transformers makes it before it loads weights: on the device ``meta``.

    Raises:
        UserError: Its tensors, by the names they are loaded under, are not those it needs.
    """
    config = AutoConfig.from_pretrained(directory, trust_remote_code=source.spec.trust_remote_code)
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model = meta_model(config, source.task, source.storage_dtype, source.spec.trust_remote_code)
    described = raw.get("quantization_config")
    if described is not None:
        _apply(model, described)
    stored = stored_tensors(directory)
    names = {name: stored[key] for key, name in map_names(model, stored).items()}
    for name, tensor in model.state_dict().items():
        there = names.get(name)
        if there is not None and there.shape != tuple(tensor.shape):
            raise _refusal(
                directory, f"holds {name} of shape {there.shape}, not {tuple(tensor.shape)}"
            )
    needed = model.state_dict().keys()
    if extra := sorted(names.keys() - needed):
        raise _refusal(directory, f"holds {extra[0]}, which the loaded variant has no place for")
    # Tied weights are in the file once, under the first of their names.
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    if lacking := sorted(needed - names.keys() - tied):
        raise _refusal(directory, f"lacks {lacking[0]}, which the loaded variant needs")
    return model


def _apply(model: nn.Module, described: Mapping[str, Any]) -> None:
    """Do what transformers' quantizer does to a model before its weights are loaded."""
    config = QuantizationConfig.model_validate(dict(described))
    apply_quantization_config(model, config, run_compressed=False, show_progress=False)
    for module in model.modules():
        if (scheme := getattr(module, "quantization_scheme", None)) is not None:
            compressor = BaseCompressor.get_value_from_registry(scheme.format)
            compressor.compress_module(module)


def check_schemes(model: nn.Module, plans: Mapping[str, OpPlan]) -> None:
    """Compare the schemes that a loader gave to a variant's modules with the plans.

    Raises:
        UserError: An op is quantized that was not planned, is not although it was, or is
            quantized in another way.
    """
    found = {
        name: cast("QuantizationScheme", module.quantization_scheme)
        for name, module in model.named_modules()
        if hasattr(module, "quantization_scheme")
    }
    for name in sorted(found.keys() ^ plans.keys()):
        if name in found:
            raise UserError(f"{name} loads as quantized, which was not planned; it was not kept")
        raise UserError(f"{name} was planned and does not load as quantized; it was not kept")
    for name, scheme in found.items():
        module = cast("nn.Linear", model.get_submodule(name))
        planned = _scheme(plans[name], module.in_features)
        for part in ("weights", "input_activations", "output_activations"):
            if getattr(scheme, part) != getattr(planned, part):
                raise UserError(f"{name} loads with other {part} than planned; it was not kept")


def _refusal(directory: Path, what: str) -> UserError:
    return UserError(f"the variant read back from {directory} {what}; it was not kept")
