from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

import models_tiny
from quantspectrum.backends import BACKENDS, backend_named
from quantspectrum.backends.compressed_tensors import (
    check_plans,
    count_quantized,
    loader_input_quantizer,
    predicted_bytes,
    quantization_config,
    write,
)
from quantspectrum.backends.quantize import relative_l2
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS, preset
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import list_ops
from quantspectrum.quantizer import dequantize, input_qparams, qparams, weight_qparams
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.simulation import OpPlan, Simulation, serving_input_quantizer

Plans = dict[str, OpPlan]
MODELS: dict[str, Any] = {
    "llama": models_tiny.causal_lm,
    "llama tied": lambda: models_tiny.causal_lm(tie_word_embeddings=True),
    "qwen2": lambda: models_tiny.causal_lm("qwen2"),
    "vl": models_tiny.qwen2_5_vl,
    "vl tied": lambda: models_tiny.qwen2_5_vl(tied=True),
}
DYNAMIC = OpPlan(format=preset("w8a8"))
EVERY_OTHER_GROUP = slice(0, None, 2)


def batches_for(loaded: Loaded) -> list[Batch]:
    if loaded.takes_images:
        return [models_tiny.text_batch(vision=True), models_tiny.image_batch()]
    return [models_tiny.text_batch()]


def plans_for(loaded: Loaded, fmt: str, which: slice = EVERY_OTHER_GROUP) -> Plans:
    """Plans for some of the model's groups, with ranges from the batches themselves."""
    ops = list_ops(loaded.model, loaded.layout).candidates
    groups = list(dict.fromkeys(op.group for op in ops))[which]
    names = [op.name for op in ops if op.group in groups]
    ranges = observe_ranges(loaded.model, names, batches_for(loaded), loaded.device)
    return {name: OpPlan(format=preset(fmt), input_range=ranges[name]) for name in names}


def reload(loaded: Loaded, directory: Path, **options: Any) -> nn.Module:
    auto: Any = AutoModelForImageTextToText if loaded.takes_images else AutoModelForCausalLM
    model: nn.Module = auto.from_pretrained(directory, **options).eval()
    return model


def tensors_on_disk(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


@pytest.fixture(params=MODELS)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return models_tiny.loaded(MODELS[request.param]())


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_what_transformers_reloads_is_what_was_simulated(
    loaded: Loaded, fmt: str, tmp_path: Path
) -> None:
    plans = plans_for(loaded, fmt)
    write(loaded, plans, tmp_path)
    found = reload(loaded, tmp_path)
    for batch in batches_for(loaded):
        reference = models_tiny.logits(loaded.model, batch)
        with Simulation(loaded.model, plans, loader_input_quantizer) as simulation:
            simulation.activate_all()
            expected = models_tiny.logits(loaded.model, batch)
        assert relative_l2(models_tiny.logits(found, batch), expected) <= 1e-6
        # … and quantizing did something.
        assert relative_l2(reference, expected) > 1e-4


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_codes_are_on_disk_for_exactly_the_planned_ops(
    loaded: Loaded, fmt: str, tmp_path: Path
) -> None:
    plans = plans_for(loaded, fmt)
    write(loaded, plans, tmp_path)
    tensors = tensors_on_disk(tmp_path)
    quantized = {
        name
        for name, value in tensors.items()
        if name.endswith(".weight") and value.dtype == torch.int8
    }
    assert quantized == {f"{op}.weight" for op in plans}
    assert count_quantized(tmp_path) == len(plans)
    static, affine = fmt != "w8a8", fmt == "w8a8-static-affine"
    extra = {"weight_scale": True, "input_scale": static, "input_zero_point": affine}
    for leaf, due in extra.items():
        there = {name for name in tensors if name.rpartition(".")[2] == leaf}
        assert there == ({f"{op}.{leaf}" for op in plans} if due else set())


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_the_stored_numbers_are_those_of_the_quantizer(
    loaded: Loaded, fmt: str, tmp_path: Path
) -> None:
    plans = plans_for(loaded, fmt)
    write(loaded, plans, tmp_path)
    tensors = tensors_on_disk(tmp_path)
    for op, plan in plans.items():
        weight = loaded.model.get_parameter(f"{op}.weight")
        scale, zero_point = weight_qparams(weight, plan.format.weight)
        codes, stored = tensors[f"{op}.weight"], tensors[f"{op}.weight_scale"]
        assert codes.shape == weight.shape
        assert torch.equal(stored, scale)
        values = dequantize(codes, stored, zero_point, plan.format.weight, torch.float32)
        error = (values - weight).abs()
        assert (error <= 0.5001 * scale).all()
        activation = plan.format.activation
        if fmt != "w8a8":
            assert activation is not None
            assert plan.input_range is not None
            low, high = map(torch.tensor, plan.input_range)
            expected = qparams(low, high, activation)
            assert tensors[f"{op}.input_scale"].tolist() == [expected[0].item()]
            if not activation.symmetric:
                assert tensors[f"{op}.input_zero_point"].dtype == torch.int8
                assert tensors[f"{op}.input_zero_point"].tolist() == [expected[1].item()]


def test_what_is_not_planned_is_as_in_the_source(loaded: Loaded, tmp_path: Path) -> None:
    plans = plans_for(loaded, "w8a8")
    write(loaded, plans, tmp_path)
    tensors = tensors_on_disk(tmp_path)
    for name, parameter in loaded.model.named_parameters():
        if name.removesuffix(".weight") not in plans:
            assert torch.equal(tensors[name], parameter), name


def test_everything_can_be_quantized(loaded: Loaded, tmp_path: Path) -> None:
    plans = plans_for(loaded, "w8a8", slice(None))
    write(loaded, plans, tmp_path)
    assert (
        count_quantized(tmp_path)
        == len(plans)
        == len(list_ops(loaded.model, loaded.layout).candidates)
    )


def test_an_untied_head_can_be_quantized(tmp_path: Path, llama: nn.Module) -> None:
    loaded = models_tiny.loaded(llama)
    plans = {"lm_head": DYNAMIC}
    write(loaded, plans, tmp_path)
    batch = models_tiny.text_batch()
    with Simulation(llama, plans, loader_input_quantizer) as simulation:
        simulation.activate_all()
        expected = models_tiny.logits(llama, batch)
    assert relative_l2(models_tiny.logits(reload(loaded, tmp_path), batch), expected) <= 1e-6
    assert not torch.equal(expected, models_tiny.logits(llama, batch))


def test_the_baseline_is_a_plain_checkpoint(loaded: Loaded, tmp_path: Path) -> None:
    write(loaded, {}, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert count_quantized(tmp_path) == 0
    found = reload(loaded, tmp_path)
    for batch in batches_for(loaded):
        expected = models_tiny.logits(loaded.model, batch)
        assert torch.equal(models_tiny.logits(found, batch), expected)


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_the_ignore_list_names_every_linear_that_is_not_planned(loaded: Loaded, fmt: str) -> None:
    plans = plans_for(loaded, fmt)
    config = quantization_config(loaded, plans)
    linears = {n for n, m in loaded.model.named_modules() if isinstance(m, nn.Linear)}
    assert set(config["ignore"]) == linears - set(plans)
    assert len(config["ignore"]) == len(set(config["ignore"]))


def test_the_quantization_config_in_the_formats_own_terms(llama: nn.Module) -> None:
    loaded = models_tiny.loaded(llama)
    config = quantization_config(loaded, plans_for(loaded, "w8a8-static-affine"))
    assert config["quant_method"] == "compressed-tensors"
    assert config["format"] == "int-quantized"
    (group,) = config["config_groups"].values()
    assert group["targets"] == ["Linear"]
    weights, activations = group["weights"], group["input_activations"]
    assert (weights["num_bits"], weights["type"], weights["strategy"]) == (8, "int", "channel")
    assert (weights["symmetric"], weights["dynamic"]) == (True, False)
    assert (activations["strategy"], activations["symmetric"]) == ("tensor", False)
    assert activations["dynamic"] is False


def test_a_reloaded_op_has_a_scheme_only_when_it_was_planned(
    loaded: Loaded, tmp_path: Path
) -> None:
    plans = plans_for(loaded, "w8a8")
    write(loaded, plans, tmp_path)
    found = reload(loaded, tmp_path)
    with_scheme = {n for n, m in found.named_modules() if hasattr(m, "quantization_scheme")}
    assert with_scheme == set(plans)


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_predicted_bytes_are_those_on_disk(
    loaded: Loaded, fmt: str, storage: torch.dtype, tmp_path: Path
) -> None:
    model = models_tiny.cast(models_tiny.cast(loaded.model, storage), torch.float32)
    loaded = models_tiny.loaded(model, storage_dtype=storage)
    for name, plans in {"variant": plans_for(loaded, fmt), "baseline": {}}.items():
        (tmp_path / name).mkdir()
        write(loaded, plans, tmp_path / name)
        tensors = tensors_on_disk(tmp_path / name)
        found = sum(tensor.nbytes for tensor in tensors.values())
        assert predicted_bytes(loaded, plans) == pytest.approx(found, rel=0.01)
        files = sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors"))
        assert found <= files < 1.2 * found


def test_a_variant_is_smaller_than_the_baseline(loaded: Loaded) -> None:
    assert predicted_bytes(loaded, plans_for(loaded, "w8a8")) < predicted_bytes(loaded, {})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_are_stored_in_the_sources_type(
    loaded: Loaded, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Loaded in float32 from a half-precision checkpoint: nothing is widened on disk."""
    model = models_tiny.cast(models_tiny.cast(loaded.model, dtype), torch.float32)
    wide = models_tiny.loaded(model, storage_dtype=dtype)
    plans = plans_for(wide, "w8a8")
    write(wide, plans, tmp_path)
    for name, tensor in tensors_on_disk(tmp_path).items():
        if name.removesuffix(".weight") not in plans and not name.endswith("_scale"):
            assert tensor.dtype == dtype, name
    config = json.loads((tmp_path / "config.json").read_text())
    name = str(dtype).removeprefix("torch.")
    assert config["dtype"] == name
    # Some engines read the type from here.
    inner = [
        config[part].get("dtype") for part in ("text_config", "vision_config") if part in config
    ]
    assert set(inner) <= {name, None}


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_a_half_precision_variant_reloads_as_simulated(
    loaded: Loaded, fmt: str, tmp_path: Path
) -> None:
    half = models_tiny.loaded(models_tiny.cast(loaded.model, torch.bfloat16))
    plans = plans_for(half, fmt)
    write(half, plans, tmp_path)
    found = reload(half, tmp_path)
    assert {p.dtype for p in found.parameters() if p.is_floating_point()} == {torch.bfloat16}
    for batch in batches_for(half):
        with Simulation(half.model, plans, loader_input_quantizer) as simulation:
            simulation.activate_all()
            expected = models_tiny.logits(half.model, batch)
        assert relative_l2(models_tiny.logits(found, batch), expected) <= 1e-6


def test_the_processor_comes_along(loaded: Loaded, tmp_path: Path) -> None:
    write(loaded, {}, tmp_path)
    found = AutoProcessor.from_pretrained(tmp_path)
    tokenizer = getattr(found, "tokenizer", found)
    assert tokenizer("two red dots").input_ids == models_tiny.tokenizer()("two red dots").input_ids
    assert type(found) is type(loaded.processor) or not loaded.takes_images


def test_the_generation_settings_come_along(llama: Any, tmp_path: Path) -> None:
    llama.generation_config.max_new_tokens = 17
    write(models_tiny.loaded(llama), {}, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["max_new_tokens"] == 17


def test_a_variant_can_be_the_source_of_another_one(llama: Any, tmp_path: Path) -> None:
    """The configuration's old ``quantization_config`` is not carried along."""
    llama.config.quantization_config = {"quant_method": "something else"}
    write(models_tiny.loaded(llama), {}, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_writing_does_not_change_the_model(loaded: Loaded, tmp_path: Path) -> None:
    before, config = models_tiny.weights(loaded.model), loaded.config.to_dict()
    write(loaded, plans_for(loaded, "w8a8-static"), tmp_path)
    assert loaded.config.to_dict() == config
    for name, parameter in loaded.model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_a_convolution_is_refused(vl: nn.Module) -> None:
    plans = {"model.visual.patch_embed.proj": DYNAMIC}
    with pytest.raises(UserError, match=r"patch_embed\.proj is a Conv3d; .*leave it out"):
        check_plans(models_tiny.loaded(vl), plans)


@pytest.mark.parametrize("fmt", ["inc", "inc-reduce-range"])
def test_a_format_that_cannot_be_held_is_refused(llama: nn.Module, fmt: str) -> None:
    plans = {"model.layers.0.mlp.up_proj": OpPlan(format=preset(fmt))}
    with pytest.raises(UserError, match=f"cannot write format {fmt}, which has quantized outputs"):
        check_plans(models_tiny.loaded(llama), plans)


def test_every_format_is_either_written_or_refused(llama: nn.Module) -> None:
    accepted = set()
    for name, fmt in PRESETS.items():
        with suppress(UserError):
            check_plans(
                models_tiny.loaded(llama), {"model.layers.0.mlp.up_proj": OpPlan(format=fmt)}
            )
            accepted.add(name)
    assert accepted == PRESETS.keys() - {"inc", "inc-reduce-range"}


def test_plans_that_fit_are_accepted(loaded: Loaded) -> None:
    check_plans(loaded, plans_for(loaded, "w8a8"))
    check_plans(loaded, {})


def test_only_weights_count_as_quantized(llama: nn.Module, tmp_path: Path) -> None:
    """The int8 zero points of affine activations are no weights."""
    loaded = models_tiny.loaded(llama)
    plans = plans_for(loaded, "w8a8-static-affine")
    write(loaded, plans, tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        kinds = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118
    assert kinds.count("I8") == 2 * len(plans)
    assert count_quantized(tmp_path) == len(plans)


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_the_loaders_arithmetic_is_ours_in_float32_with_three_dimensions(fmt: str) -> None:
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    plan = OpPlan(format=preset(fmt), input_range=(-1.5, 2.0))
    assert torch.equal(loader_input_quantizer(plan)(x), serving_input_quantizer(plan)(x))


def test_the_loader_takes_one_scale_where_there_are_two_dimensions() -> None:
    """What the verification must copy and the evaluation must not: see docs/decisions.md."""
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    x[0] *= 100
    assert DYNAMIC.format.activation is not None
    per_token, _ = input_qparams(x, DYNAMIC.format.activation)
    error = (loader_input_quantizer(DYNAMIC)(x) - x).abs()
    assert (error[1:] > per_token[1:]).any()


def test_backends_are_found_by_name() -> None:
    assert backend_named("compressed-tensors") is BACKENDS["compressed-tensors"]
    with pytest.raises(UserError, match="unknown backend 'gguf'; the backends are: compressed"):
        backend_named("gguf")
