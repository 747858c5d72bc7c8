"""Every format on disk and loaded back, against what compressed-tensors itself writes and reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
)

import models_tiny
from quantspectrum.backends.compressed_tensors import (
    loader_input_quantizer,
    predicted_bytes,
    write,
)
from quantspectrum.backends.quantize import relative_l2
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import list_ops
from quantspectrum.quantization_config import storage_of
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.simulation import OpPlan, Simulation

FORMATS = ["w8a8", "w8a8-static", "w8a8-static-affine", "fp8", "w8a16", "w4a16", "w4a8"]
PAIRS = [[name] for name in FORMATS] + [["fp8", "w4a16"], FORMATS]
Plans = dict[str, OpPlan]


def odd(**settings: Any) -> nn.Module:
    """Widths that 128 divides, that it does not, and that are smaller."""
    return models_tiny.causal_lm(
        "qwen2", hidden_size=128, intermediate_size=200, num_hidden_layers=2, **settings
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[], Batch]]] = {
    "odd": (odd, AutoModelForCausalLM, models_tiny.text_batch),
    "odd tied": (
        lambda: odd(tie_word_embeddings=True),
        AutoModelForCausalLM,
        models_tiny.text_batch,
    ),
    "vl": (models_tiny.qwen2_5_vl, AutoModelForImageTextToText, models_tiny.image_batch),
    "vl tied": (
        lambda: models_tiny.qwen2_5_vl(tied=True),
        AutoModelForImageTextToText,
        models_tiny.image_batch,
    ),
    "bert": (models_tiny.bert, AutoModelForMaskedLM, models_tiny.text_batch),
    "vit": (
        lambda: models_tiny.family("vit"),
        AutoModelForImageClassification,
        models_tiny.pixel_batch,
    ),
}


def plans_for(loaded: Loaded, formats: list[str], batch: Batch) -> Plans:
    """The formats in turn over the groups of ops, with ranges from the batch."""
    ops = list_ops(loaded.model, loaded.layout).candidates
    names = [op.name for op in ops]
    ranges = observe_ranges(loaded.model, names, [batch], loaded.device)
    turn = dict(zip(dict.fromkeys(op.group for op in ops), itertools.cycle(formats), strict=False))
    return {
        op.name: OpPlan(
            format=preset(turn[op.group]),
            input_range=ranges[op.name],
            scale_dtype=loaded.storage_dtype,
        )
        for op in ops
    }


def on_disk(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def schemes(directory: Path) -> dict[str, QuantizationScheme]:
    """Scheme of each op as ``config.json`` has it, by exact name, where there are several."""
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    groups = [QuantizationScheme(**group) for group in config["config_groups"].values()]
    return {target: group for group in groups for target in group.targets}


CASES = [
    (kind, formats, storage)
    for kind in MODELS
    for formats in PAIRS
    for storage in (torch.float32, torch.bfloat16, torch.float16)
    # All types and mixtures of two families, and each once of the others.
    if kind in ("odd", "vl") or (storage == torch.float32 and len(formats) != 2)
]


@pytest.mark.parametrize(("kind", "formats", "storage"), CASES)
def test_what_is_written_is_what_was_simulated(
    kind: str, formats: list[str], storage: torch.dtype, tmp_path: Path
) -> None:
    make, auto, batch_of = MODELS[kind]
    model = models_tiny.cast(models_tiny.cast(make(), storage), torch.float32)
    loaded = models_tiny.loaded(model, storage_dtype=storage)
    batch = batch_of()
    plans = plans_for(loaded, formats, batch)
    write(loaded, plans, tmp_path)
    found = auto.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with Simulation(model, plans, loader_input_quantizer) as simulation:
        simulation.activate_all()
        expected = models_tiny.logits(model, batch)
    assert torch.equal(models_tiny.logits(found, batch), expected)
    # … and quantizing did something.
    assert relative_l2(models_tiny.logits(model, batch), expected) > 1e-4
    size = sum(tensor.nbytes for tensor in on_disk(tmp_path).values())
    assert predicted_bytes(loaded, plans) == size


@pytest.mark.parametrize("formats", PAIRS, ids="+".join)
def test_a_half_precision_variant_reloads_as_simulated(formats: list[str], tmp_path: Path) -> None:
    loaded = models_tiny.loaded(models_tiny.cast(odd(), torch.bfloat16))
    batch = models_tiny.text_batch()
    plans = plans_for(loaded, formats, batch)
    write(loaded, plans, tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with Simulation(loaded.model, plans, loader_input_quantizer) as simulation:
        simulation.activate_all()
        expected = models_tiny.logits(loaded.model, batch)
    assert torch.equal(models_tiny.logits(found, batch), expected)


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fmt", FORMATS)
def test_bytes_are_those_of_compressed_tensors_own_compressor(
    fmt: str, storage: torch.dtype, tmp_path: Path
) -> None:
    """Given the weights and the scales that are on disk, it makes the very same tensors."""
    model = models_tiny.cast(models_tiny.cast(odd(), storage), torch.float32)
    loaded = models_tiny.loaded(model, storage_dtype=storage)
    # Two formats, so that the configuration names ops.
    other = "w8a8" if fmt != "w8a8" else "fp8"
    plans = plans_for(loaded, [fmt, other], models_tiny.text_batch())
    write(loaded, plans, tmp_path)
    tensors, scheme_of = on_disk(tmp_path), schemes(tmp_path)
    checked = 0
    for op, plan in plans.items():
        if plan.format.name != fmt:
            continue
        own = {leaf: tensors.get(f"{op}.{leaf}") for leaf in LEAVES}
        scale = own["weight_scale"]
        assert scale is not None
        compressor = BaseCompressor.get_value_from_registry(storage_of(plan.format))
        made = compressor.compress(
            {"weight": model.get_parameter(f"{op}.weight"), "weight_scale": scale.float()},
            scheme_of[op],
        )
        for leaf in ("weight", "weight_packed", "weight_shape"):
            stored = own[leaf]
            assert (stored is None) == (leaf not in made), leaf
            if stored is not None:
                assert stored.dtype == made[leaf].dtype
                assert torch.equal(stored, made[leaf]), (op, leaf)
        checked += 1
    assert checked >= 4


LEAVES = ("weight", "weight_packed", "weight_shape", "weight_scale")


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_not_quantized_lies_as_it_was(kind: str, tmp_path: Path) -> None:
    """Biases, norms, convolutions, buffers and embeddings, tied ones once."""
    make, _, batch_of = MODELS[kind]
    model = make()
    loaded = models_tiny.loaded(model)
    plans = plans_for(loaded, ["w4a16"], batch_of())
    write(loaded, plans, tmp_path)
    tensors = on_disk(tmp_path)
    kept = {
        name: value
        for name, value in model.state_dict().items()
        if name.removesuffix(".weight") not in plans
    }
    tied = {"lm_head.weight"} if "tied" in kind else set()
    tied |= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} & kept.keys()
    assert any(name.endswith(".bias") for name in kept)
    for name in kept.keys() - tied:
        assert torch.equal(tensors[name], kept[name]), name
    extra = tensors.keys() - kept.keys()
    assert {name.rpartition(".")[0] for name in extra} == plans.keys()


def test_four_bits_take_half_a_byte(tmp_path: Path) -> None:
    """14 weights of 128 inputs or 128 outputs: codes, a scale for each 128 of them, shapes."""
    loaded = models_tiny.loaded(models_tiny.cast(odd(), torch.bfloat16))
    plans = plans_for(loaded, ["w4a16"], models_tiny.text_batch())
    write(loaded, plans, tmp_path)
    tensors = on_disk(tmp_path)
    packed = tensors["model.layers.0.mlp.up_proj.weight_packed"]
    assert (
        packed.nbytes * 2 == loaded.model.get_parameter("model.layers.0.mlp.up_proj.weight").numel()
    )
    scale = tensors["model.layers.0.mlp.up_proj.weight_scale"]
    assert (scale.shape, scale.dtype) == ((200, 1), torch.bfloat16)
    # 200 inputs: a group of 128 and one of 72, in eights.
    odd_scale = tensors["model.layers.0.mlp.down_proj.weight_scale"]
    assert odd_scale.shape == (128, 25)
    assert torch.equal(odd_scale[:, :16], odd_scale[:, :1].expand(-1, 16))
    assert torch.equal(odd_scale[:, 16:], odd_scale[:, 16:17].expand(-1, 9))
