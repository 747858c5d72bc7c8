"""The embedded demo model and its data; importing this package does not import torch."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantspectrum.demo.samples import demo_prompts, demo_samples

__all__ = ["demo_prompts", "demo_samples", "model_dir"]


def model_dir() -> Path:
    """Directory of the demo model: a Hugging Face checkpoint with its processor."""
    return Path(str(files(__name__) / "model"))


def __getattr__(name: str) -> Any:
    if name in ("demo_prompts", "demo_samples"):
        return getattr(import_module("quantspectrum.demo.samples"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
