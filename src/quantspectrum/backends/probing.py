"""Running a model, its simulation and what was loaded back on the same few fixed samples."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from quantspectrum.backends.quantize import relative_l2
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.probe import probe_samples
from quantspectrum.models.loading import Loaded, load_model
from quantspectrum.models.outputs import run_model
from quantspectrum.simulation import InputQuantizer, OpPlan, Part, Simulation

__all__ = ["distance", "logits_of", "probe_batches", "reloaded_logits", "simulated_logits"]


def probe_batches(loaded: Loaded) -> list[Batch]:
    """The fixed samples that a model takes, one a batch."""
    samples = probe_samples(loaded.takes_images or not loaded.takes_text)
    if not loaded.takes_text:
        samples = [sample for sample in samples if sample.image is not None]
    return encode_for(loaded, samples, batch_size=1)


@torch.inference_mode()
def logits_of(loaded: Loaded, batches: Sequence[Batch]) -> list[Tensor]:
    """What the model predicts for each batch, in float32 on the CPU."""
    return [
        run_model(loaded.model, batch.to(loaded.device).inputs).float().cpu() for batch in batches
    ]


def simulated_logits(
    loaded: Loaded,
    plans: Mapping[str, OpPlan],
    batches: Sequence[Batch],
    quantizer: Callable[[OpPlan], InputQuantizer] | None = None,
    part: Part = "both",
) -> list[Tensor]:
    """The same with the planned ops quantized, or only their weights or inputs."""
    parts: dict[str, Literal["both", "weight", "activation"]] = dict.fromkeys(plans, part)
    with Simulation(loaded.model, plans, quantizer) as simulation:
        simulation.activate(plans, parts)
        return logits_of(loaded, batches)


def reloaded_logits(loaded: Loaded, directory: Path, batches: Sequence[Batch]) -> list[Tensor]:
    """The same of a checkpoint that transformers loads from a directory."""
    spec = replace(
        loaded.spec,
        model=str(directory),
        revision=None,
        gguf_file=None,
        dtype=loaded.identity.dtype,
        device=str(loaded.device),
        device_map=None,
    )
    reloaded = load_model(spec)
    found = logits_of(reloaded, batches)
    # The reloaded model refers to itself, so that leaving this function does not free it.
    del reloaded
    gc.collect()
    return found


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative L2 over the batches; NaN where one is not finite."""
    distances = [relative_l2(one, other) for one, other in zip(found, expected, strict=True)]
    return next((d for d in distances if math.isnan(d)), max(distances))
