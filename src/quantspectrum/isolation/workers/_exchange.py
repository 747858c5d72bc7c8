"""What every worker shares: reading the request, telling progress, writing the result as a whole.

Runs in another environment: standard library, torch and safetensors are all it may import.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "Budget",
    "batches_of",
    "load_model",
    "progress",
    "read_request",
    "read_tensors",
    "usage",
    "versions",
    "write_result",
]

_START = time.monotonic()


def read_request() -> dict[str, Any]:
    """The request that this process was started for."""
    found: dict[str, Any] = json.loads(Path("request.json").read_text(encoding="utf-8"))
    return found


def read_tensors() -> dict[str, Any]:
    """The tensors that came with it."""
    from safetensors.torch import load_file

    return dict(load_file("tensors.safetensors"))


def batches_of(tensors: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """What ``model(**batch)`` takes, of every batch of a split, in order."""
    batches: dict[int, dict[str, Any]] = {}
    for key, values in tensors.items():
        where, _, rest = key.partition(".")
        index, _, name = rest.partition(".")
        if where == split and name.startswith("inputs."):
            batches.setdefault(int(index), {})[name.removeprefix("inputs.")] = values
    return [batches[index] for index in sorted(batches)]


def load_model(
    request: dict[str, Any], *, dtype: str | None = None, attention: str | None = None
) -> Any:
    """The model of the request's directory, on the CPU, in evaluation mode, without gradients.

    Args:
        request: What it is, see ``isolation/inputs.py``.
        dtype: Its type, in place of that of the request.
        attention: An implementation of transformers', in place of its default.
    """
    import torch
    import transformers

    cls = getattr(transformers, request["class"], None)
    if cls is None and request["trust_remote_code"]:
        cls = getattr(transformers, request["loader"])
    if cls is None:
        raise RuntimeError(f"transformers {transformers.__version__} has no {request['class']}")
    model = cls.from_pretrained(
        request["model"],
        dtype=getattr(torch, dtype or request["dtype"]),
        trust_remote_code=request["trust_remote_code"],
        use_safetensors=True,
        **({"attn_implementation": attention} if attention else {}),
    )
    return model.eval().requires_grad_(False)


class Budget:
    """Seconds that a lens may score for, from when this is made; ``None`` sets no limit.

    With ``until_interrupted`` the first Ctrl-C is the end of them, for workers that can end between two
    steps alone; the second is passed on.
    """

    def __init__(self, seconds: float | None, *, until_interrupted: bool = False) -> None:
        self.seconds, self.start, self.interrupted = seconds, time.monotonic(), False
        if until_interrupted:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _number: int, _frame: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def over(self) -> bool:
        """Whether they have passed."""
        passed = self.seconds is not None and time.monotonic() - self.start > self.seconds
        return passed or self.interrupted


def progress(done: int, total: int) -> None:
    """Move the progress bar of whoever waits."""
    sys.stdout.write(f"@progress {done} {total}\n")
    sys.stdout.flush()


def write_result(result: dict[str, Any]) -> None:
    """Write the result, or what there is of it so far; a reader never meets half of one."""
    partial = Path(".result.partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace("result.json")


def usage() -> dict[str, Any]:
    """Wall time since the start and peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.monotonic() - _START, "peak_bytes": peak, "cores": os.cpu_count()}


def versions(*packages: str) -> dict[str, str]:
    """Versions of the packages, where they are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
