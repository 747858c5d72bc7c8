"""Runner ``vllm``: the checkpoint as vLLM serves it, with the kernels that it chose.

It runs in vLLM's environment (``isolation/workers/vllm_latency.py``), or in one that
``$QUANTSPECTRUM_ENV_VLLM`` names, such as a CUDA build of vLLM.
"""

from __future__ import annotations

from pathlib import Path

from quantspectrum.artifacts import RunnerRun
from quantspectrum.errors import UserError
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.runners.common import (
    decode_latencies,
    device_name_of,
    quantization_of,
    refuse_graph,
)
from quantspectrum.isolation import require_environment, run_worker
from quantspectrum.isolation.inputs import model_request
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.serving import check_checkpoint, read_checkpoint

__all__ = ["check", "check_loaded", "measure"]

ENVIRONMENT = "vllm"


def check(spec: ModelSpec) -> None:
    """Refuse a checkpoint that vLLM is known not to load.

    Raises:
        UserError: See above; or the environment is absent.
    """
    require_environment(ENVIRONMENT)
    refuse_graph(spec, "vllm")
    if quantization_of(spec) is None:
        return
    verdict = check_checkpoint(read_checkpoint(Path(spec.model)), engine="vllm")
    wrong = next((one for one in verdict.findings if one.level == "error"), None)
    if wrong is not None:
        raise UserError(
            f"--runner vllm: vLLM will not serve {spec.model}; `quantspectrum check {spec.model} "
            "--for vllm` says why"
        )


def check_loaded(loaded: Loaded) -> None:
    """Nothing more is known once it is loaded."""


def measure(loaded: Loaded, plan: LatencyPlan, work: Path) -> RunnerRun:
    """Time the checkpoint in vLLM.

    Raises:
        UserError: vLLM did not load or run it; the message holds its last line.
    """
    request = model_request(loaded, work / "model") | {
        "vocabulary": loaded.config.get_text_config().vocab_size,
        "points": [list(point) for point in plan.points()],
        "new_tokens": plan.new_tokens,
        "repeats": plan.repeats,
    }
    found = run_worker(ENVIRONMENT, "vllm_latency", request, work)
    quantized = quantization_of(loaded.spec) is not None
    return RunnerRun(
        runner="vllm",
        versions=found["versions"],
        device=found["device"],
        device_name=found["device_name"] or device_name_of(loaded),
        dtype=loaded.identity.dtype,
        weights="the variant's own codes and scales" if quantized else "unquantized weights",
        kernels=found["kernels"],
        latency=decode_latencies(found["latency"]),
        load_s=found["load_s"],
        peak_host_bytes=found["usage"]["peak_bytes"],
        peak_device_bytes=found["peak_device_bytes"],
        notes=(
            "whole requests: scheduling counts too; a further token is the time of all less that "
            "of the first",
            "kernels are what vLLM chose for its layers, which may be fused ops",
        ),
    )
