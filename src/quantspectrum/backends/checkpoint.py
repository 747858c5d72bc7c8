"""Writing a Hugging Face checkpoint directory: shards, index and all, complete or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from quantspectrum.errors import UserError

__all__ = ["Entry", "staged_directory", "total_bytes", "write_shards"]

MAX_SHARD_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of a checkpoint: its name, its size, and how to make it when its turn comes."""

    name: str
    nbytes: int
    make: Callable[[], Tensor]


def total_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of all tensors together."""
    return sum(entry.nbytes for entry in entries)


@contextmanager
def staged_directory(out: Path, needed_bytes: int) -> Iterator[Path]:
    """Give a directory to write to; it takes the name ``out`` only when the block succeeds.

    Raises:
        UserError: ``out`` exists, cannot be made, or the disk has less than ``needed_bytes``.
    """
    if out.exists():
        raise UserError(f"{out} exists already; remove it or choose another --out")
    stage = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if stage.exists():
            shutil.rmtree(stage)
        free = shutil.disk_usage(out.parent).free
        if free < needed_bytes:
            raise UserError(
                f"{out} needs {needed_bytes / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB "
                "left; free space or choose another --out"
            )
        stage.mkdir()
        yield stage
        stage.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; free space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_shards(
    directory: Path, entries: Sequence[Entry], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write the tensors as ``model*.safetensors``, with an index when there are several shards.

    Each tensor is made when its shard is written, so that no more than one shard is in memory.

    Raises:
        UserError: The disk is full.
    """
    shards = _pack(entries, max_shard_bytes)
    names = [
        "model.safetensors"
        if len(shards) == 1
        else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        tensors = {entry.name: entry.make().detach().cpu().contiguous() for entry in shard}
        try:
            save_file(tensors, directory / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"cannot write {directory / name}: {error}; free space") from error
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total_bytes(entries)},
            "weight_map": {
                entry.name: name
                for name, shard in zip(names, shards, strict=True)
                for entry in shard
            },
        }
        text = json.dumps(index, indent=2, sort_keys=True)
        (directory / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def _pack(entries: Sequence[Entry], limit: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    return shards
