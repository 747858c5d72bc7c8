"""Reading tensors where they lie, against what safetensors itself reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantspectrum.errors import UserError
from quantspectrum.models.stored import as_bytes, stored_tensors

TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
]


def saved(directory: Path) -> dict[str, Tensor]:
    tensors = {str(dtype): torch.arange(-6, 9).reshape(5, 3).to(dtype) for dtype in TYPES}
    tensors |= {
        "bool": torch.tensor([[True], [False]]),
        "flat": torch.arange(7.0),
        "no rows": torch.empty(0, 3),
        "nothing in rows": torch.empty(3, 0),
        "one": torch.tensor(2.5),
        "three dimensions": torch.arange(24).reshape(4, 3, 2),
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


def same(found: Tensor, expected: Tensor) -> bool:
    return (
        found.shape == expected.shape
        and found.dtype == expected.dtype
        and torch.equal(as_bytes(found), as_bytes(expected.contiguous()))
    )


def test_whole_tensors(tmp_path: Path) -> None:
    saved(tmp_path)
    found = stored_tensors(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(found)
        for key, stored in found.items():
            expected = file.get_tensor(key)
            assert same(stored.read(), expected), key
            assert same(stored.mapped(), expected), key


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 4), slice(3, 99), slice(None)], ids=str)
def test_some_rows(rows: slice, tmp_path: Path) -> None:
    expected = saved(tmp_path)
    for key, stored in stored_tensors(tmp_path).items():
        part = expected[key][rows] if expected[key].ndim else expected[key]
        assert same(stored.read(rows), part), key


def test_a_map_cannot_change_the_file(tmp_path: Path) -> None:
    saved(tmp_path)
    stored = stored_tensors(tmp_path)["flat"]
    stored.mapped().zero_()
    assert torch.equal(stored.read(), torch.arange(7.0))


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    saved(tmp_path)
    found = stored_tensors(tmp_path)
    path = tmp_path / "model.safetensors"
    last = max(found.values(), key=lambda stored: stored.start)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"ends within {last.key}; fetch it again"):
        last.read()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_reading_to_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through buffers that are smaller than the tensor and used again."""
    monkeypatch.setattr("quantspectrum.models.stored.CHUNK_BYTES", 1000)
    expected = torch.randn(300, 77)
    save_file({"t": expected}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    stored = stored_tensors(tmp_path)["t"]
    cuda = torch.device("cuda")
    assert torch.equal(stored.read(device=cuda).cpu(), expected)
    assert torch.equal(stored.read(slice(9, 211), cuda).cpu(), expected[9:211])
