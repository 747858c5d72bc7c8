"""Writing a Hugging Face checkpoint directory: shards, index and all, complete or not at all."""

from __future__ import annotations

import json
import math
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantspectrum.errors import UserError
from quantspectrum.models.stored import CHUNK_BYTES, as_bytes

__all__ = ["Entry", "staged_directory", "total_bytes", "write_shards"]

MAX_SHARD_BYTES = 4 * 2**30

AHEAD_BYTES = 2**26
"""Bytes of tensors that may be made before the ones before them are on disk."""

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types by the names safetensors has for them."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of a checkpoint, made when its turn comes.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its type.
        make: Gives it whole, or some of its rows after others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor | Iterator[Tensor]]

    def parts(self) -> Iterator[Tensor]:
        """Make it, a part at a time."""
        made = self.make()
        left = self.nbytes
        for part in (made,) if isinstance(made, Tensor) else made:
            assert part.shape[1:] == self.shape[1:], f"{self.name}: {part.shape}"
            assert part.dtype == self.dtype, f"{self.name}: {part.dtype}"
            left -= part.nbytes
            assert left >= 0, f"{self.name}: more than {self.shape}"
            yield part.detach()
        assert left == 0, f"{self.name}: less than {self.shape}"

    @property
    def nbytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


def total_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of all tensors together."""
    return sum(entry.nbytes for entry in entries)


@contextmanager
def staged_directory(out: Path, needed_bytes: int) -> Iterator[Path]:
    """Give a directory to write to; it takes the name ``out`` only when the block succeeds.

    What a killed run left of it, a directory with a dot before and ``.partial`` after its name, is
    cleared away.

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

    Each tensor is made when its turn comes and goes to disk by itself, while the next ones are
    made: no more than a few of them, or of their parts, are in memory, whatever the size of a shard.

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
        try:
            _write_file(directory / name, shard)
        except OSError as error:
            raise UserError(
                f"cannot write {directory / name}: {error.strerror or error}; free space"
            ) from error
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


def _write_file(path: Path, entries: Sequence[Entry]) -> None:
    """Write a safetensors file (its README, "Format"), each tensor to its place as it is made."""
    # Larger types first, as safetensors itself does, so that every tensor is aligned.
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header = _header(ordered)
    sizes = [entry.nbytes for entry in ordered]
    starts = dict(
        zip((e.name for e in ordered), accumulate(sizes, initial=len(header)), strict=False)
    )
    with path.open("wb", buffering=0) as file:
        _write_all(file, header)
        with _Writer(file) as writer:
            # In the order they are given in: what is made of one tensor follows each other there.
            for entry in entries:
                start = starts[entry.name]
                for part in entry.parts():
                    writer.put(start, part)
                    start += part.nbytes


def _header(entries: Sequence[Entry]) -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for entry in entries:
        fields[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, start + entry.nbytes],
        }
        start += entry.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class _Writer:
    """Writes tensors to a file from a thread of its own, a bounded number of bytes behind."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._waiting: queue.Queue[_Chunk | None] = queue.Queue()
        self._room = threading.Condition()
        self._bytes = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def put(self, start: int, tensor: Tensor) -> None:
        """Queue a tensor, to be written from there on, once there is room for it."""
        content = as_bytes(tensor.contiguous())
        if tensor.device.type == "cpu":
            self._put(start, content)
            return
        for begin in range(0, len(content), CHUNK_BYTES):
            self._put(start + begin, content[begin : begin + CHUNK_BYTES])

    def _put(self, start: int, content: Tensor) -> None:
        with self._room:
            self._room.wait_for(
                lambda: self._error or not self._bytes or self._bytes + len(content) <= AHEAD_BYTES
            )
            if self._error is not None:
                raise self._error
            self._bytes += len(content)
        self._waiting.put(_Chunk.of(start, content))

    def _run(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    if chunk.copied is not None:
                        chunk.copied.synchronize()
                    self._file.seek(chunk.start)
                    _write_all(self._file, chunk.content.numpy())
                except BaseException as error:  # noqa: BLE001 - raised where tensors are made
                    self._error = error
            with self._room:
                self._bytes -= len(chunk.content)
                self._room.notify_all()


@dataclass(frozen=True)
class _Chunk:
    """Bytes on the CPU and where they go; those of a GPU are there once ``copied`` has happened."""

    start: int
    content: Tensor
    copied: torch.cuda.Event | None

    @staticmethod
    def of(start: int, content: Tensor) -> _Chunk:
        if content.device.type == "cpu":
            return _Chunk(start, content, None)
        buffer = torch.empty(len(content), dtype=torch.uint8, pin_memory=True)
        buffer.copy_(content, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(content.device))
        return _Chunk(start, buffer, copied)


def _write_all(file: Any, content: Any) -> None:
    """Write every byte; the system takes at most 2 GiB at a time."""
    if not len(content):
        return
    view = memoryview(content).cast("B")
    while view:
        view = view[file.write(view) :]


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
