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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from compressed_tensors.quantization import QuantizationArgs, fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig

from quantspectrum import quantization_config as terms
from quantspectrum.backends.checkpoint import Entry, total_bytes, write_shards
from quantspectrum.backends.packing import pack, packed_columns
from quantspectrum.errors import UserError
from quantspectrum.formats import TensorScheme
from quantspectrum.models.lazy import LazyModel
from quantspectrum.models.loading import Loaded
from quantspectrum.models.placement import named_tensors, tensor_of
from quantspectrum.quantization_config import check_format, input_args, storage_of
from quantspectrum.quantizer import quantize, weight_qparams
from quantspectrum.simulation import InputQuantizer, OpPlan

__all__ = [
    "NAME",
    "Scales",
    "Source",
    "check_plans",
    "codes_by_rows",
    "count_quantized",
    "entries",
    "loader_input_quantizer",
    "predicted_bytes",
    "quantization_config",
    "read_tensor",
    "row_blocks",
    "write",
]

NAME = terms.METHOD

Source: TypeAlias = Loaded | LazyModel
"""What a variant is made from: a model in memory, or one whose weights stay in its files."""

Scales: TypeAlias = Mapping[str, Tensor]
"""Scales of weights that lie on a grid already, by op; of others they are found from the weight."""

_ROWS_ELEMENTS = 2**24
"""Weights are quantized in rows of so many elements together, to bound what is made meanwhile."""


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
    """Every tensor of the checkpoint, in the model's order; tied ones once.

    Where they are offloaded or in files, each is read when its turn comes.
    """
    found: list[Entry] = []
    for name, like, read in _tensors(source):
        op, _, leaf = name.rpartition(".")
        if leaf == "weight" and op in plans:
            given = (scales or {}).get(op)
            found += _QuantizedWeight(op, like, read, plans[op], given).entries()
        else:
            dtype = source.storage_dtype if like.is_floating_point() else like.dtype
            found.append(
                Entry(
                    name=name, shape=tuple(like.shape), dtype=dtype, make=partial(_as, read, dtype)
                )
            )
    return found


def _as(read: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    return read().to(dtype)


def _tensors(source: Source) -> Iterator[tuple[str, Tensor, Callable[[], Tensor]]]:
    """Name of each tensor, one of its shape and type, and what reads its values."""
    state = source.model.state_dict(keep_vars=True)
    if isinstance(source, LazyModel):
        for name, stored in source.tensors.items():
            yield name, state[name], partial(_read, stored.read, source.device, state[name].dtype)
    else:
        for name, read in named_tensors(source.model):
            yield name, state[name], read


def read_tensor(source: Source, name: str) -> Tensor:
    """Values of one tensor of a source, where they are quantized."""
    if isinstance(source, LazyModel):
        kept = source.model.state_dict()[name].dtype
        return _read(source.tensors[name].read, source.device, kept)
    owner, _, leaf = name.rpartition(".")
    return tensor_of(source.model.get_submodule(owner), leaf)


def _read(read: Callable[[], Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    return read().to(device, dtype)


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


class _QuantizedWeight:
    """The tensors that stand for an op's weight, each made from the weight when its turn comes."""

    def __init__(
        self,
        op: str,
        like: Tensor,
        read: Callable[[], Tensor],
        plan: OpPlan,
        scale: Tensor | None,
    ) -> None:
        self._op = op
        self._shape = (like.shape[0], like.shape[1])
        self._plan = plan.for_weight(like)
        self._scheme = plan.format.weight
        self._read = read
        self._given = scale

    def entries(self) -> list[Entry]:
        rows, columns = self._shape
        packed = storage_of(self._plan.format) == "pack-quantized"
        if packed:
            width = packed_columns(columns, self._scheme.bits)
            made = [
                self._entry("weight_packed", (rows, width), torch.int32, self._packed),
                self._entry("weight_shape", (2,), torch.int64, lambda: torch.tensor(self._shape)),
            ]
        else:
            code = torch.float8_e4m3fn if self._scheme.kind == "float" else torch.int8
            made = [self._entry("weight", self._shape, code, self._codes)]
        # One scale a channel is little; vLLM has those of groups in the model's type.
        kept = self._plan.scale_dtype if self._scheme.granularity == "group" else torch.float32
        assert kept is not None
        shape = self._scale_shape()
        made.append(self._entry("weight_scale", shape, kept, lambda: self._scale(shape, kept)))
        return made + self._input_entries()

    def _entry(
        self, leaf: str, shape: tuple[int, ...], dtype: torch.dtype, make: Callable[[], Tensor]
    ) -> Entry:
        return Entry(name=f"{self._op}.{leaf}", shape=shape, dtype=dtype, make=make)

    def _input_entries(self) -> list[Entry]:
        act = self._plan.format.activation
        if act is None or act.dynamic:
            return []
        scale, zero_point = (value.reshape(1) for value in self._plan.input_qparams())
        made = [self._entry("input_scale", (1,), torch.float32, lambda: scale)]
        if not act.symmetric:
            made.append(
                self._entry("input_zero_point", (1,), torch.int8, lambda: zero_point.to(torch.int8))
            )
        return made

    def _scale_shape(self) -> tuple[int, ...]:
        rows, columns = self._shape
        if self._scheme.granularity == "tensor":
            return (1,)
        if self._scheme.granularity == "channel":
            return (rows, 1)
        return (rows, columns // (self._group_size() or columns))

    def _group_size(self) -> int | None:
        return terms.group_size_on_disk(self._scheme, self._shape[1])

    def _qparams(self, values: Tensor) -> tuple[Tensor, Tensor]:
        if self._given is None:
            return weight_qparams(values, self._scheme, self._plan.scale_dtype)
        scale = self._given.to(values.device)
        return scale, torch.zeros_like(scale)

    def _codes(self) -> Tensor:
        values = self._read()
        return codes_by_rows(values, *self._qparams(values), self._scheme)

    def _packed(self) -> Tensor:
        return pack(self._codes(), self._scheme.bits)

    def _scale(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        scale = self._qparams(self._read())[0]
        if self._scheme.granularity == "group" and (size := self._group_size()) is not None:
            assert self._scheme.group_size is not None
            scale = scale.repeat_interleave(self._scheme.group_size // size, dim=1)
            scale = scale[:, : shape[1]]
        return scale.reshape(shape).to(dtype)


def codes_by_rows(
    values: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme
) -> Tensor:
    """The codes of a weight, made a part of its rows at a time."""
    parts = []
    for rows in row_blocks(values, scheme):
        own = (scale[rows], zero_point[rows]) if scale.ndim else (scale, zero_point)
        parts.append(quantize(values[rows], *own, scheme))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def row_blocks(weight: Tensor, scheme: TensorScheme) -> list[slice]:
    """Rows of a weight that are computed together; all of them where they share a scale."""
    if scheme.granularity == "tensor":
        return [slice(None)]
    step = max(1, _ROWS_ELEMENTS // weight.shape[1])
    return [slice(start, start + step) for start in range(0, weight.shape[0], step)]
