"""Runner ``torchao``: int8 products of the variant's own codes, under torch.compile.

It runs in torchao's environment (``isolation/workers/torchao_latency.py``). Of an unquantized model
the same graphs are compiled with PyTorch's own linears: what int8 is to be compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from quantspectrum.artifacts import DecodeLatency, RunnerRun
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

__all__ = ["check", "check_loaded", "int8_ops", "measure"]

ENVIRONMENT = "torchao"


def check(spec: ModelSpec) -> None:
    """Refuse formats that torchao's int8 product is not.

    Raises:
        UserError: See above; or the environment is absent.
    """
    require_environment(ENVIRONMENT)
    refuse_graph(spec, "torchao")
    config = quantization_of(spec)
    for scheme in _schemes(config, spec.model):
        weights, inputs = scheme.get("weights") or {}, scheme.get("input_activations") or {}
        dynamic = (
            (weights.get("type"), weights.get("num_bits"), weights.get("strategy"))
            == ("int", 8, "channel")
            and (inputs.get("type"), inputs.get("num_bits"), inputs.get("strategy"))
            == ("int", 8, "token")
            and inputs.get("dynamic") is True
            and weights.get("symmetric", True)
            and inputs.get("symmetric", True)
        )
        if not dynamic:
            raise UserError(
                f"--runner torchao multiplies format w8a8 (int8 weights per channel, inputs per "
                f"token), and {spec.model} holds another; leave --runner torchao out for it"
            )


def _schemes(config: Mapping[str, Any] | None, model: str) -> Iterator[Mapping[str, Any]]:
    if config is None:
        return
    groups = config.get("config_groups")
    if config.get("format") not in ("int-quantized", "mixed-precision") or not groups:
        raise UserError(
            f"--runner torchao reads int8 codes as compressed-tensors keeps them, and {model} is "
            "quantized otherwise; leave --runner torchao out for it"
        )
    yield from groups.values()


def int8_ops(directory: Path) -> list[str]:
    """Names of the ops whose weights are int8 codes with a scale, from the files' headers."""
    found = set()
    scaled = set()
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                op, _, leaf = name.rpartition(".")
                if leaf == "weight" and opened.get_slice(name).get_dtype() == "I8":
                    found.add(op)
                elif leaf == "weight_scale":
                    scaled.add(op)
    return sorted(found & scaled)


def check_loaded(loaded: Loaded) -> None:
    """Nothing more is known once it is loaded."""


def measure(loaded: Loaded, plan: LatencyPlan, work: Path) -> RunnerRun:
    """Time the model in torchao's environment.

    Raises:
        UserError: The worker failed, or did not take all of the variant's codes.
    """
    asked = model_request(loaded, work / "model")
    codes = int8_ops(Path(asked["model"]))
    request = asked | {
        "codes": codes,
        "points": [list(point) for point in plan.points()],
        "new_tokens": plan.new_tokens,
        "repeats": plan.repeats,
    }
    found = run_worker(ENVIRONMENT, "torchao_latency", request, work)
    if found["quantized"] != codes or not found["logits_finite"]:
        raise UserError(
            f"--runner torchao: {len(found['quantized'])} of {len(codes)} ops hold torchao's "
            f"tensor, and logits are {'' if found['logits_finite'] else 'not '}finite; nothing of "
            "it is kept: please report it"
        )
    compiled = sum(entry["compile_s"] for entry in found["latency"])
    latency: tuple[DecodeLatency, ...] = decode_latencies(found["latency"])
    return RunnerRun(
        runner="torchao",
        versions=found["versions"],
        device=loaded.device.type,
        device_name=found["device_name"] or device_name_of(loaded),
        dtype=loaded.identity.dtype,
        weights=f"the variant's own codes and scales, {len(codes)} ops"
        if codes
        else "unquantized weights, PyTorch's linears",
        kernels=found["kernels"],
        latency=latency,
        load_s=found["load_s"],
        peak_host_bytes=found["usage"]["peak_bytes"],
        peak_device_bytes=found["peak_device_bytes"],
        notes=(
            f"torch.compile of the decoder and its head, a cache of fixed size; compiling and "
            f"warming up took {compiled:.0f} s",
            "kernels are the products of one prefill and one step, from PyTorch's profiler",
        ),
    )
