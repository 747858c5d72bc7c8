"""A variant that was changed between writing and reading back must not pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models_tiny
from backends.variants import MIXED, spectrum_of, variant
from quantspectrum.artifacts import Manifest, read_artifact
from quantspectrum.backends import compressed_tensors
from quantspectrum.errors import UserError
from quantspectrum.models.lazy import LazyModel, open_model
from quantspectrum.models.loading import Loaded, ModelSpec, load_model

Tensors = dict[str, Tensor]
Config = dict[str, Any]
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"


@pytest.fixture(params=["in memory", "in files"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Loaded | LazyModel:
    directory = models_tiny.save(models_tiny.causal_lm(), tmp_path / "source", torch.bfloat16)
    spec = ModelSpec(model=str(directory), device="cpu")
    return load_model(spec) if request.param == "in memory" else open_model(spec)


def spectrum_for(source: Loaded | LazyModel, formats: tuple[str, ...]) -> Any:
    return spectrum_of(load_model(ModelSpec(model=source.spec.model, device="cpu")), formats)


def refusal(
    source: Loaded | LazyModel,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    alter: Callable[[Path], None],
    formats: tuple[str, ...] = ("w8a8-static",),
) -> str:
    """What is said of a variant that was altered right after it was written."""
    spectrum = spectrum_for(source, formats)
    original = compressed_tensors.write

    def write(source: Any, plans: Any, directory: Path, scales: Any = None) -> None:
        original(source, plans, directory, scales)
        alter(directory)

    monkeypatch.setattr(compressed_tensors, "write", write)
    with pytest.raises(UserError) as caught:
        variant(source, spectrum, out)
    assert not out.exists()
    assert list(out.parent.glob(".*")) == []
    message = str(caught.value)
    assert "\n" not in message
    return message


def tensors_with(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    def alter(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return alter


def config_with(change: Callable[[Config], None]) -> Callable[[Path], None]:
    def alter(directory: Path) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        change(config["quantization_config"])
        path.write_text(json.dumps(config))

    return alter


def flip_bit(name: str, bit: int = 0) -> Callable[[Path], None]:
    """Flip one bit of the last value's first byte: the least that can go wrong."""

    def change(tensors: Tensors) -> None:
        flat = tensors[name].reshape(-1).clone()
        flat.view(torch.uint8)[-flat.element_size()] ^= 1 << bit
        tensors[name] = flat.reshape(tensors[name].shape)

    return tensors_with(change)


@pytest.mark.parametrize(
    "name",
    [
        f"{UP}.weight_scale",
        f"{UP}.input_scale",
        f"{UP}.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
    ],
)
def test_one_flipped_bit_is_found(
    source: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(source, tmp_path / "v", monkeypatch, flip_bit(name))
    # A scale is told by the weight that it makes.
    assert f"holds other values of {name.removesuffix('_scale')}" in message or name in message


@pytest.mark.parametrize("leaf", ["weight_packed", "weight_scale", "weight_shape"])
def test_one_flipped_bit_of_a_packed_weight_is_found(
    source: Any, leaf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(source, tmp_path / "v", monkeypatch, flip_bit(f"{UP}.{leaf}"), ("w4a16",))
    assert f"holds other values of {UP}.weight" in message


def test_an_infinite_scale_is_found(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{UP}.weight_scale"][0] = float("inf")

    assert UP in refusal(source, tmp_path / "v", monkeypatch, tensors_with(change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(f"{UP}.weight_scale"), f"lacks {UP}.weight_scale"),
        (lambda t: t.update(new=torch.zeros(1)), "holds new, which was not planned"),
        (lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"].float()}), "holds 13 quantized"),
        (
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"].float()}),
            "holds model.norm.weight as torch.float32",
        ),
        (
            lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"].T.contiguous()}),
            f"holds {UP}.weight as torch.int8 (64, 96), not as",
        ),
    ],
    ids=["lacking", "extra", "not quantized", "type", "shape"],
)
def test_tensors_that_were_not_planned_are_found(
    source: Any, change: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told in refusal(source, tmp_path / "v", monkeypatch, tensors_with(change))


@pytest.mark.parametrize(
    ("change", "formats"),
    [
        (lambda c: c["ignore"].append(UP), ("w8a8",)),
        (lambda c: c["ignore"].remove("lm_head"), ("w8a8",)),
        # A prefix that a checkpoint's own names have, and the loaded modules have not.
        (lambda c: c.update(ignore=["language_model.lm_head"]), ("w8a8",)),
        (lambda c: c["config_groups"]["group_0"]["targets"].remove(UP), ("w8a8", "fp8")),
        (
            lambda c: c["config_groups"]["group_0"]["weights"].update(num_bits=4),
            ("w8a8",),
        ),
        (
            lambda c: c["config_groups"]["group_0"]["input_activations"].update(strategy="tensor"),
            ("w8a8",),
        ),
        (lambda c: c["config_groups"]["group_0"].update(input_activations=None), ("w8a8",)),
        (lambda c: c["config_groups"].pop("group_1"), ("w8a8", "fp8")),
        (
            lambda c: c["config_groups"]["group_0"]["targets"].append(
                c["config_groups"]["group_1"]["targets"].pop(0)
            ),
            ("w8a8", "fp8"),
        ),
    ],
    ids=[
        *("ignored", "not ignored", "prefix", "no target", "bits", "strategy", "no activations"),
        *("no group", "wrong group"),
    ],
)
def test_a_configuration_that_says_something_else_is_found(
    source: Any,
    change: Any,
    formats: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = refusal(source, tmp_path / "v", monkeypatch, config_with(change), formats)
    assert "it was not kept" in message or "cannot load" in message or "lacks" in message


@pytest.mark.parametrize("formats", [("w8a8",), ("w4a16",), MIXED], ids="+".join)
def test_what_was_found_is_recorded(source: Any, formats: tuple[str, ...], tmp_path: Path) -> None:
    spectrum = spectrum_for(source, formats)
    manifest = variant(source, spectrum, tmp_path / "v")
    found = manifest.verification
    assert found is not None
    assert read_artifact(tmp_path / "v/manifest.json", Manifest) == manifest
    given = list(spectrum.profiles[0].ops.values())
    assert found.counts == {name: given.count(name) for name in set(given)}
    assert found.quantized_tensors == 14 == sum(found.counts.values())
    tensors = load_file(tmp_path / "v/model.safetensors")
    assert found.predicted_bytes == found.tensor_bytes == sum(t.nbytes for t in tensors.values())
    if isinstance(source, LazyModel):
        assert (found.compared, found.relative_l2) == (("tensors",), None)
    else:
        assert found.compared == ("tensors", "logits")
        assert found.relative_l2 == 0
    codes = [t for n, t in tensors.items() if n.endswith((".weight_packed", "_proj.weight"))]
    assert manifest.quantized_weight_bytes == sum(code.nbytes for code in codes)
