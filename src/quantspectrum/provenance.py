"""Where and on what a figure was measured: environment, model identity, time and memory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantspectrum.artifacts import DataIdentity, Environment, ModelIdentity, Provenance

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PretrainedConfig

__all__ = [
    "Stopwatch",
    "describe_model",
    "describe_parameters",
    "environment",
    "peak_host_bytes",
    "reset_peak_memory",
]

_PACKAGES = ("torch", "torchvision", "transformers", "compressed-tensors", "safetensors", "numpy")
_FINGERPRINT_VALUES = 64


def environment(device: torch.device) -> Environment:
    """Describe this machine and the installed versions."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return Environment(
        tool_version=_version("quantspectrum") or "unknown",
        git_sha=_git_sha(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={p: v for p in _PACKAGES if (v := _version(p)) is not None},
        device=device.type,
        device_name=name or platform.machine(),
        cpus=os.cpu_count() or 1,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_sha() -> str | None:
    """Commit of the checkout this package runs from; ``None`` when installed from a wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe_model(
    model: nn.Module,
    config: PretrainedConfig,
    *,
    model_id: str,
    revision: str | None,
    storage_dtype: torch.dtype | None = None,
) -> ModelIdentity:
    """Identify a loaded model by its configuration and a fingerprint of its weights.

    Where the weights are changes nothing: offloaded ones are read from where they are kept.
    """
    from quantspectrum.models.placement import named_parameters

    return describe_parameters(
        named_parameters(model),
        config,
        model_id=model_id,
        revision=revision,
        dtype=next(model.parameters()).dtype,
        storage_dtype=storage_dtype,
    )


def describe_parameters(
    parameters: Iterable[tuple[str, Callable[[], Tensor]]],
    config: PretrainedConfig,
    *,
    model_id: str,
    revision: str | None,
    dtype: torch.dtype,
    storage_dtype: torch.dtype | None = None,
) -> ModelIdentity:
    """The same of parameters that are read one by one, in the model's order, tied ones once."""
    import torch

    sha = hashlib.sha256()
    count, picked = 0, []
    for name, read in parameters:
        parameter = read()
        count += parameter.numel()
        sha.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.reshape(-1)
        picked.append(flat[_evenly_spaced(flat.numel()).to(flat.device)].float().cpu())
    sha.update(torch.cat(picked).numpy().tobytes())
    canonical = json.dumps(_settings(config.to_dict()), sort_keys=True, default=str)
    return ModelIdentity(
        id=model_id,
        revision=revision,
        model_type=config.model_type,
        config_hash=hashlib.sha256(canonical.encode()).hexdigest(),
        weights_fingerprint=sha.hexdigest(),
        dtype=str(dtype).removeprefix("torch."),
        parameters=count,
        storage_dtype=str(storage_dtype).removeprefix("torch.") if storage_dtype else None,
    )


def _evenly_spaced(length: int) -> torch.Tensor:
    """Indices from the first to the last of ``length`` values, at most 64."""
    import torch

    count = min(length, _FINGERPRINT_VALUES)
    return torch.arange(count) * (length - 1) // max(count - 1, 1)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, and those inside it, without what does not change the model."""
    return {
        key: _settings(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NOT_CONFIG
    }


# What transformers writes into a configuration without it changing the model.
_NOT_CONFIG = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "name_or_path"}


class Stopwatch:
    """Wall time since it was made, peak memory, and the provenance of what was done meanwhile."""

    def __init__(self, device: torch.device) -> None:
        """Start now."""
        self._device = device
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self._start = time.perf_counter()

    @property
    def wall_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def peak_device_bytes(self) -> int | None:
        """Most device memory allocated since :func:`reset_peak_memory`; ``None`` on the CPU."""
        import torch

        if self._device.type != "cuda":
            return None
        return int(torch.cuda.max_memory_allocated(self._device))

    def provenance(
        self, model: ModelIdentity, data: tuple[DataIdentity, ...] = (), *, seed: int = 0
    ) -> Provenance:
        """Close the books."""
        return Provenance(
            created=self._created,
            environment=environment(self._device),
            model=model,
            data=data,
            seed=seed,
            wall_s=self.wall_s,
            peak_host_bytes=peak_host_bytes(),
            peak_device_bytes=self.peak_device_bytes,
        )


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new count of peak device memory: done once per stage, never inside one."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_host_bytes() -> int | None:
    """Peak resident memory of this process so far; ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
