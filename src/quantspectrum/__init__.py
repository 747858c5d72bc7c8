"""quantspectrum: which ops quantization hurts, and what each step towards full W8A8 costs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("quantspectrum")
except PackageNotFoundError:
    __version__ = "unknown"
