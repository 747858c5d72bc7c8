"""Checking a model's files before they are loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from quantspectrum.errors import UserError

__all__ = ["check_directory", "check_safetensors", "read_header"]


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
        fields, data = read_header(path)
        expected = data + max((entry["data_offsets"][1] for entry in fields.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}); fetch it again") from None
    if size != expected:
        raise UserError(f"{path} has {size} bytes where {expected} are due; fetch it again")


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """What a safetensors file says of each of its tensors, and where their bytes begin.

    Raises:
        ValueError: The header is longer than the file, or no JSON.
        struct.error: The file is shorter than the length of a header.
    """
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > min(path.stat().st_size, 100_000_000):
            raise ValueError("header longer than the file")
        fields = json.loads(file.read(size))
    fields.pop("__metadata__", None)
    return fields, 8 + size
