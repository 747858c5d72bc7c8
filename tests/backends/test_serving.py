from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
)

import models_tiny
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.backends.serving import serving_arithmetic
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import list_ops
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.simulation import OpPlan, Simulation

MIXED = ["w8a8", "fp8", "w4a16", "w8a16", "w4a8"]


def batches_for(loaded: Loaded) -> list[Batch]:
    if loaded.takes_images:
        return [models_tiny.text_batch(vision=True), models_tiny.image_batch()]
    return [models_tiny.text_batch()]


def variant(loaded: Loaded, fmt: str, directory: Path) -> tuple[nn.Module, dict[str, OpPlan]]:
    """Write a variant with every second group quantized and load it as transformers does."""
    ops = list_ops(loaded.model, loaded.layout).candidates
    groups = list(dict.fromkeys(op.group for op in ops))[::2]
    names = [op.name for op in ops if op.group in groups]
    ranges = observe_ranges(loaded.model, names, batches_for(loaded), loaded.device)
    plans = {name: OpPlan(format=preset(fmt), input_range=ranges[name]) for name in names}
    write(loaded, plans, directory)
    auto: Any = AutoModelForImageTextToText if loaded.takes_images else AutoModelForCausalLM
    return auto.from_pretrained(directory).eval(), plans


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
@pytest.mark.parametrize("family", ["llama", "vl"])
def test_a_variant_computes_what_sensitivities_simulate(
    family: str, fmt: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = models_tiny.causal_lm() if family == "llama" else models_tiny.qwen2_5_vl()
    loaded = models_tiny.loaded(models_tiny.cast(model, dtype))
    found, plans = variant(loaded, fmt, tmp_path)
    for batch in batches_for(loaded):
        with Simulation(loaded.model, plans) as simulation:
            simulation.activate_all()
            expected = models_tiny.logits(loaded.model, batch)
        with serving_arithmetic(found):
            assert torch.equal(models_tiny.logits(found, batch), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("formats", [["fp8"], ["w8a16"], ["w4a16"], ["w4a8"], MIXED], ids="+".join)
@pytest.mark.parametrize("family", ["qwen2", "qwen2.5-vl", "vit"])
def test_every_format_computes_what_sensitivities_simulate(
    family: str, formats: list[str], dtype: torch.dtype, tmp_path: Path
) -> None:
    loaded = models_tiny.loaded(models_tiny.cast(models_tiny.family(family), dtype))
    ops = list_ops(loaded.model, loaded.layout).candidates
    groups = list(dict.fromkeys(op.group for op in ops))
    plans = {
        op.name: OpPlan(format=preset(formats[groups.index(op.group) % len(formats)])) for op in ops
    }
    write(loaded, plans, tmp_path)
    auto, batch = {
        "qwen2": (AutoModelForCausalLM, models_tiny.text_batch()),
        "qwen2.5-vl": (AutoModelForImageTextToText, models_tiny.image_batch()),
        "vit": (AutoModelForImageClassification, models_tiny.pixel_batch()),
    }[family]
    found = auto.from_pretrained(tmp_path).eval()
    with Simulation(loaded.model, plans) as simulation:
        simulation.activate_all()
        expected = models_tiny.logits(loaded.model, batch)
    with serving_arithmetic(found):
        assert torch.equal(models_tiny.logits(found, batch), expected)


def test_the_loaders_own_arithmetic_comes_back(vl: nn.Module, tmp_path: Path) -> None:
    found, _ = variant(models_tiny.loaded(vl), "w8a8", tmp_path)
    batch = models_tiny.image_batch()
    before = models_tiny.logits(found, batch)
    forwards = models_tiny.forwards(found)
    with serving_arithmetic(found):
        # In the vision tower the loader takes one scale for all tokens.
        assert not torch.equal(models_tiny.logits(found, batch), before)
    assert models_tiny.forwards(found) == forwards
    assert torch.equal(models_tiny.logits(found, batch), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_comes_back_after_an_exception(
    llama: nn.Module, tmp_path: Path, error: type[BaseException]
) -> None:
    found, _ = variant(models_tiny.loaded(llama), "w8a8-static", tmp_path)
    models_tiny.logits(found, models_tiny.text_batch())
    forwards = models_tiny.forwards(found)
    with pytest.raises(error), serving_arithmetic(found):
        raise error
    assert models_tiny.forwards(found) == forwards


def test_a_model_without_quantized_ops_is_left_alone(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    before = models_tiny.logits(llama, batch)
    with serving_arithmetic(llama):
        assert models_tiny.forwards(llama) == {}
        assert torch.equal(models_tiny.logits(llama, batch), before)


def test_ops_that_are_not_quantized_are_left_alone(llama: nn.Module, tmp_path: Path) -> None:
    found, plans = variant(models_tiny.loaded(llama), "w8a8", tmp_path)
    models_tiny.logits(found, models_tiny.text_batch())
    before = set(models_tiny.forwards(found))
    with serving_arithmetic(found):
        assert set(models_tiny.forwards(found)) - before <= set(plans)
        assert set(plans) <= set(models_tiny.forwards(found))


def test_a_variant_can_generate(vl: nn.Module, tmp_path: Path) -> None:
    found: Any
    found, _ = variant(models_tiny.loaded(vl), "w8a8", tmp_path)
    prompt = models_tiny.image_batch((3,)).inputs
    with serving_arithmetic(found), torch.inference_mode():
        ids = found.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert ids.shape[1] > prompt["input_ids"].shape[1]
