"""Libraries that run a model with kernels of their own: one file each, times and kernels as a record.

What the other figures of an evaluation are taken with, transformers, multiplies quantized ops in
high precision. A runner here multiplies integers where the weights are integers, or refuses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, get_args

from quantspectrum.artifacts import RunnerName, RunnerRun
from quantspectrum.errors import UserError
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.runners import onnx_runtime, torchao, vllm
from quantspectrum.models.loading import Loaded, ModelSpec

__all__ = ["RUNNERS", "Runner", "check_loaded", "check_runners", "run_runners"]


class Runner(Protocol):
    """What a runner's file provides."""

    def check(self, spec: ModelSpec) -> None:
        """Refuse, with a :class:`UserError`, a model it cannot run, before anything is loaded."""
        ...

    def check_loaded(self, loaded: Loaded) -> None:
        """Refuse it, likewise, before it is measured."""
        ...

    def measure(self, loaded: Loaded, plan: LatencyPlan, work: Path) -> RunnerRun:
        """Time the model; ``work`` is a folder that is removed afterwards."""
        ...


RUNNERS: Mapping[RunnerName, Runner] = {
    "onnxruntime": cast(Runner, onnx_runtime),
    "torchao": cast(Runner, torchao),
    "vllm": cast(Runner, vllm),
}


def check_runners(names: Sequence[str], spec: ModelSpec) -> None:
    """Make sure that every runner asked for is here and runs this model.

    Raises:
        UserError: One does not; the message says why, and how to get what is absent.
    """
    for name in names:
        if name not in RUNNERS:
            known = ", ".join(get_args(RunnerName))
            raise UserError(f"--runner {name}: the runners are {known}")
        RUNNERS[cast(RunnerName, name)].check(spec)


def check_loaded(loaded: Loaded, names: Sequence[str]) -> None:
    """Make sure of the same once the model is loaded, before anything is measured.

    Raises:
        UserError: See :func:`check_runners`; or the model writes no text.
    """
    if names and not loaded.generates:
        raise UserError(f"--runner times a decoder, and {loaded.spec.model} writes no text")
    check_runners(names, loaded.spec)
    for name in names:
        RUNNERS[cast(RunnerName, name)].check_loaded(loaded)


def run_runners(loaded: Loaded, names: Sequence[str], plan: LatencyPlan) -> tuple[RunnerRun, ...]:
    """Time a model with each of the runners.

    Raises:
        UserError: See :func:`check_loaded`.
    """
    check_loaded(loaded, names)
    found = []
    for name in dict.fromkeys(names):
        with tempfile.TemporaryDirectory() as work:
            found.append(RUNNERS[cast(RunnerName, name)].measure(loaded, plan, Path(work)))
    return tuple(found)
