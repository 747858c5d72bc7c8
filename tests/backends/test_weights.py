"""Tensors by blocks of rows: what is made does not depend on the blocks, and each is read once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models_tiny
from backends.variants import MIXED, spectrum_of, variant
from quantspectrum.backends import checkpoint, compressed_tensors, verify, weights
from quantspectrum.backends.checkpoint import Entry, write_shards
from quantspectrum.backends.verify import equal_bits
from quantspectrum.backends.weights import row_blocks
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS, preset
from quantspectrum.models.lazy import open_model
from quantspectrum.models.loading import ModelSpec, load_model
from quantspectrum.models.stored import StoredTensor
from quantspectrum.simulation import OpPlan

UP = "model.layers.0.mlp.up_proj"
CPU = torch.device("cpu")


def spec_of(directory: Path) -> ModelSpec:
    models_tiny.save(models_tiny.causal_lm(), directory, torch.bfloat16)
    return ModelSpec(model=str(directory), device="cpu")


def rows_at_a_time(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(weights, "_BLOCK_ELEMENTS", {"cpu": elements, "cuda": elements})


def test_blocks_cover_all_rows_once() -> None:
    blocks = row_blocks((2**12 + 1, 2**10), CPU)
    assert [row for rows in blocks for row in range(*rows.indices(2**12 + 1))] == list(range(4097))
    assert all(len(range(*rows.indices(4097))) * 2**10 <= 2**20 for rows in blocks)
    assert row_blocks((2**12 + 1, 2**10), CPU, preset("fp8").weight) == blocks
    # A row that is larger than a block is one by itself; no dimension, no rows.
    assert row_blocks((2, 2**21), CPU) == [slice(0, 1), slice(1, 2)]
    assert row_blocks((), CPU) == [slice(None)]
    assert len(row_blocks((0, 4), CPU)) == 1
    assert row_blocks((64, 64), CPU, preset("w8a8").weight.model_copy(
        update={"granularity": "tensor"}
    )) == [slice(None)]  # fmt: skip


@pytest.mark.parametrize("name", sorted(n for n in PRESETS if n in (*MIXED, "w8a8-static")))
@pytest.mark.parametrize("elements", [1, 1000])
def test_blocks_change_no_bit(
    name: str, elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With groups that do not divide the 96 inputs of a down projection, too."""
    loaded = load_model(spec_of(tmp_path))
    plans = {
        op: OpPlan(format=PRESETS[name], input_range=(-3.0, 3.0), scale_dtype=torch.bfloat16)
        for op in (UP, "model.layers.0.mlp.down_proj")
    }

    def made() -> dict[str, Tensor]:
        found = compressed_tensors.entries(loaded, plans)
        # In the other order: scales are found without the codes too.
        for entry in reversed(found):
            entry_parts[entry.name] = len(list(entry.parts()))
        return {e.name: torch.cat([p.reshape(-1) for p in e.parts()]) for e in found}

    entry_parts: dict[str, int] = {}
    whole = made()
    assert set(entry_parts.values()) == {1}
    rows_at_a_time(monkeypatch, elements)
    assert whole.keys() == (parts := made()).keys()
    assert max(entry_parts.values()) > 5
    for key, value in whole.items():
        assert equal_bits(value, parts[key]), key


def test_each_tensor_is_read_once_to_write_and_once_to_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "m")
    spectrum = spectrum_of(load_model(spec), MIXED)
    rows_at_a_time(monkeypatch, 1000)
    read: Counter[tuple[str, str]] = Counter()
    original = StoredTensor.read

    def counted(self: StoredTensor, *args: Any) -> Tensor:
        values = original(self, *args)
        read[self.file.parent.name, self.key] += values.nbytes
        return values

    source = open_model(spec)
    monkeypatch.setattr(StoredTensor, "read", counted)
    variant(source, spectrum, tmp_path / "v")
    for name, stored in source.tensors.items():
        size = stored.dtype.itemsize * torch.Size(stored.shape).numel()
        assert read["m", stored.key] == 2 * size, name
    on_disk = load_file(tmp_path / "v/model.safetensors")
    for name, value in on_disk.items():
        assert read[".v.partial", name] == value.nbytes, name


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("row", [0, 50, 95])
@pytest.mark.parametrize("leaf", ["weight", "weight_scale"])
def test_one_bit_of_any_block_is_found(
    leaf: str, row: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "m")
    rows_at_a_time(monkeypatch, 640)
    monkeypatch.setattr(verify, "_THREADS", {"cpu": threads})
    original = compressed_tensors.write

    def write(source: Any, plans: Any, directory: Path, scales: Any = None) -> None:
        original(source, plans, directory, scales)
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors[f"{UP}.{leaf}"][row].view(torch.uint8)[0] ^= 1
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(compressed_tensors, "write", write)
    spectrum = spectrum_of(load_model(spec))
    with pytest.raises(UserError, match=rf"holds other values of {UP}\.weight than"):
        variant(open_model(spec), spectrum, tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_a_scale_that_no_code_needs_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of zeros is zero with every scale."""
    model = models_tiny.causal_lm()
    with torch.no_grad():
        model.get_parameter(f"{UP}.weight")[3] = 0
    models_tiny.save(model, tmp_path / "m", torch.bfloat16)
    spec = ModelSpec(model=str(tmp_path / "m"), device="cpu")
    original = compressed_tensors.write

    def write(source: Any, plans: Any, directory: Path, scales: Any = None) -> None:
        original(source, plans, directory, scales)
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors[f"{UP}.weight_scale"][3] *= 2
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(compressed_tensors, "write", write)
    spectrum = spectrum_of(load_model(spec))
    with pytest.raises(UserError, match=rf"holds other values of {UP}\.weight than"):
        variant(open_model(spec), spectrum, tmp_path / "v")


def test_bits_known_answers() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert equal_bits(nan, nan.clone())
    assert not equal_bits(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    # Seven bytes, and bytes that begin anywhere.
    assert equal_bits(torch.arange(7).byte(), torch.arange(7).byte())
    assert not equal_bits(torch.zeros(7).byte(), torch.tensor([0] * 6 + [1]).byte())
    odd = torch.arange(17).byte()[1:]
    assert equal_bits(odd, odd.clone())
    assert equal_bits(torch.empty(0), torch.empty(0))
    assert equal_bits(torch.tensor(2.5), torch.tensor(2.5))


@pytest.mark.parametrize(
    ("pieces", "told"),
    [((2, 1), "less than"), ((2, 3), "more than"), ((), "less than")],
    ids=["too few rows", "too many", "none"],
)
def test_parts_that_are_not_what_was_announced(
    pieces: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    wrong = Entry(
        name="t",
        shape=(4, 3),
        dtype=torch.int8,
        make=lambda: (torch.zeros(n, 3, dtype=torch.int8) for n in pieces),
    )
    with pytest.raises(AssertionError, match=f"t: {told}"):
        write_shards(tmp_path, [wrong])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_a_gpu_makes_is_written_as_what_the_cpu_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through buffers that are smaller than a tensor and used again; verified as always."""
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 1000)
    spec = spec_of(tmp_path / "m")
    spectrum = spectrum_of(load_model(spec), MIXED)
    variant(open_model(spec), spectrum, tmp_path / "cpu")
    on_gpu = open_model(ModelSpec(model=spec.model, device="cuda"))
    variant(on_gpu, spectrum, tmp_path / "cuda")
    files = [(tmp_path / where / "model.safetensors").read_bytes() for where in ("cpu", "cuda")]
    assert files[0] == files[1]
