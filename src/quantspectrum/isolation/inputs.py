"""What workers are given: the model as a plain directory of safetensors, and batches as tensors.

``workers/_exchange.py`` reads both: ``load_model``, ``batches_of``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from quantspectrum.data.encode import Batch
from quantspectrum.models.loading import Loaded
from quantspectrum.models.tasks import AUTO_CLASSES

__all__ = ["batch_tensors", "model_request", "plain_checkpoint"]


def model_request(loaded: Loaded, directory: Path) -> dict[str, Any]:
    """What a request says of the model: where it is, and how it is loaded.

    Args:
        loaded: The model.
        directory: Where a copy is written, should it be no plain checkpoint; see
            :func:`plain_checkpoint`.

    Raises:
        UserError: The disk is full.
    """
    return {
        "model": str(plain_checkpoint(loaded, directory).resolve()),
        "class": type(loaded.model).__name__,
        # For a class that is in the model's own code.
        "loader": AUTO_CLASSES.get(loaded.task, "AutoModel"),
        "dtype": loaded.identity.dtype,
        "device": str(loaded.device),
        "trust_remote_code": loaded.spec.trust_remote_code,
    }


def batch_tensors(split: str, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Tensors of batches under ``SPLIT.INDEX.inputs.NAME``, and ``SPLIT.INDEX.target``."""
    found: dict[str, Tensor] = {}
    for index, batch in enumerate(batches):
        for name, values in batch.inputs.items():
            found[f"{split}.{index}.inputs.{name}"] = values
        found[f"{split}.{index}.target"] = batch.target
    return found


def plain_checkpoint(loaded: Loaded, directory: Path) -> Path:
    """Directory of a plain checkpoint of the model: its own one, or a copy written to ``directory``.

    Models from a hub and from GGUF files are written out, so that every framework starts from the
    same numbers; it must load them in the type they have here. Nothing is written over: a directory that is there already is taken to be that copy.

    Raises:
        UserError: The disk is full.
    """
    source = Path(loaded.spec.model)
    stored = next(iter(source.glob("*.safetensors")), None)
    if stored is not None and loaded.spec.gguf_file is None:
        return source
    if not directory.exists():
        from quantspectrum.backends import compressed_tensors
        from quantspectrum.backends.checkpoint import staged_directory

        needed = compressed_tensors.predicted_bytes(loaded, {})
        with staged_directory(directory, needed) as stage:
            compressed_tensors.write(loaded, {}, stage)
    return directory
