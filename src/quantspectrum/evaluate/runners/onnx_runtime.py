"""Runner ``onnxruntime``: a variant of backend ``onnx``, or an unquantized model exported first."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from quantspectrum.artifacts import RunnerRun
from quantspectrum.errors import UserError
from quantspectrum.evaluate.latency import LatencyPlan, measure_latency
from quantspectrum.evaluate.onnx_model import OnnxModel, is_onnx_variant, need_onnxruntime
from quantspectrum.evaluate.runners.common import device_name_of, quantization_of
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.provenance import peak_host_bytes

__all__ = ["check", "check_loaded", "measure"]


def check(spec: ModelSpec) -> None:
    """Refuse a checkpoint that is quantized for another engine.

    Raises:
        UserError: See above; or ONNX Runtime is absent.
    """
    need_onnxruntime()
    if not is_onnx_variant(spec.model) and quantization_of(spec) is not None:
        raise UserError(
            f"--runner onnxruntime runs ONNX graphs, and {spec.model} is a quantized checkpoint of "
            "another kind; write the profile with `quantspectrum quantize --backend onnx`"
        )


def check_loaded(loaded: Loaded) -> None:
    """Refuse what cannot be exported.

    Raises:
        UserError: It is no graph, and sees pictures or is not in float32 on the CPU.
    """
    if isinstance(loaded.model, OnnxModel):
        return
    if loaded.takes_images or loaded.device.type != "cpu" or loaded.identity.dtype != "float32":
        raise UserError(
            "--runner onnxruntime exports text models from float32 on the CPU (--device cpu --dtype "
            "float32), and no models that see pictures; leave it out for this one"
        )


def measure(loaded: Loaded, plan: LatencyPlan, work: Path) -> RunnerRun:
    """Time a graph; of an unquantized model the one that PyTorch exports.

    Raises:
        UserError: The model cannot be exported.
    """
    notes = [
        "the graph keeps no keys and values: each further token is a pass over the whole text",
        "kernels are the nodes of one pass of 4 tokens, from ONNX Runtime's profile, each with the "
        "type of its first input",
    ]
    if isinstance(loaded.model, OnnxModel):
        own, weights = loaded, "the variant's own graph and codes"
    else:
        own, weights = _exported(loaded, work), "unquantized weights, exported by torch.onnx"
    model = own.model
    assert isinstance(model, OnnxModel)
    start = time.perf_counter()
    model = OnnxModel(own.config, model.path)
    load_s = time.perf_counter() - start
    timed = replace(own, model=model)
    return RunnerRun(
        runner="onnxruntime",
        versions={name: version(name) for name in ("onnxruntime", "torch")},
        device="cpu",
        device_name=device_name_of(own),
        dtype="float32",
        weights=weights,
        kernels=model.products(),
        latency=tuple(measure_latency(timed, plan, *point) for point in plan.points()),
        load_s=load_s,
        peak_host_bytes=peak_host_bytes(),
        notes=tuple(notes),
    )


def _exported(loaded: Loaded, work: Path) -> Loaded:
    from quantspectrum.backends import onnx_graph

    path = work / "model.onnx"
    onnx_graph.export(loaded, path)
    return replace(loaded, model=OnnxModel(loaded.config, path))
