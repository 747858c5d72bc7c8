"""Tensors of a model to be written, some rows at a time, and the quantized ones made of them.

A tensor of any size is read, quantized and handed on in blocks of its rows, so that what is made
meanwhile stays small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from quantspectrum import quantization_config as terms
from quantspectrum.backends.checkpoint import Entry
from quantspectrum.backends.packing import pack, packed_columns
from quantspectrum.formats import TensorScheme
from quantspectrum.models.lazy import LazyModel
from quantspectrum.models.loading import Loaded
from quantspectrum.models.placement import named_tensors
from quantspectrum.models.stored import StoredTensor
from quantspectrum.quantization_config import storage_of
from quantspectrum.quantizer import quantize, weight_qparams
from quantspectrum.simulation import OpPlan

__all__ = [
    "QuantizedWeight",
    "Scales",
    "Source",
    "SourceTensor",
    "codes_by_rows",
    "row_blocks",
    "source_tensors",
]

Source: TypeAlias = Loaded | LazyModel
"""What a variant is made from: a model in memory, or one whose weights stay in its files."""

Scales: TypeAlias = Mapping[str, Tensor]
"""Scales of weights that lie on a grid already, by op; of others they are found from the weight."""

_CPU = torch.device("cpu")

_BLOCK_ELEMENTS = {"cpu": 2**20, "cuda": 2**23}
"""Of a block. A GPU takes more, for fewer kernels to launch."""


def row_blocks(
    shape: Sequence[int], device: torch.device, scheme: TensorScheme | None = None
) -> list[slice]:
    """Rows of a tensor that are computed together; all of them where they share a scale."""
    if not shape or (scheme is not None and scheme.granularity == "tensor"):
        return [slice(None)]
    elements = _BLOCK_ELEMENTS["cuda" if device.type == "cuda" else "cpu"]
    step = max(1, elements // max(1, math.prod(shape[1:])))
    return [slice(start, start + step) for start in range(0, max(1, shape[0]), step)]


def codes_by_rows(
    values: Tensor, scale: Tensor, zero_point: Tensor, scheme: TensorScheme
) -> Tensor:
    """The codes of a weight, made a part of its rows at a time."""
    parts = []
    for rows in row_blocks(values.shape, values.device, scheme):
        own = _of_rows(scale, rows), _of_rows(zero_point, rows)
        parts.append(quantize(values[rows], *own, scheme))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _of_rows(value: Tensor, rows: slice) -> Tensor:
    return value[rows] if value.ndim else value


@dataclass(frozen=True, kw_only=True)
class SourceTensor:
    """A tensor of a source.

    Attributes:
        name: Its name in the model.
        like: One of its shape and type.
        device: Where it is quantized.
        origin: What its values are read from.
    """

    name: str
    like: Tensor
    device: torch.device
    origin: StoredTensor | Callable[[], Tensor]

    def blocks(self, blocks: Sequence[slice]) -> Iterator[Tensor]:
        """Its values, so many rows at a time, where they are quantized."""
        return self._blocks(blocks, self.device)

    def copied(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Its values in the type they are kept in; those of a file go by no other device."""
        device = _CPU if isinstance(self.origin, StoredTensor) else self.device
        blocks = row_blocks(self.like.shape, device)
        return (part.to(dtype) for part in self._blocks(blocks, device))

    def _blocks(self, blocks: Sequence[slice], device: torch.device) -> Iterator[Tensor]:
        if isinstance(self.origin, StoredTensor):
            stored = self.origin
            return (stored.read(rows, device).to(self.like.dtype) for rows in blocks)
        values = self.origin()
        return (_of_rows(values, rows) for rows in blocks)


def source_tensors(source: Source) -> Iterator[SourceTensor]:
    """Every tensor of a source in the model's order, tied ones once.

    Where they are offloaded or in files, each is read when its turn comes.
    """
    state = source.model.state_dict(keep_vars=True)
    if isinstance(source, LazyModel):
        for name, stored in source.tensors.items():
            yield SourceTensor(name=name, like=state[name], device=source.device, origin=stored)
    else:
        for name, read in named_tensors(source.model):
            like = state[name]
            device = _CPU if like.device.type == "meta" else like.device
            yield SourceTensor(name=name, like=like, device=device, origin=read)


class QuantizedWeight:
    """An op's weight and the tensors that stand for it, made when their turn comes.

    It is read once for its codes and its scales: what is made of the scales is kept from the one
    until the other is asked for.
    """

    def __init__(self, tensor: SourceTensor, plan: OpPlan, scale: Tensor | None) -> None:
        """Of a tensor, quantized by a plan, with the scales it is on the grid of already, if any."""
        self.op = tensor.name.rpartition(".")[0]
        self.plan = plan.for_weight(tensor.like)
        self.scheme = plan.format.weight
        self._shape = (tensor.like.shape[0], tensor.like.shape[1])
        self._tensor = tensor
        self._given = scale
        self._scale: Tensor | None = None

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Rows, their values, scales and zero points, a block after another."""
        blocks = row_blocks(self._shape, self._tensor.device, self.scheme)
        for rows, values in zip(blocks, self._tensor.blocks(blocks), strict=True):
            if self._given is None:
                yield rows, values, *weight_qparams(values, self.scheme, self.plan.scale_dtype)
            else:
                scale = _of_rows(self._given, rows).to(values.device)
                yield rows, values, scale, torch.zeros_like(scale)

    def entries(self) -> list[Entry]:
        """What a checkpoint holds of it."""
        rows, columns = self._shape
        if storage_of(self.plan.format) == "pack-quantized":
            width = packed_columns(columns, self.scheme.bits)
            made = [
                self._entry("weight_packed", (rows, width), torch.int32, self._codes),
                self._entry("weight_shape", (2,), torch.int64, lambda: torch.tensor(self._shape)),
            ]
        else:
            code = torch.float8_e4m3fn if self.scheme.kind == "float" else torch.int8
            made = [self._entry("weight", self._shape, code, self._codes)]
        made.append(self._entry("weight_scale", self._scale_shape(), self._kept(), self._scales))
        return made + self._input_entries()

    def _entry(
        self,
        leaf: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        make: Callable[[], Tensor | Iterator[Tensor]],
    ) -> Entry:
        return Entry(name=f"{self.op}.{leaf}", shape=shape, dtype=dtype, make=make)

    def _input_entries(self) -> list[Entry]:
        act = self.plan.format.activation
        if act is None or act.dynamic:
            return []
        scale, zero_point = (value.reshape(1) for value in self.plan.input_qparams())
        made = [self._entry("input_scale", (1,), torch.float32, lambda: scale)]
        if not act.symmetric:
            made.append(
                self._entry("input_zero_point", (1,), torch.int8, lambda: zero_point.to(torch.int8))
            )
        return made

    def _kept(self) -> torch.dtype:
        """One scale a channel is little; vLLM has those of groups in the model's type."""
        kept = self.plan.scale_dtype if self.scheme.granularity == "group" else torch.float32
        assert kept is not None
        return kept

    def _scale_shape(self) -> tuple[int, ...]:
        rows, columns = self._shape
        if self.scheme.granularity == "tensor":
            return (1,)
        if self.scheme.granularity == "channel":
            return (rows, 1)
        return (rows, columns // (self._group_size() or columns))

    def _group_size(self) -> int | None:
        return terms.group_size_on_disk(self.scheme, self._shape[1])

    def _codes(self) -> Iterator[Tensor]:
        packed = storage_of(self.plan.format) == "pack-quantized"
        scales = []
        for _, values, scale, zero_point in self.blocks():
            scales.append(self.scale_on_disk(scale))
            codes = quantize(values, scale, zero_point, self.scheme)
            yield pack(codes, self.scheme.bits) if packed else codes
        self._scale = torch.cat(scales)

    def _scales(self) -> Tensor:
        made, self._scale = self._scale, None
        if made is None:
            made = torch.cat([self.scale_on_disk(scale) for _, _, scale, _ in self.blocks()])
        return made

    def scale_on_disk(self, scale: Tensor) -> Tensor:
        """Scales of some rows as the checkpoint has them: for smaller groups, each several times."""
        shape = self._scale_shape()
        if self.scheme.granularity == "group" and (size := self._group_size()) is not None:
            assert self.scheme.group_size is not None
            scale = scale.repeat_interleave(self.scheme.group_size // size, dim=1)
            scale = scale[:, : shape[1]]
        return scale.reshape(-1, *shape[1:]).to(self._kept())
