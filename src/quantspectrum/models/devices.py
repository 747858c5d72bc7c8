"""Which device a model is loaded to, and how ``--device-map`` spreads it."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from quantspectrum.errors import UserError

__all__ = [
    "CPU_OFFLOAD",
    "DEVICE_MAPS",
    "Places",
    "check_device_map",
    "device_map_option",
    "offload_to_cpu",
    "offloads",
    "pick_device",
]

Places: TypeAlias = str | dict[str, int | str]
"""A device map: a name, or devices by module name."""

CPU_OFFLOAD = "cpu-offload"
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", CPU_OFFLOAD)


def pick_device(device: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: The device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if found.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device {device!r} is not there: {count} GPUs found; use --device cpu")
    return found


def device_map_option(device_map: str) -> Places:
    """What accelerate is given for ``--device-map``: a name, or what a JSON file says.

    Raises:
        UserError: The name is unknown, the file is wrong, or accelerate is not installed.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "--device-map needs the accelerate package; run pip install quantspectrum[accelerate]"
        )
    if device_map in DEVICE_MAPS:
        return device_map
    path = Path(device_map)
    if not path.is_file():
        raise UserError(
            f"--device-map {device_map!r} is unknown; give {', '.join(DEVICE_MAPS)}, or a JSON "
            "file of module names and devices"
        )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--device-map {path} is not JSON ({error}); correct it") from None
    if not isinstance(read, dict) or not all(type(place) in (int, str) for place in read.values()):
        raise UserError(
            f"--device-map {path} must be an object of module names and devices, such as "
            '{"model.embed_tokens": 0, "model.layers": "cpu"}; correct it'
        )
    return read


def check_device_map(model: nn.Module, places: Mapping[str, int | str], where: str) -> None:
    """Make sure that a device map speaks of this model, and of all of it.

    Raises:
        UserError: It names a module the model lacks, or leaves out a weight.
    """
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    known = {name for name, _ in model.named_modules()} | set(weights)
    if lacking := sorted(places.keys() - known):
        raise UserError(f"--device-map {where} places {lacking[0]!r}, which the model lacks")
    for name in weights:
        if not any(place in ("", name) or name.startswith(place + ".") for place in places):
            raise UserError(f"--device-map {where} places no {name}; add it, or a part it is in")


def offloads(placed: str | dict[str, int | str]) -> bool:
    """Whether a device map, as far as it can be told, keeps weights away from where they compute.

    A map of names and devices does when it puts some on disk, or some on the CPU and others not.
    """
    if isinstance(placed, str):
        return placed == CPU_OFFLOAD
    places = set(placed.values())
    return "disk" in places or ("cpu" in places and len(places) > 1)


def offload_to_cpu(model: nn.Module, device: torch.device) -> None:
    """Keep the weights on the CPU and compute on ``device``, one module at a time."""
    accelerate = importlib.import_module("accelerate")
    accelerate.cpu_offload(model, execution_device=device)
