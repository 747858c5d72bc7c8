"""Where captured tensors are kept: on their device, in host memory or on disk, within limits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from quantspectrum.errors import UserError

__all__ = ["Held", "TensorStore", "default_limit"]

Place = Literal["device", "host", "disk"]


def default_limit(device: torch.device) -> int:
    """Half of what is free on the device; for the CPU half of the free host memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return free_host_bytes() // 2


def free_host_bytes() -> int:
    """Free physical memory, in bytes; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Held:
    """A tensor put away; :meth:`get` brings it back to the device it came from."""

    place: Place
    device: torch.device
    load: Callable[[], Tensor]

    def get(self) -> Tensor:
        """The tensor, on its own device."""
        return self.load().to(self.device, non_blocking=True)


class TensorStore:
    """Keeps tensors within a limit: on their device first, then in host memory, then on disk.

    Args:
        limit: Bytes kept on accelerators together, and as many again in host memory; what is
            beyond goes to files in a temporary directory that is removed with the store.
    """

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self._limit = limit
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._seen: dict[int, tuple[Tensor, Held]] = {}
        self.used: dict[Place, int] = {"device": 0, "host": 0, "disk": 0}

    def put(self, tree: Any) -> Any:
        """The same structure with every tensor replaced by a :class:`Held`; one tensor, one copy."""
        return pytree.tree_map_only(Tensor, self._put, tree)

    def get(self, tree: Any) -> Any:
        """The structure that was put away, tensors on their own devices."""
        return pytree.tree_map_only(Held, Held.get, tree)

    def seal(self) -> None:
        """Let go of what is only needed to recognise a tensor that comes twice."""
        self._seen.clear()

    def _put(self, tensor: Tensor) -> Held:
        key = id(tensor)
        if key not in self._seen:
            self._seen[key] = tensor, self._place(tensor)
        return self._seen[key][1]

    def _place(self, tensor: Tensor) -> Held:
        size, device = tensor.numel() * tensor.element_size(), tensor.device
        first: Place = "host" if device.type == "cpu" else "device"
        for place in dict.fromkeys((first, "host")):
            if self.used[place] + size <= self._limit:
                self.used[place] += size
                kept = tensor if place == first else tensor.cpu()
                return Held(place, device, partial(_same, kept))
        self.used["disk"] += size
        return Held("disk", device, self._on_disk(tensor))

    def _on_disk(self, tensor: Tensor) -> Callable[[], Tensor]:
        try:
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(prefix="quantspectrum-")
            path = Path(self._directory.name) / f"{self.used['disk']}.safetensors"
            save_file({"x": tensor.contiguous().cpu()}, path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot keep captured inputs on disk: {error}; give a larger "
                "--memory-limit, a smaller --batch-size, or set TMPDIR"
            ) from error
        return lambda: load_file(path)["x"]

    def close(self) -> None:
        """Drop everything, files too."""
        self._seen.clear()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None
