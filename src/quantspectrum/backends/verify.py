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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    count_quantized,
    entries,
    quantized_weights,
)
from quantspectrum.backends.weights import QuantizedWeight, Scales, Source
from quantspectrum.errors import UserError
from quantspectrum.models.files import read_header
from quantspectrum.models.lazy import map_names, meta_model
from quantspectrum.models.stored import StoredTensor, as_bytes, stored_tensors
from quantspectrum.quantization_config import input_args, storage_of, weight_args
from quantspectrum.quantizer import fake_quantize
from quantspectrum.simulation import OpPlan

__all__ = ["TensorFindings", "check_schemes", "check_tensors", "equal_bits", "skeleton_of"]

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
    found = stored_tensors(directory)
    size = _check_layout(directory, found, due, plans)
    _check_values(directory, found, source, due, quantized_weights(source, plans, scales))
    return TensorFindings(
        quantized_tensors=count_quantized(directory),
        counts=_counts_by_format(found, plans),
        predicted_bytes=total_bytes(due),
        tensor_bytes=size,
    )


def _check_layout(
    directory: Path, found: Stored, due: Sequence[Entry], plans: Mapping[str, OpPlan]
) -> int:
    """Names, shapes and types; returns the tensors' bytes."""
    counted = count_quantized(directory)
    if counted != len(plans):
        raise UserError(
            f"{directory} holds {counted} quantized weights where {len(plans)} were planned; "
            "this is a fault of the backend: please report it"
        )
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
    return path.stat().st_size - read_header(path)[1]


def _counts_by_format(found: Stored, plans: Mapping[str, OpPlan]) -> dict[str, int]:
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
    found: Stored,
    source: Source,
    due: Sequence[Entry],
    weights: Mapping[str, QuantizedWeight],
) -> None:
    """Read everything back and compare; quantized weights with their scales, all else as bytes."""
    of_weights = {
        f"{weight.op}.{leaf}": weight for weight in weights.values() for leaf in _WEIGHT_LEAVES
    }

    def same(entry: Entry) -> bool:
        weight = of_weights.get(entry.name)
        if weight is None:
            return _same_bytes(found[entry.name], entry.parts())
        # Its scales are compared with it.
        return entry.name.endswith(".weight_scale") or _same_weight(found, weight)

    with ThreadPoolExecutor(_THREADS["cuda" if source.device.type == "cuda" else "cpu"]) as pool:
        try:
            for entry, is_same in zip(due, pool.map(same, due), strict=True):
                if not is_same:
                    raise _refusal(
                        directory, f"holds other values of {entry.name} than were planned"
                    )
        finally:
            # After a difference, or Ctrl-C, the rest need not be read.
            pool.shutdown(cancel_futures=True)


_WEIGHT_LEAVES = ("weight", "weight_packed", "weight_scale")

_THREADS = {"cpu": 1, "cuda": 4}
"""On a GPU reading files is what takes the time; on a CPU torch uses all of it already."""


def _same_bytes(stored: StoredTensor, expected: Iterator[Tensor]) -> bool:
    start = 0
    for part in expected:
        rows = slice(start, start + part.shape[0]) if part.ndim else slice(None)
        if not equal_bits(stored.read(rows, part.device), part):
            return False
        start = rows.stop
    return True


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of a shape and type have the same bits, not a number or not."""
    one, other = as_bytes(one.contiguous()), as_bytes(other.contiguous())
    if len(one) % 8 == 0 and not (one.storage_offset() | other.storage_offset()) % 8:
        # Comparing integers is what torch is fast at.
        one, other = one.view(torch.int64), other.view(torch.int64)
    return torch.equal(one, other)


def _same_weight(found: Stored, weight: QuantizedWeight) -> bool:
    """Compare what compressed-tensors makes of codes and scales, and the scales themselves."""
    op, plan, scheme = weight.op, weight.plan, weight.scheme
    compressor = BaseCompressor.get_value_from_registry(storage_of(plan.format))
    leaves = [leaf for leaf in _WEIGHT_LEAVES if f"{op}.{leaf}" in found]
    for rows, values, scale, zero_point in weight.blocks():
        own = {
            # Of a weight with one scale there is one block, of all rows.
            leaf: found[f"{op}.{leaf}"].read(rows, values.device)
            for leaf in leaves
        }
        if not equal_bits(own["weight_scale"], weight.scale_on_disk(scale)):
            return False
        # In float32: that is what loading in float32 does, and rounds to the same in other types.
        own["weight_scale"] = own["weight_scale"].float()
        if "weight_packed" in own:
            own["weight_shape"] = torch.tensor(values.shape)
        made = compressor.decompress(own, _scheme(plan, values.shape[1]))["weight"]
        if not torch.equal(made.to(values.dtype), fake_quantize(values, scale, zero_point, scheme)):
            return False
    return True


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
