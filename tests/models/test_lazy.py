from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models.lazy import open_model
from quantspectrum.models.loading import ModelSpec, load_model
from quantspectrum.models.placement import named_tensors
from quantspectrum.models.stored import stored_tensors

FAMILIES = sorted(models_tiny.FAMILIES.keys() - {"qwen3 moe"})


def save(name: str, directory: Path, dtype: torch.dtype = torch.bfloat16) -> ModelSpec:
    models_tiny.save(models_tiny.family(name), directory, dtype)
    return ModelSpec(model=str(directory), device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_are_those_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    """transformers itself says which name each tensor of a file is loaded under."""
    spec = save(family, tmp_path)
    lazy, loaded = open_model(spec), load_model(spec)
    expected = dict(named_tensors(loaded.model))
    assert list(lazy.tensors) == list(expected)
    for name, read in expected.items():
        assert torch.equal(lazy.tensors[name].read().to(read().dtype), read()), name
    assert lazy.identity == loaded.identity.model_copy(update={"dtype": "bfloat16"})
    assert lazy.storage_dtype == loaded.storage_dtype
    assert lazy.task == loaded.task
    assert all(p.device.type == "meta" for p in lazy.model.parameters())


def test_files_name_tensors_otherwise_than_modules(tmp_path: Path) -> None:
    lazy = open_model(save("qwen2.5-vl", tmp_path))
    block = "blocks.0.attn.qkv.weight"
    assert lazy.tensors[f"model.visual.{block}"].key == f"visual.{block}"
    assert f"visual.{block}" in stored_tensors(tmp_path)


def test_rearranged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experts.*rearranged.*leave out --stream"):
        open_model(save("qwen3 moe", tmp_path))


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    spec = save("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks model\.norm\.weight"):
        open_model(spec)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    spec = save("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight has shape \(3,\)"):
        open_model(spec)


def test_a_gguf_file_and_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GGUF file has to be loaded"):
        open_model(ModelSpec(model=str(tmp_path), gguf_file="a.gguf"))
    with pytest.raises(UserError, match="does not exist"):
        open_model(ModelSpec(model=str(tmp_path / "nothing")))
