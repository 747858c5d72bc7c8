"""Integer codes packed into int32, as compressed-tensors' ``pack-quantized`` has them."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["pack", "packed_columns"]


def packed_columns(columns: int, bits: int) -> int:
    """Number of int32 that hold so many codes."""
    return -(-columns * bits // 32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack int8 codes ``(out, in)`` of 4 or 8 bits along their rows.

    Each code is stored with ``2**(bits - 1)`` added, so that it is never negative; the first one
    lies in the lowest bits of the first int32. What is left of the last one is zero
    (``compressed_tensors.compressors.pack_quantized.helpers.pack_to_int32``).
    """
    assert bits in (4, 8), bits
    assert sys.byteorder == "little", "int32 are put together from their bytes"
    columns = codes.shape[1]
    unsigned = (codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    missing = packed_columns(columns, bits) * 32 // bits - columns
    unsigned = functional.pad(unsigned, (0, missing)) if missing else unsigned
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    return unsigned.contiguous().view(torch.int32)
