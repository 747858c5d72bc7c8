"""Variants of a tiny Llama on disk, for what runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import models_tiny
from backends import framework_cases as cases
from quantspectrum.artifacts import Manifest
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.simulation import OpPlan


def spec(directory: Path) -> ModelSpec:
    return ModelSpec(model=str(directory), device="cpu", dtype="float32")


def model(directory: Path, family: str = "llama", **settings: Any) -> Loaded:
    made = models_tiny.causal_lm(family, **settings) if settings else models_tiny.family(family)
    models_tiny.save(made, directory)
    return load_model(spec(directory))


def int8_variant(
    base: Loaded, out: Path, fmt: str = "w8a8", kept: str = "layers.0.mlp.down_proj"
) -> list[str]:
    """All ops but one, as compressed-tensors writes them."""
    every = [op.name for op in list_ops(base.model, base.layout).candidates]
    names = [name for name in every if not name.endswith(kept)]
    plans = {
        name: OpPlan(format=preset(fmt), input_range=(-3.0, 2.5), scale_dtype=torch.float32)
        for name in names
    }
    out.mkdir()
    write(base, plans, out)
    return names


def onnx_variant(base: Loaded, out: Path) -> Manifest:
    return cases.write(base, cases.spectrum_of(base, "w8a8-static"), "onnx", out)
