"""What runners must find out of a checkpoint before they load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantspectrum.models.loading import ModelSpec

__all__ = ["quantization_of"]


def quantization_of(spec: ModelSpec) -> Mapping[str, Any] | None:
    """``quantization_config`` of a local directory; ``None`` of an unquantized model."""
    path = Path(spec.model) / "config.json"
    if spec.gguf_file is not None or not path.is_file():
        return None
    found: Mapping[str, Any] | None = json.loads(path.read_text(encoding="utf-8")).get(
        "quantization_config"
    )
    return found
