"""Will a serving engine load a checkpoint, and run it as it was written? Told from its files alone.

``checkpoint`` reads a directory's configuration and the headers of its tensors, ``fusion`` knows what
the engines fuse and rename, ``schemes`` and ``layers`` work out which scheme an engine gives which
layer. An engine is one file with a function that judges these, and one entry in ``check.ENGINES``.
Nothing here loads a weight or imports torch.
"""

from __future__ import annotations

from quantspectrum.serving.check import ENGINES, check_checkpoint, check_directory
from quantspectrum.serving.checkpoint import Checkpoint, TensorHeader, read_checkpoint
from quantspectrum.serving.findings import Capability, CheckReport, Finding

__all__ = [
    "ENGINES",
    "Capability",
    "CheckReport",
    "Checkpoint",
    "Finding",
    "TensorHeader",
    "check_checkpoint",
    "check_directory",
    "read_checkpoint",
]
