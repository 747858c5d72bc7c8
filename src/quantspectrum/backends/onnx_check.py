"""Quantized ONNX graphs, read back and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from quantspectrum.backends.isolated import Task
from quantspectrum.backends.onnx_graph import feeds, input_names
from quantspectrum.backends.probing import distance, logits_of, probe_batches, simulated_logits
from quantspectrum.backends.quantize import relative_l2
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan, serving_input_quantizer

__all__ = [
    "QuantizedTensors",
    "graph_distances",
    "op_error",
    "quantized_tensors",
    "weight_error",
]

_DEQUANTIZE = "DequantizeLinear"
_FAULT = "this is a fault of the backend: please report it"


@dataclass(frozen=True)
class QuantizedTensors:
    """What the nodes around an op's MatMul compute with.

    Attributes:
        weight: Values of the weight, (outputs, inputs).
        steps: Scale of each output of it.
        scale: Scale of the input.
        zero_point: Zero point of the input, whose codes go from 0 to 255.
    """

    weight: Tensor
    steps: Tensor
    scale: float
    zero_point: int


def quantized_tensors(path: Path, nodes: Mapping[str, str]) -> dict[str, QuantizedTensors]:
    """For each op what its quantized node computes with.

    Raises:
        UserError: Other nodes are quantized than those of the ops, or an input is not uint8.
    """
    graph = onnx.load(str(path)).graph
    _check_readers(graph, nodes)
    values = {one.name: one for one in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    by_name = {node.name: node for node in graph.node}
    found = {}
    for op, name in nodes.items():
        node = by_name[name]
        inputs, weight = (made_by[node.input[index]] for index in (0, 1))
        codes, scale, zero = (numpy_helper.to_array(values[i]) for i in weight.input)
        axis = next((a.i for a in weight.attribute if a.name == "axis"), 1)
        shape = [-1 if dim == axis % codes.ndim else 1 for dim in range(codes.ndim)]
        floats = (codes.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        act_zero = numpy_helper.to_array(values[inputs.input[2]])
        if act_zero.dtype != np.uint8:
            raise UserError(
                f"the graph holds the input of {op} as {act_zero.dtype}, not uint8; {_FAULT}"
            )
        found[op] = QuantizedTensors(
            steps=torch.from_numpy(np.array(scale).reshape(-1)),
            weight=torch.from_numpy(floats if transposed else floats.T.copy()),
            scale=float(numpy_helper.to_array(values[inputs.input[1]])),
            zero_point=int(act_zero),
        )
    return found


def _check_readers(graph: Any, nodes: Mapping[str, str]) -> None:
    """Refuse a graph in which another node computes with quantized numbers."""
    dequantized = {o for node in graph.node if node.op_type == _DEQUANTIZE for o in node.output}
    reading = sorted(n.name for n in graph.node if dequantized.intersection(n.input))
    if reading != sorted(nodes.values()):
        differing = sorted(set(reading) ^ set(nodes.values()))
        raise UserError(
            f"the graph has {len(reading)} quantized nodes where {len(nodes)} were planned, and "
            f"{differing[0]} is none or one too many; {_FAULT}"
        )


def weight_error(loaded: Loaded, tensors: Mapping[str, QuantizedTensors]) -> float:
    """Largest difference between a weight and what it is in the graph, in steps of its grid."""
    worst = 0.0
    for op, one in tensors.items():
        weight = loaded.model.get_parameter(f"{op}.weight").detach()
        error = (one.weight - weight).abs() / one.steps.reshape(-1, 1)
        worst = max(worst, float(error.max()))
    return worst


def op_error(
    task: Task, path: Path, nodes: Mapping[str, str], tensors: Mapping[str, QuantizedTensors]
) -> float:
    r"""Largest relative L2, over the ops, of what ONNX Runtime computes of an op's own input.

    Of each op the input :math:`x` and the output are taken from one run of the graph; expected is
    :math:`Q(x)\,Q(W)^\top`, with the graph's scales, in float32. Nothing adds up from op to op.
    """
    loaded = task.loaded
    graph = onnx.load(str(path))
    taken = _inputs_and_outputs(graph.graph, nodes)
    names = sorted({name for pair in taken.values() for name in pair})
    there = {one.name for one in (*graph.graph.input, *graph.graph.output)}
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in there
    )
    watched = task.directory / "watched.onnx"
    onnx.save(graph, str(watched), save_as_external_data=True, location="watched.onnx.data")
    probe = min(_probes(loaded), key=lambda batch: next(iter(batch.inputs.values())).numel())
    session = onnxruntime.InferenceSession(str(watched), providers=["CPUExecutionProvider"])
    found = session.run(names, feeds(probe, input_names(loaded)))
    values = {name: torch.from_numpy(one) for name, one in zip(names, found, strict=True)}
    worst = 0.0
    for op, (x, y) in taken.items():
        plan = _plan(task.plans[op], tensors[op])
        expected = functional.linear(serving_input_quantizer(plan)(values[x]), tensors[op].weight)
        bias = getattr(loaded.model.get_submodule(op), "bias", None)
        if bias is not None and _has_bias(graph.graph, nodes[op]):
            expected = expected + bias.detach()
        worst = max(worst, relative_l2(values[y], expected))
    return worst


def _probes(loaded: Loaded) -> list[Batch]:
    """The fixed samples that the graph takes: of a language model those without a picture."""
    names = input_names(loaded)
    return [
        batch
        for batch in probe_batches(loaded)
        if "pixel_values" in names or "pixel_values" not in batch.inputs
    ]


def _inputs_and_outputs(graph: Any, nodes: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    made_by = {output: node for node in graph.node for output in node.output}
    by_name = {node.name: node for node in graph.node}
    found = {}
    for op, name in nodes.items():
        node = by_name[name]
        quantizer = made_by[made_by[node.input[0]].input[0]]
        found[op] = quantizer.input[0], node.output[0]
    return found


def _has_bias(graph: Any, name: str) -> bool:
    return any(node.name == name and len(node.input) > 2 for node in graph.node)


def graph_distances(
    task: Task, path: Path, tensors: Mapping[str, QuantizedTensors]
) -> tuple[float, float]:
    """Relative L2 of ONNX Runtime's logits to the simulated ones, and of these to the model's."""
    loaded = task.loaded
    names = input_names(loaded)
    probes = _probes(loaded)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(session.run(None, feeds(batch, names))[0]) for batch in probes]
    plans = {op: _plan(plan, tensors[op]) for op, plan in task.plans.items()}
    with _weights(loaded, tensors):
        simulated = simulated_logits(loaded, plans, probes, part="activation")
    return distance(found, simulated), distance(simulated, logits_of(loaded, probes))


def _plan(plan: OpPlan, tensors: QuantizedTensors) -> OpPlan:
    """The plan with the scale and zero point that the graph has."""
    act = plan.format.activation
    assert act is not None
    low, high = _range(tensors, symmetric=act.symmetric)
    return replace(plan, input_range=(low, high), scale_dtype=torch.float32)


def _range(tensors: QuantizedTensors, *, symmetric: bool) -> tuple[float, float]:
    """The range whose scale and zero point these are.

    Symmetric codes are those of the format, from -128 to 127, plus 128.

    Raises:
        UserError: The zero point of symmetric codes is another.
    """
    scale, zero = tensors.scale, tensors.zero_point
    if not symmetric:
        return -zero * scale, (255 - zero) * scale
    if zero != 128:
        raise UserError(f"the graph has zero point {zero} where symmetric codes have 128; {_FAULT}")
    return -127.5 * scale, 127.5 * scale


@contextmanager
def _weights(loaded: Loaded, tensors: Mapping[str, QuantizedTensors]) -> Iterator[None]:
    """The model with the graph's weights; its own are put back on leaving."""
    kept: dict[str, Tensor] = {}
    try:
        for op, one in tensors.items():
            parameter = loaded.model.get_parameter(f"{op}.weight")
            kept[op], parameter.data = parameter.data, one.weight.to(parameter.dtype)
        yield
    finally:
        for op, data in kept.items():
            loaded.model.get_parameter(f"{op}.weight").data = data
