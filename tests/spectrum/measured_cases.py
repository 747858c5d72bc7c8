"""What tests of measured profiles share: tiny models with their report, spectrum and meter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import models_tiny
from quantspectrum.artifacts import SensitivityReport, Spectrum
from quantspectrum.data.encode import Batch
from quantspectrum.models.loading import Loaded
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.meter import Meter, plans_for
from scans import UNSEEN, score

SELECTION = [
    models_tiny.text_batch((12, 9, 11, 10), seed=3, name="sel"),
    models_tiny.text_batch((8, 12, 10, 9), seed=4, name="more"),
]
HELD_OUT = [
    models_tiny.text_batch((11, 10, 12, 9), seed=5, name="held"),
    models_tiny.text_batch((12, 12, 9, 8), seed=6, name="out"),
]
PLANTED = "model.layers.1.mlp.down_proj"


def plant(model: nn.Module) -> nn.Module:
    """Let one channel between up and down be 1,000 times what it was; the model's function stays."""
    up, down = (
        model.get_submodule(PLANTED.replace("down", name)).get_parameter("weight")
        for name in ("up", "down")
    )
    with torch.no_grad():
        up[5] *= 1000
        down[:, 5] /= 1000
    return model


@dataclass(frozen=True)
class Case:
    """A model with what was made of it."""

    loaded: Loaded
    report: SensitivityReport
    spectrum: Spectrum

    def meter(self, batches: Sequence[Batch] = SELECTION, **more: Any) -> Meter:
        """A meter on these batches."""
        plans = plans_for(self.loaded, self.spectrum, lambda: UNSEEN)
        return Meter(self.loaded, plans, batches, **more)


def case_of(model: nn.Module, fmt: str = "w8a8-static", metric: str = "kl") -> Case:
    """Score a tiny model and cut its ranking."""
    loaded = models_tiny.loaded(model)
    report = score(loaded, fmt, selection=SELECTION, metrics=(metric,))
    return Case(loaded, report, build_spectrum(report, report_sha256="0" * 64))
