"""ONNX graphs of models: exported, and quantized node by node."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from quantspectrum.backends.isolated import Task
from quantspectrum.backends.probing import probe_batches
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError, in_one_line
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model
from quantspectrum.spectrum.exporters.graph import read_nodes

__all__ = ["OPSET", "export", "feeds", "input_names", "nodes_of", "quantize"]

OPSET = 18
_LARGE = 2**30
"""Bytes above which weights lie in a file of their own; a graph holds 2 GiB at most."""


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
    names = input_names(loaded)
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
            told = in_one_line(error, 200)
            raise UserError(
                f"torch.onnx.export cannot export {loaded.spec.model}: {told}; "
                "use --backend compressed-tensors"
            ) from error


def input_names(loaded: Loaded) -> list[str]:
    """Names of the graph's inputs, which are those of the model."""
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


def nodes_of(path: Path, ops: Iterable[str]) -> dict[str, str]:
    """Op to the name of the node that computes its matrix product.

    Raises:
        UserError: An op has no such node, or several.
    """
    found: dict[str, list[str]] = {op: [] for op in ops}
    for node in read_nodes(path):
        # Every name is below that of the model in its wrapper.
        op = (node.module or "").removeprefix("model.")
        if op in found and node.op_type in ("MatMul", "Gemm"):
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
    """Write the graph with QDQ nodes around the named ones, all of whose inputs are uint8."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    names = input_names(task.loaded)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The calibration batches, one after another."""

        def __init__(self) -> None:
            self._batches = iter(task.calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else feeds(batch, names)

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
    model = onnx.load(str(target), load_external_data=False)
    _spare_others(model, nodes)
    _store_unsigned(model)
    onnx.save(model, str(target))


def _spare_others(model: Any, nodes: Collection[str]) -> None:
    """Give nodes that are not named the tensors that they read before.

    ONNX Runtime puts its pair of nodes before every reader of an input, also of ops that are kept.
    """
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.name in nodes or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, name in enumerate(node.input):
            dequantize = made_by.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            pair = made_by.get(dequantize.input[0])
            if pair is not None:
                node.input[index] = pair.input[0]


def _store_unsigned(model: Any) -> None:
    """Store int8 inputs as uint8: their codes plus 128, with zero point 128 and the scale they had.

    By default ONNX Runtime multiplies integers on x86 where the input is uint8; an int8 input that
    several nodes read it dequantizes before. ``QUInt8`` with ``ActivationSymmetric`` gives zero
    point 128 too, but the scale 2 max / 255 in place of max / 127, and 64 with ``reduce_range``.
    """
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    zeros = {node.input[2] for node in quantizers}
    signed = set()
    for one in model.graph.initializer:
        if one.name in zeros and one.data_type == onnx.TensorProto.INT8:
            zero = numpy_helper.to_array(one)
            assert not zero.any()
            one.CopyFrom(numpy_helper.from_array(np.full(zero.shape, 128, np.uint8), one.name))
            signed.add(one.name)
    codes = {node.output[0] for node in quantizers if node.input[2] in signed}
    for value in model.graph.value_info:
        if value.name in codes:
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT8


def feeds(batch: Batch, names: Sequence[str]) -> dict[str, Any]:
    """What a session takes of a batch, which holds no picture where the graph takes text."""
    assert "pixel_values" in names or "pixel_values" not in batch.inputs
    return {name: batch.inputs[name].cpu().numpy() for name in names}
