"""Checking a model's files before they are loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from quantspectrum.errors import UserError

__all__ = ["check_directory", "check_safetensors"]


def check_directory(model: str, gguf_file: str | None) -> None:
    """Find out what is wrong with a local directory before a library says it less clearly.

    A ``model`` that is no path is taken for a Hub id.

    Raises:
        UserError: It is a path, and no model that can be loaded lies there.
    """
    path = Path(model)
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if not path.exists():
        if looks_local:
            raise UserError(f"model directory {model} does not exist")
        return
    if not path.is_dir():
        raise UserError(f"{model} is a file; give the directory that holds the model")
    if gguf_file is not None:
        if not (path / gguf_file).is_file():
            raise UserError(f"{model} holds no file {gguf_file!r} (--gguf-file)")
        return
    if not (path / "config.json").is_file():
        raise UserError(f"{model} holds no config.json: it is not a model directory")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'config.json'} is not JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.json'} is not a configuration; fetch it again")
    shards = sorted(path.glob("*.safetensors"))
    if not shards:
        raise UserError(
            f"{model} holds no .safetensors file; pickled weights are not loaded: "
            "convert them to safetensors first"
        )
    for shard in shards:
        check_safetensors(shard)


def check_safetensors(path: Path) -> None:
    """Check a safetensors file's header against its length, without reading the tensors.

    Raises:
        UserError: The file is truncated or is not a safetensors file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > min(size, 100_000_000):
                raise ValueError("header longer than the file")
            header = json.loads(file.read(header_size))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        expected = 8 + header_size + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}); fetch it again") from None
    if size != expected:
        raise UserError(f"{path} has {size} bytes where {expected} are due; fetch it again")
