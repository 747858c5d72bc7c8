"""Tensors of safetensors files, read where they lie: whole, or some rows at a time.

By plain reads, and not by a map of the file: to touch the pages of a map for the first time takes
several times as long as to copy them, and they count as this process's memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from quantspectrum.errors import UserError
from quantspectrum.models.files import read_header

__all__ = ["CHUNK_BYTES", "StoredTensor", "as_bytes", "stored_tensors"]

CHUNK_BYTES = 2**23
"""What goes between a file and a GPU goes through buffers of so many bytes."""

_CPU = torch.device("cpu")
_ALL = slice(None)

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a file: where it lies, and its shape and type, without its values."""

    file: Path
    key: str
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self, rows: slice = _ALL, device: torch.device = _CPU) -> Tensor:
        """Its values on a device: those of some of its rows, or all of them.

        Raises:
            UserError: The file has become shorter.
        """
        shape, skipped = self.shape, 0
        if shape:
            first, last, _ = rows.indices(shape[0])
            row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
            shape, skipped = (max(0, last - first), *shape[1:]), first * row_bytes
        made = torch.empty(shape, dtype=self.dtype, device=device)
        content = as_bytes(made)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start + skipped)
            if device.type == "cpu":
                self._fill(file, content)
                return made
            for begin in range(0, len(content), CHUNK_BYTES):
                part = content[begin : begin + CHUNK_BYTES]
                # torch gives a pinned buffer out again only once it has been copied.
                buffer = torch.empty(len(part), dtype=torch.uint8, pin_memory=True)
                self._fill(file, buffer)
                part.copy_(buffer, non_blocking=True)
        return made

    def _fill(self, file: Any, content: Tensor) -> None:
        view = memoryview(cast("Any", content.numpy()))
        while view:
            count = file.readinto(view)
            if not count:
                raise UserError(f"{self.file} ends within {self.key}; fetch it again")
            view = view[count:]

    def mapped(self) -> Tensor:
        """Its values as a map of the file, of which only what is touched is read."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if not size:
            return torch.empty(self.shape, dtype=self.dtype)
        # To be written to on paper only: torch has no tensors that cannot be.
        content = np.memmap(self.file, np.uint8, "c", self.start, (size,))
        return torch.from_numpy(content).view(self.dtype).reshape(self.shape)


def as_bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor, as bytes: neither numpy nor files know all types."""
    return tensor.reshape(-1).view(torch.uint8)


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the safetensors files of a directory, by its name there."""
    found: dict[str, StoredTensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        fields, data = read_header(path)
        for key in sorted(fields):
            found[key] = StoredTensor(
                file=path,
                key=key,
                start=data + fields[key]["data_offsets"][0],
                shape=tuple(fields[key]["shape"]),
                dtype=_DTYPES[fields[key]["dtype"]],
            )
    return found
