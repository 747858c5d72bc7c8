"""SmoothQuant and GPTQ through llm-compressor, in its own environment where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models_tiny
from backends.variants import spectrum_of, variant
from quantspectrum.artifacts import Manifest, read_artifact
from quantspectrum.backends import treatment
from quantspectrum.backends.quantize import quantize_profile
from quantspectrum.backends.treatment import TreatmentRequest, norms_feeding, treat
from quantspectrum.data.encode import encode_for
from quantspectrum.data.probe import probe_samples
from quantspectrum.errors import UserError
from quantspectrum.isolation import find_environment
from quantspectrum.models.loading import Loaded, ModelSpec, load_model

needs_llmcompressor = pytest.mark.skipif(
    find_environment("llmcompressor") is None,
    reason="the environment llmcompressor is absent: quantspectrum doctor --install llmcompressor",
)


def request_for(loaded: Loaded, transform: Any, algorithm: Any) -> TreatmentRequest:
    samples = probe_samples(loaded.takes_images)
    return TreatmentRequest(
        transform=transform,
        algorithm=algorithm,
        batches=encode_for(loaded, samples, batch_size=1),
        data=(),
    )


def load(model: nn.Module, directory: Path, dtype: torch.dtype | None = None) -> Loaded:
    models_tiny.save(model, directory, dtype)
    return load_model(ModelSpec(model=str(directory), device="cpu"))


def test_norms_are_found_with_all_they_feed(llama: nn.Module) -> None:
    loaded = models_tiny.loaded(llama)
    batch = models_tiny.text_batch((5,))
    layer = "model.layers.0"
    attention = [f"{layer}.self_attn.{name}_proj" for name in "qkv"]
    found = norms_feeding(loaded, [f"{layer}.self_attn.q_proj", f"{layer}.mlp.down_proj"], batch)
    # k and v are not to be quantized and are fed all the same; nothing divides down_proj's input.
    assert found == [(attention, f"{layer}.input_layernorm")]
    assert models_tiny.hooks(llama) == 0


def test_norms_of_a_vision_tower_are_found_too(vl: nn.Module) -> None:
    loaded = models_tiny.loaded(vl)
    ops = ["model.visual.blocks.1.attn.qkv", "model.visual.blocks.1.mlp.up_proj"]
    found = {norm: fed for fed, norm in norms_feeding(loaded, ops, models_tiny.image_batch((5,)))}
    assert found == {
        "model.visual.blocks.1.norm1": ["model.visual.blocks.1.attn.qkv"],
        "model.visual.blocks.1.norm2": [
            "model.visual.blocks.1.mlp.gate_proj",
            "model.visual.blocks.1.mlp.up_proj",
        ],
    }


CASES = [
    ("llama", "w8a8-static", "smoothquant", "rtn", None),
    ("llama", "w8a8", "smoothquant", "gptq", torch.bfloat16),
    ("llama", "w4a16", None, "gptq", torch.bfloat16),
    ("qwen2.5-vl", "w8a8", "smoothquant", "rtn", None),
    ("qwen2.5-vl", "w8a8", None, "gptq", None),
]


@needs_llmcompressor
@pytest.mark.slow
@pytest.mark.parametrize(("family", "fmt", "transform", "algorithm", "dtype"), CASES)
def test_a_treated_variant_is_verified_and_recorded(
    family: str, fmt: str, transform: Any, algorithm: Any, dtype: Any, tmp_path: Path
) -> None:
    loaded = load(models_tiny.family(family), tmp_path / "m", dtype)
    before = models_tiny.weights(loaded.model)
    spectrum = spectrum_of(loaded, (fmt,))
    treated = treat(loaded, spectrum, "all", request_for(loaded, transform, algorithm))
    manifest = quantize_profile(
        loaded, spectrum, "all", tmp_path / "v", spectrum_sha256="x", treated=treated
    )
    assert read_artifact(tmp_path / "v/manifest.json", Manifest) == manifest
    record, found = manifest.treatment, manifest.verification
    assert record is not None
    assert found is not None
    assert (record.transform, record.algorithm) == (transform, algorithm)
    assert record.packages["llmcompressor"] == "0.14.0.1"
    assert found.compared == ("tensors", "logits")
    assert found.relative_l2 == 0
    assert found.counts == {fmt: len(spectrum.profiles[0].ops)}
    # The model that was given is as it was, and its copy is not.
    assert all(torch.equal(p, before[n][1]) for n, p in loaded.model.named_parameters())
    moved = [
        name
        for name, value in treated.loaded.model.named_parameters()
        if not torch.equal(value, before[name][1])
    ]
    ops = spectrum.profiles[0].ops
    # Norms change with a transform alone, and nothing but norms and weights ever does.
    norms = [name for name in moved if name.rpartition(".")[0] not in ops]
    assert bool(norms) == (transform is not None)
    assert all("norm" in name for name in norms)
    assert set(treated.scales) == (set(ops) if algorithm == "gptq" else set())


@needs_llmcompressor
@pytest.mark.slow
def test_gptq_loses_less_than_rounding_to_the_nearest(stories_dir: Path, tmp_path: Path) -> None:
    """On a trained model, measured on its own calibration text: what GPTQ is for."""
    loaded = load_model(ModelSpec(model=str(stories_dir), device="cpu"))
    spectrum = spectrum_of(loaded, ("w4a16",))
    # Its down projections have 172 inputs, which groups of 128 do not divide.
    ops = {op: f for op, f in spectrum.profiles[0].ops.items() if "down_proj" not in op}
    profile = spectrum.profiles[0].model_copy(update={"ops": ops})
    spectrum = spectrum.model_copy(update={"profiles": (profile,)})
    request = request_for(loaded, None, "gptq")
    treated = treat(loaded, spectrum, "all", request)
    quantize_profile(
        loaded, spectrum, "all", tmp_path / "gptq", spectrum_sha256="x", treated=treated
    )
    variant(loaded, spectrum, tmp_path / "rtn")
    reference = [models_tiny.logits(loaded.model, batch) for batch in request.batches]
    errors = {}
    for name in ("gptq", "rtn"):
        found = load_model(ModelSpec(model=str(tmp_path / name), device="cpu")).model
        errors[name] = sum(
            float((models_tiny.logits(found, batch) - expected).square().sum())
            for batch, expected in zip(request.batches, reference, strict=True)
        )
    assert errors["gptq"] < errors["rtn"]


def test_what_cannot_be_treated_is_refused(
    llama: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(treatment, "run_worker", None)  # nothing may get that far
    encoder = models_tiny.loaded(models_tiny.bert())
    with pytest.raises(UserError, match="takes language models"):
        treat(encoder, spectrum_of(encoder), "all", request_for(encoder, "smoothquant", "rtn"))
    loaded = models_tiny.loaded(llama)
    with pytest.raises(UserError, match="GPTQ rounds to integers, not to fp8"):
        treat(loaded, spectrum_of(loaded, ("fp8",)), "all", request_for(loaded, None, "gptq"))
    odd = models_tiny.loaded(models_tiny.causal_lm(intermediate_size=200))
    with pytest.raises(UserError, match="groups of 128 do not divide its 200 inputs"):
        treat(odd, spectrum_of(odd, ("w4a16",)), "all", request_for(odd, None, "gptq"))
    spectrum = spectrum_of(loaded)
    only = {"model.layers.0.mlp.down_proj": "w8a8"}
    profile = spectrum.profiles[0].model_copy(update={"ops": only})
    spectrum = spectrum.model_copy(update={"profiles": (profile,)})
    with pytest.raises(UserError, match="no norm feeds an op"):
        treat(loaded, spectrum, "all", request_for(loaded, "smoothquant", "rtn"))


def test_a_transform_that_changes_the_model_is_refused(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm was divided, and what it feeds was not multiplied."""
    name = "model.layers.0.input_layernorm.weight"

    def worker(*_: object) -> Any:
        return {name: llama.get_parameter(name) / 2}, {"versions": {}}

    loaded = models_tiny.loaded(llama)
    monkeypatch.setattr(treatment, "_run", worker)
    with pytest.raises(UserError, match="the transform changed what the model computes"):
        treat(loaded, spectrum_of(loaded), "all", request_for(loaded, "smoothquant", "rtn"))


def test_an_absent_environment_is_told(
    llama: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path))
    monkeypatch.delenv("QUANTSPECTRUM_ENV_LLMCOMPRESSOR", raising=False)
    loaded = models_tiny.loaded(llama)
    with pytest.raises(UserError, match="doctor --install llmcompressor"):
        treat(loaded, spectrum_of(loaded), "all", request_for(loaded, "smoothquant", "rtn"))
