from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import models_tiny
from quantspectrum.artifacts import Manifest, Op, Profile, Spectrum, read_artifact
from quantspectrum.backends import compressed_tensors, quantize, weights
from quantspectrum.backends.compressed_tensors import count_quantized, loader_input_quantizer
from quantspectrum.backends.quantize import (
    MAX_RELATIVE_L2,
    plans_of,
    quantize_profile,
    relative_l2,
)
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.simulation import OpPlan, Simulation

Usage = namedtuple("Usage", "total used free")


def batches_for(loaded: Loaded) -> list[Batch]:
    if loaded.takes_images:
        return [models_tiny.text_batch(vision=True), models_tiny.image_batch()]
    return [models_tiny.text_batch()]


def spectrum_for(loaded: Loaded, fmt: str = "w8a8", **changes: Any) -> Spectrum:
    """Profiles that quantize nothing, every op of the first block, and everything."""
    ops = [Op(**vars(op)) for op in list_ops(loaded.model, loaded.layout).candidates]
    names = [op.name for op in ops]
    quantized = {"baseline": [], "half": [op.name for op in ops if op.block == 0], "max": names}
    made: dict[str, Any] = {
        "formats": {fmt: preset(fmt)},
        "input_ranges": observe_ranges(loaded.model, names, batches_for(loaded), loaded.device),
        "profiles": [
            Profile(name=name, share=0, groups=0, ops=dict.fromkeys(ops, fmt), predicted_damage=0)
            for name, ops in quantized.items()
        ],
    }
    return spectrum_of(loaded, ops, **made | changes)


def spectrum_of(loaded: Loaded, ops: Sequence[Op], **changes: Any) -> Spectrum:
    made: dict[str, Any] = {
        "model": loaded.identity,
        "lens": "native:mse_v2",
        "base": "isolate",
        "report_sha256": "r",
        "formats": {"w8a8": preset("w8a8")},
        "candidates": ops,
        "input_ranges": {},
    }
    return Spectrum(**made | changes)


def write(
    loaded: Loaded, out: Path, profile: str = "half", spectrum: Spectrum | None = None, **more: Any
) -> Manifest:
    spectrum = spectrum or spectrum_for(loaded)
    return quantize_profile(loaded, spectrum, profile, out, spectrum_sha256="abc", **more)


def reload(loaded: Loaded, directory: Path) -> nn.Module:
    auto: Any = AutoModelForImageTextToText if loaded.takes_images else AutoModelForCausalLM
    model: nn.Module = auto.from_pretrained(directory).eval()
    return model


def simulate(loaded: Loaded, plans: Mapping[str, OpPlan], batch: Batch) -> Tensor:
    with Simulation(loaded.model, plans, loader_input_quantizer) as simulation:
        simulation.activate_all()
        return models_tiny.logits(loaded.model, batch)


@pytest.fixture
def tiny(llama: nn.Module) -> Loaded:
    return models_tiny.loaded(llama)


KINDS = ["qwen3 moe", "bert", "bert classifier", "vit", "swin", "unknown text", "unknown image"]


@pytest.mark.parametrize("family", KINDS)
def test_every_kind_of_model_has_variants(tmp_path: Path, family: str) -> None:
    """The stage itself loads the variant back and compares it with the simulated model."""
    loaded = load_model(
        ModelSpec(
            model=str(models_tiny.save(models_tiny.family(family), tmp_path / "m")), device="cpu"
        )
    )
    table = list_ops(loaded.model, loaded.layout)
    names = [op.name for op in table.candidates]
    profile = Profile(
        name="max", share=1, groups=1, ops=dict.fromkeys(names, "w8a8"), predicted_damage=0
    )
    spectrum = spectrum_of(loaded, table.candidates, profiles=[profile])
    manifest = write(loaded, tmp_path / "v", "max", spectrum)
    assert manifest.verification is not None
    assert manifest.verification.quantized_tensors == len(names) > 0
    files = load_file(tmp_path / "v/model.safetensors")
    assert all(files[f"{name}.weight"].dtype == torch.int8 for name in names)


@pytest.mark.parametrize("profile", ["half", "max"])
@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
@pytest.mark.parametrize("family", ["llama", "vl"])
def test_a_variant_is_the_simulated_model(
    family: str, fmt: str, profile: str, tmp_path: Path
) -> None:
    model = models_tiny.causal_lm() if family == "llama" else models_tiny.qwen2_5_vl()
    loaded = models_tiny.loaded(model)
    spectrum, out = spectrum_for(loaded, fmt), tmp_path / "variant"
    manifest = write(loaded, out, profile, spectrum)
    plans = plans_of(spectrum, profile, loaded)
    found = reload(loaded, out)
    for batch in batches_for(loaded):
        expected = simulate(loaded, plans, batch)
        assert relative_l2(models_tiny.logits(found, batch), expected) <= 1e-6
    assert manifest.verification is not None
    assert manifest.verification.relative_l2 <= 1e-6
    assert manifest.verification.bound == MAX_RELATIVE_L2
    assert manifest.verification.quantized_tensors == len(plans) == count_quantized(out)


@pytest.mark.parametrize("family", ["llama", "vl"])
def test_the_manifest_describes_what_is_there(family: str, tmp_path: Path) -> None:
    model = models_tiny.causal_lm() if family == "llama" else models_tiny.qwen2_5_vl()
    loaded = models_tiny.loaded(model)
    spectrum, out = spectrum_for(loaded), tmp_path / "variant"
    manifest = write(loaded, out, spectrum=spectrum)
    assert read_artifact(out / "manifest.json", Manifest) == manifest
    there = {p.name: p.stat().st_size for p in out.iterdir() if p.name != "manifest.json"}
    assert manifest.files == there
    assert manifest.total_bytes == sum(there.values())
    assert manifest.profile == spectrum.profile("half")
    assert (manifest.backend, manifest.spectrum_sha256) == ("compressed-tensors", "abc")
    assert manifest.provenance.model == loaded.identity
    parameters = sum(p.numel() for p in model.parameters())
    assert manifest.baseline_bytes == 4 * parameters
    ops = spectrum.profile("half").ops
    weights = [loaded.model.get_parameter(f"{op}.weight").numel() for op in ops]
    assert manifest.quantized_weight_bytes == sum(weights)


def test_the_predicted_size_is_that_of_the_weight_file(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny)
    manifest = write(tiny, tmp_path / "variant", "max", spectrum)
    predicted = compressed_tensors.predicted_bytes(tiny, plans_of(spectrum, "max", tiny))
    header = int.from_bytes((tmp_path / "variant/model.safetensors").read_bytes()[:8], "little")
    assert manifest.files["model.safetensors"] - 8 - header == pytest.approx(predicted, rel=0.01)


def test_the_baseline_profile_is_the_model_itself(tiny: Loaded, tmp_path: Path) -> None:
    manifest = write(tiny, tmp_path / "variant", "baseline")
    found, batch = reload(tiny, tmp_path / "variant"), models_tiny.text_batch()
    assert torch.equal(models_tiny.logits(found, batch), models_tiny.logits(tiny.model, batch))
    assert manifest.quantized_weight_bytes == 0
    assert manifest.verification is not None
    assert manifest.verification.quantized_tensors == 0


def test_more_quantized_ops_take_fewer_bytes(tiny: Loaded, tmp_path: Path) -> None:
    sizes = [
        write(tiny, tmp_path / name, name).files["model.safetensors"]
        for name in ("baseline", "half", "max")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "vl"])
def test_a_variant_of_a_half_precision_checkpoint(family: str, dtype: str, tmp_path: Path) -> None:
    """Whatever type the source was loaded in, the variant is stored in the source's."""
    model = models_tiny.causal_lm() if family == "llama" else models_tiny.qwen2_5_vl()
    source = models_tiny.save(model, tmp_path / "source", torch.bfloat16)
    loaded = load_model(ModelSpec(model=str(source), dtype=dtype, device="cpu"))
    manifest = write(loaded, tmp_path / "variant", "max", spectrum_for(loaded, "w8a8-static"))
    assert manifest.verification is not None
    assert manifest.verification.relative_l2 <= 1e-6
    config = json.loads((tmp_path / "variant/config.json").read_text())
    inner = [config[key]["dtype"] for key in ("text_config", "vision_config") if key in config]
    assert {config["dtype"], *inner} == {"bfloat16"}
    plain = reload(loaded, tmp_path / "variant")
    assert {p.dtype for p in plain.parameters() if p.is_floating_point()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weight_scales_are_numbers_of_the_sources_type(dtype: str, tmp_path: Path) -> None:
    """Loaders keep scales in the checkpoint's type: rounded there, they would fit no code."""
    source = models_tiny.save(models_tiny.causal_lm(), tmp_path / "source", torch.bfloat16)
    loaded = load_model(ModelSpec(model=str(source), dtype=dtype, device="cpu"))
    write(loaded, tmp_path / "variant", "max", spectrum_for(loaded))
    tensors = load_file(tmp_path / "variant/model.safetensors")
    scales = {name: scale for name, scale in tensors.items() if name.endswith("weight_scale")}
    assert len(scales) == 14
    for name, scale in scales.items():
        assert torch.equal(scale.bfloat16().float(), scale), name


def test_a_variant_in_several_shards(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards = compressed_tensors.write_shards
    monkeypatch.setattr(
        compressed_tensors,
        "write_shards",
        lambda directory, entries: write_shards(directory, entries, max_shard_bytes=50_000),
    )
    manifest = write(tiny, tmp_path / "variant", "half")
    assert "model.safetensors.index.json" in manifest.files
    assert sum(name.endswith(".safetensors") for name in manifest.files) > 2
    assert manifest.verification is not None
    assert manifest.verification.relative_l2 <= 1e-6


def test_the_model_is_left_as_it_was(tiny: Loaded, tmp_path: Path) -> None:
    before = models_tiny.weights(tiny.model)
    write(tiny, tmp_path / "variant")
    assert models_tiny.forwards(tiny.model) == {}
    for name, parameter in tiny.model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])


def refusal(loaded: Loaded, out: Path, *args: Any, **more: Any) -> str:
    """What quantizing says; it must leave nothing behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError) as caught:
        write(loaded, out, *args, **more)
    assert sorted(out.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_spectrum_of_other_weights_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    other = models_tiny.loaded(models_tiny.causal_lm(seed=1))
    message = refusal(tiny, tmp_path / "variant", "half", spectrum_for(other))
    assert "differ: make a spectrum of them" in message


def test_a_spectrum_of_another_family_is_refused(
    tiny: Loaded, vl: nn.Module, tmp_path: Path
) -> None:
    refusal(tiny, tmp_path / "variant", "half", spectrum_for(models_tiny.loaded(vl)))


def test_an_unknown_profile_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    message = refusal(tiny, tmp_path / "variant", "wild")
    assert "'wild'" in message
    assert "baseline, half, max" in message


def test_an_unknown_backend_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    assert "'gguf'" in refusal(tiny, tmp_path / "variant", backend_name="gguf")


def profile_of(ops: dict[str, str]) -> list[Profile]:
    return [Profile(name="half", share=0, groups=0, ops=ops, predicted_damage=0)]


def test_an_op_the_model_lacks_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny, profiles=profile_of({"model.layers.7.up": "w8a8"}))
    message = refusal(tiny, tmp_path / "variant", "half", spectrum)
    assert "the model has no op 'model.layers.7.up'" in message


def test_an_undefined_format_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny, profiles=profile_of({"model.layers.0.mlp.up_proj": "w4"}))
    assert "format 'w4'" in refusal(tiny, tmp_path / "variant", "half", spectrum)


def test_a_missing_range_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny, "w8a8-static", input_ranges={})
    message = refusal(tiny, tmp_path / "variant", "half", spectrum)
    assert "no calibrated input range" in message


def test_a_convolution_is_refused(vl: nn.Module, tmp_path: Path) -> None:
    loaded = models_tiny.loaded(vl)
    ops = {"model.visual.patch_embed.proj": "w8a8"}
    spectrum = spectrum_for(loaded, profiles=profile_of(ops))
    assert "is a Conv3d" in refusal(loaded, tmp_path / "variant", "half", spectrum)


def test_a_module_that_is_no_op_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny, profiles=profile_of({"model.embed_tokens": "w8a8"}))
    assert "model.embed_tokens" in refusal(tiny, tmp_path / "variant", "half", spectrum)


def test_a_tied_head_is_refused(tmp_path: Path) -> None:
    """Its codes would be the embedding's too."""
    loaded = models_tiny.loaded(models_tiny.causal_lm(tie_word_embeddings=True))
    spectrum = spectrum_for(loaded, profiles=profile_of({"lm_head": "w8a8"}))
    refusal(loaded, tmp_path / "variant", "half", spectrum)


def test_a_checkpoint_that_is_quantized_already_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    write(tiny, tmp_path / "first")
    variant = load_model(ModelSpec(model=str(tmp_path / "first"), device="cpu"))
    spectrum = spectrum_for(tiny, model=variant.identity)
    assert "quantized" in refusal(variant, tmp_path / "second", "max", spectrum)


def test_what_exists_is_refused_and_kept(tiny: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "variant"
    write(tiny, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "exists already" in refusal(tiny, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_disk_that_is_too_small_is_refused(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**9, 10**9 - 1000, 1000))
    assert "free space or choose another --out" in refusal(tiny, tmp_path / "variant")


@pytest.mark.parametrize("function", ["write_shards", "entries"])
def test_a_full_disk_leaves_nothing(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    spectrum = spectrum_for(tiny)
    original = getattr(compressed_tensors, function)
    calls: list[str] = []

    def fail(*args: Any) -> Any:
        calls.append(function)
        # The entries are listed once before writing, to know their size.
        if function == "entries" and len(calls) == 1:
            return original(*args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compressed_tensors, function, fail)
    message = refusal(tiny, tmp_path / "variant", "half", spectrum)
    assert "No space left on device; free space" in message


def test_a_disk_that_fills_up_leaves_nothing(
    tiny: Loaded,
    tmp_path: Path,
    file_size_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    spectrum = spectrum_for(tiny)
    with file_size_limit(50_000):
        message = refusal(tiny, tmp_path / "variant", "half", spectrum)
    assert "cannot write" in message
    assert "free space" in message


def test_a_variant_with_other_codes_is_not_kept(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = weights.quantize
    monkeypatch.setattr(weights, "quantize", lambda *args: original(*args).flip(0))
    message = refusal(tiny, tmp_path / "variant")
    assert "holds other values of model.layers.0.self_attn.q_proj.weight" in message
    assert "it was not kept" in message


def test_a_variant_that_reloads_differently_is_not_kept(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor is right, and the loader puts them together otherwise."""
    original = quantize.load_model

    def other(spec: ModelSpec) -> Loaded:
        loaded = original(spec)
        with torch.no_grad():
            loaded.model.get_parameter("model.norm.weight").mul_(1.1)
        return loaded

    monkeypatch.setattr(quantize, "load_model", other)
    message = refusal(tiny, tmp_path / "variant")
    assert "differs from the simulated one" in message
    assert "it was not kept" in message


def test_a_variant_that_gives_no_numbers_is_not_kept(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny)
    with torch.no_grad():
        tiny.model.get_parameter("model.norm.weight").fill_(float("nan"))
    assert "nan" in refusal(tiny, tmp_path / "variant", "half", spectrum)


def test_an_offloaded_model_is_not_quantized(tiny: Loaded, tmp_path: Path) -> None:
    spectrum = spectrum_for(tiny)
    accelerate.cpu_offload(tiny.model, execution_device=tiny.device)
    with pytest.raises(UserError, match=r"weights are offloaded.*--device cpu"):
        write(tiny, tmp_path / "variant", "half", spectrum)
    assert not (tmp_path / "variant").exists()


def test_a_variant_with_an_op_too_few_is_not_kept(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = compressed_tensors.write

    def forgetful(
        loaded: Loaded, plans: dict[str, OpPlan], directory: Path, scales: Any = None
    ) -> None:
        original(loaded, dict(list(plans.items())[1:]), directory, scales)

    monkeypatch.setattr(compressed_tensors, "write", forgetful)
    assert "holds 6 quantized weights where 7 were planned" in refusal(tiny, tmp_path / "variant")


def test_an_interruption_leaves_nothing(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "load_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tiny, tmp_path / "variant")
    assert list(tmp_path.iterdir()) == []
    assert models_tiny.forwards(tiny.model) == {}


def test_relative_l2_known_answers() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert relative_l2(expected, expected) == 0
    assert relative_l2(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert relative_l2(-expected, expected) == pytest.approx(2.0)
    # Cosine similarity would not see this one.
    assert relative_l2(2 * expected, expected) == pytest.approx(1.0)


def test_the_real_stories_model_as_a_variant(stories_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelSpec(model=str(stories_dir), device="cpu"))
    manifest = write(loaded, tmp_path / "variant", "max", spectrum_for(loaded, "w8a8"))
    assert manifest.verification is not None
    assert manifest.verification.relative_l2 <= 1e-6
    found = load_model(ModelSpec(model=str(tmp_path / "variant"), device="cpu"))
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    ids = torch.tensor([loaded.processor(text)["input_ids"]])
    with torch.inference_mode():
        losses = [m.model(input_ids=ids, labels=ids).loss.item() for m in (loaded, found)]
    # W8A8 per token costs a trained model next to nothing.
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
