"""Variants of a tiny Llama on disk, for what runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import models_tiny
from quantspectrum.artifacts import Manifest
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.simulation import OpPlan

sys.path.append(str(Path(__file__).parents[1] / "backends"))

import framework_cases as cases


def spec(directory: Path) -> ModelSpec:
    return ModelSpec(model=str(directory), device="cpu", dtype="float32")


def model(directory: Path, family: str = "llama") -> Loaded:
    models_tiny.save(models_tiny.family(family), directory)
    return load_model(spec(directory))


def int8_variant(base: Loaded, out: Path, fmt: str = "w8a8") -> list[str]:
    """All ops but the first, as compressed-tensors writes them."""
    names = [op.name for op in list_ops(base.model, base.layout).candidates][1:]
    plans = {
        name: OpPlan(format=preset(fmt), input_range=(-3.0, 2.5), scale_dtype=torch.float32)
        for name in names
    }
    out.mkdir()
    write(base, plans, out)
    return names


def onnx_variant(base: Loaded, out: Path) -> Manifest:
    return cases.write(base, cases.spectrum_of(base, "w8a8-static"), "onnx", out)
