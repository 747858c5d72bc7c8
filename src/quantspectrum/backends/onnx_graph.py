"""ONNX graphs of models: exported, quantized node by node, and read back."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from quantspectrum.backends.isolated import Task
from quantspectrum.backends.probing import distance, probe_batches, simulated_logits
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model

__all__ = [
    "OPSET",
    "QuantizedTensors",
    "distance_to_simulation",
    "export",
    "nodes_of",
    "quantize",
    "quantized_tensors",
]

OPSET = 18
_SCOPES = "pkg.torch.onnx.name_scopes"
_LARGE = 2**30
"""Bytes above which weights lie in a file of their own; a graph holds 2 GiB at most."""


@dataclass(frozen=True)
class QuantizedTensors:
    """What the nodes around an op's MatMul compute with."""

    weight: Tensor
    scale: float
    zero_point: int
    unsigned: bool


class _Wrapped(nn.Module):
    """A model as a function of named tensors that gives its prediction alone."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return run_model(self.model, dict(zip(self._names, inputs, strict=True)))


def export(loaded: Loaded, path: Path) -> None:
    """Write the float model, with batch and, of text, tokens left open.

    Raises:
        UserError: PyTorch cannot export this model.
    """
    names = _input_names(loaded)
    batch = torch.export.Dim("batch", min=1, max=64)
    if loaded.takes_text:
        longest = int(getattr(loaded.config, "max_position_embeddings", 512))
        tokens = torch.export.Dim("tokens", min=2, max=longest)
        ids = torch.ones((2, 16), dtype=torch.long)
        inputs: tuple[Tensor, ...] = (ids, torch.ones_like(ids))
        shapes: tuple[Any, ...] = ({0: batch, 1: tokens}, {0: batch, 1: tokens})
    else:
        pixels = probe_batches(loaded)[0].inputs["pixel_values"]
        inputs, shapes = (torch.cat([pixels, pixels]),), ({0: batch},)
    with _eager_attention(loaded), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Wrapped(loaded.model, names).eval(),
                inputs,
                str(path),
                dynamo=True,
                # Of *inputs, the one parameter that forward has.
                dynamic_shapes=(shapes,),
                opset_version=OPSET,
                input_names=names,
                output_names=["logits"],
                verbose=False,
            )
        # What the exporter raises depends on where in the model's code it gives up.
        except Exception as error:
            told = " ".join(str(error).split())[:200]
            raise UserError(
                f"torch.onnx.export cannot export {loaded.spec.model}: {told}; "
                "use --backend compressed-tensors"
            ) from error


def _input_names(loaded: Loaded) -> list[str]:
    return ["input_ids", "attention_mask"] if loaded.takes_text else ["pixel_values"]


@contextmanager
def _eager_attention(loaded: Loaded) -> Iterator[None]:
    """Attention written out, which the exporter needs no special operator for."""
    before = loaded.config._attn_implementation
    loaded.model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        loaded.model.set_attn_implementation(before)  # type: ignore[operator]


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def nodes_of(path: Path, ops: Mapping[str, object]) -> dict[str, str]:
    """Op to the name of the node that computes its matrix product.

    Raises:
        UserError: An op has no such node, or several.
    """
    found: dict[str, list[str]] = {op: [] for op in ops}
    graph = onnx.load(str(path), load_external_data=False).graph
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
        for scope in ast.literal_eval(scopes):
            op = str(scope).removeprefix("model.")
            if op in found:
                found[op].append(node.name)
    for op, nodes in found.items():
        if len(nodes) != 1:
            raise UserError(
                f"the exported graph has {len(nodes)} matrix products of {op}; "
                "leave it out of the profile"
            )
    return {op: nodes[0] for op, nodes in found.items()}


def quantize(
    task: Task, source: Path, target: Path, nodes: list[str], *, reduce_range: bool
) -> None:
    """Write the graph with QDQ nodes around the named ones."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    names = _input_names(task.loaded)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The calibration batches, one after another."""

        def __init__(self) -> None:
            self._batches = iter(task.calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else _feeds(batch, names)

    act = next(iter(task.plans.values())).format.activation
    assert act is not None
    stored = sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*"))
    with _quiet():
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QInt8 if act.symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=stored > _LARGE,
            extra_options={
                "ActivationSymmetric": act.symmetric,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                "QuantizeBias": False,
            },
        )


def _feeds(batch: Batch, names: Sequence[str]) -> dict[str, Any]:
    return {name: batch.inputs[name].cpu().numpy() for name in names}


def quantized_tensors(path: Path, nodes: Mapping[str, str]) -> dict[str, QuantizedTensors]:
    """For each op what its quantized node computes with.

    Raises:
        UserError: Other nodes are quantized than those of the ops.
    """
    graph = onnx.load(str(path)).graph
    values = {one.name: one for one in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    by_name = {node.name: node for node in graph.node}
    products = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm")
        and any(_is(made_by, name, "DequantizeLinear") for name in node.input)
    ]
    if sorted(products) != sorted(nodes.values()):
        raise UserError(
            f"the graph has {len(products)} quantized matrix products where {len(nodes)} were "
            "planned; this is a fault of the backend: please report it"
        )
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
        found[op] = QuantizedTensors(
            weight=torch.from_numpy(floats if transposed else floats.T.copy()),
            scale=float(numpy_helper.to_array(values[inputs.input[1]])),
            zero_point=int(act_zero),
            unsigned=act_zero.dtype == np.uint8,
        )
    return found


def _is(made_by: Mapping[str, Any], name: str, kind: str) -> bool:
    return name in made_by and made_by[name].op_type == kind


def distance_to_simulation(
    task: Task, path: Path, tensors: Mapping[str, QuantizedTensors]
) -> float:
    """Largest relative L2 between what ONNX Runtime computes and the graph's numbers simulated."""
    import onnxruntime

    loaded = task.loaded
    names = _input_names(loaded)
    probes = probe_batches(loaded)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(session.run(None, _feeds(batch, names))[0]) for batch in probes]
    plans = {
        op: replace(plan, input_range=_range(tensors[op]), scale_dtype=torch.float32)
        for op, plan in task.plans.items()
    }
    with _weights(loaded, tensors):
        return distance(found, simulated_logits(loaded, plans, probes, part="activation"))


def _range(tensors: QuantizedTensors) -> tuple[float, float]:
    """The range whose scale and zero point these are."""
    if not tensors.unsigned:
        return -127.5 * tensors.scale, 127.5 * tensors.scale
    return -tensors.zero_point * tensors.scale, (255 - tensors.zero_point) * tensors.scale


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
