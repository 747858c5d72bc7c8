"""A checkpoint directory by its configuration and the headers of its safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantspectrum.errors import UserError

__all__ = ["Checkpoint", "TensorHeader", "read_checkpoint"]

_MAX_HEADER = 100_000_000  # What the safetensors library itself accepts.


@dataclass(frozen=True)
class TensorHeader:
    """Type, as safetensors names it, and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is known of a checkpoint without its values.

    Attributes:
        name: The directory's name.
        config: ``config.json``.
        tensors: Every tensor by name.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]

    @property
    def architecture(self) -> str | None:
        """The first of ``architectures``, which decides the engine's model class."""
        found = self.config.get("architectures")
        return str(found[0]) if isinstance(found, list) and found else None

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """The quantization configuration, where engines look for it; ``None`` without one."""
        text = self.config.get("text_config")
        places = (self.config, text if isinstance(text, dict) else {})
        for key in ("quantization_config", "compression_config"):
            for place in places:
                if isinstance(found := place.get(key), dict):
                    return found
        return None


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a directory's ``config.json`` and the headers of its ``*.safetensors``.

    Raises:
        UserError: Either is missing, unreadable or incomplete.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; give a checkpoint's")
    config = _json(directory / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{directory / 'config.json'} holds no object; write it again")
    tensors: dict[str, TensorHeader] = {}
    for shard in _shards(directory):
        tensors |= _header(shard)
    return Checkpoint(name=directory.name, config=config, tensors=tensors)


def _shards(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        if found := sorted(directory.glob("*.safetensors")):
            return found
        raise UserError(f"{directory} has no *.safetensors; only such checkpoints can be checked")
    content = _json(index)
    mapped = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(mapped, dict):
        raise UserError(f"{index} has no weight_map; write the checkpoint again")
    shards = [directory / str(name) for name in sorted(set(mapped.values()))]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{index} names {shard.name}, which is missing; copy it too")
    return shards


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a checkpoint's directory") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as failure:
        raise UserError(f"{path} is not readable as JSON ({failure}); write it again") from failure


def _header(path: Path) -> dict[str, TensorHeader]:
    """Tensors of one file: eight bytes of length, so much JSON, then the values."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise UserError(f"{path} is no whole safetensors file; copy or write it again")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        found = {
            str(name): TensorHeader(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            for name, entry in header.items()
        }
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as failure:
        raise UserError(f"{path} has a broken header; write it again") from failure
    if end != size - 8 - length:
        raise UserError(f"{path} is cut short or has bytes to spare; copy or write it again")
    return found
