from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.backends.packing import pack, packed_columns


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 70),
    bits=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
)
def test_packed_codes_are_those_of_compressed_tensors(
    rows: int, columns: int, bits: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (rows, columns), generator=rng, dtype=torch.int8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.int32
    assert packed.shape == (rows, packed_columns(columns, bits))
    assert torch.equal(packed, pack_to_int32(codes, bits))
    assert torch.equal(unpack_from_int32(packed, bits, codes.shape), codes)


def test_a_known_answer() -> None:
    codes = torch.tensor([[-8, -7, 7, 0, 0, 0, 0, -8]], dtype=torch.int8)
    assert pack(codes, 4).item() == 0x08888F10


@pytest.mark.parametrize("bits", [3, 16])
def test_other_widths_are_a_mistake(bits: int) -> None:
    with pytest.raises(AssertionError):
        pack(torch.zeros(1, 8, dtype=torch.int8), bits)
