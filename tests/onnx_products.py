"""Quantized ONNX graphs in tests: how their inputs are stored, and what ONNX Runtime makes of them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_INTEGERS = ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger")


def need_x86() -> None:
    """Skip where it is not known that ONNX Runtime fuses uint8 by int8 products by default."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"ONNX Runtime's default products are known on x86, not {platform.machine()}")


def integer_products(path: Path, work: Path) -> int:
    """Products of integers in the graph that a session of default options runs."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(work / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
    return sum(node.op_type in _INTEGERS for node in nodes)


def inputs_of(path: Path) -> dict[str, tuple[float, Any]]:
    """Scale and zero point of every quantized tensor that is no constant."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    stored = {
        one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if not one.dims
    }
    return {
        node.input[0]: (float(stored[node.input[1]]), stored[node.input[2]])
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }


def store_inputs(source: Path, target: Path, zero: Any) -> None:
    """The graph with another zero point of every input."""
    import onnx

    model = onnx.load(str(source))
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for one in model.graph.initializer:
        if one.name in zeros:
            one.CopyFrom(onnx.numpy_helper.from_array(np.asarray(zero), one.name))
    del model.graph.value_info[:]
    onnx.save(model, str(target))
