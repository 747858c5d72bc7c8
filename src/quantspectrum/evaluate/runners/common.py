"""What runners must find out of a checkpoint before they load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantspectrum.artifacts import DecodeLatency
from quantspectrum.errors import UserError
from quantspectrum.evaluate.onnx_model import is_onnx_variant
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.provenance import environment

__all__ = ["decode_latencies", "device_name_of", "quantization_of", "refuse_graph"]


def quantization_of(spec: ModelSpec) -> Mapping[str, Any] | None:
    """``quantization_config`` of a local directory; ``None`` of an unquantized model."""
    path = Path(spec.model) / "config.json"
    if spec.gguf_file is not None or not path.is_file():
        return None
    found: Mapping[str, Any] | None = json.loads(path.read_text(encoding="utf-8")).get(
        "quantization_config"
    )
    return found


def decode_latencies(found: Sequence[Mapping[str, Any]]) -> tuple[DecodeLatency, ...]:
    """What a worker measured, as records; what else it tells of a point is left out."""
    return tuple(
        DecodeLatency(**{name: entry[name] for name in DecodeLatency.model_fields})
        for entry in found
    )


def device_name_of(loaded: Loaded) -> str:
    """The processor that the model is on, as it calls itself."""
    return environment(loaded.device).device_name


def refuse_graph(spec: ModelSpec, runner: str) -> None:
    """Refuse an ONNX graph.

    Raises:
        UserError: It is one.
    """
    if is_onnx_variant(spec.model):
        raise UserError(
            f"--runner {runner} takes safetensors checkpoints, and {spec.model} is an ONNX graph; "
            "--runner onnxruntime runs it"
        )
