"""The model as other frameworks load it: a plain directory of safetensors."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.models.loading import Loaded

__all__ = ["plain_checkpoint"]


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
