"""Which ops of backend `onnx`'s graphs ONNX Runtime multiplies as integers, by how inputs are quantized.

    python bench/onnx_pairs.py --out bench/results/onnx_pairs.json

The language model of the embedded model is written in `w8a8-static` and `w8a8-static-affine`, all groups
but the last. Forms are loaded on the CPU: `uint8`, as written, where ops that read one input share its
QuantizeLinear and DequantizeLinear; and, of symmetric inputs, `int8`, the same codes less 128 with zero
point 0 and the same scale, and `int8, own pairs`, where each op has a pair of nodes of its own.
Sessions have default options, or leave out the optimizer that merges equal nodes, or allow int8 inputs
(`session.qdqisint8allowed`), or optimize nothing. Counted are matrix products in the optimized graph; logits
of a few texts are compared with those of `uint8` in a session of the same kind, and with those of the same form
where nothing is optimized (largest difference, over the largest logit). Of the graph as written it is also
told where codes first differ between a default session and one that optimizes nothing (`first_moved`): how many of the
tensor's codes, and how far the moved ones' values were from the middle between two codes, in steps.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from vl_backends import Case, run_cases, variant

from quantspectrum.models.loading import Loaded

MERGES = "CommonSubexpressionElimination"
INTEGERS = ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger")


def written(loaded: Loaded, fmt: str, work: Path) -> tuple[Path, int]:
    """The variant's graph, and how many ops are quantized in it."""
    manifest = variant(loaded, "onnx", fmt, work)
    assert manifest.verification is not None
    return work / "v" / "model.onnx", manifest.verification.quantized_tensors


def own_pairs(source: Path, target: Path) -> None:
    """Each reader of a dequantized input gets a copy of the two nodes before it."""
    model = onnx.load(str(source))
    made_by = {output: node for node in model.graph.node for output in node.output}
    nodes: list[Any] = []
    taken: set[str] = set()
    for node in model.graph.node:
        dequantize = made_by.get(node.input[0]) if node.op_type in ("MatMul", "Gemm") else None
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            if node.input[0] in taken:
                for one in (made_by[dequantize.input[0]], dequantize):
                    copy = onnx.NodeProto()
                    copy.CopyFrom(one)
                    copy.name, copy.output[0] = f"{one.name}.{len(nodes)}", f"{one.output[0]}.own"
                    copy.output[0] += f".{node.name}"
                    if one is dequantize:
                        copy.input[0] = nodes[-1].output[0]
                    nodes.append(copy)
                node.input[0] = nodes[-1].output[0]
            else:
                taken.add(node.input[0])
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def signed(source: Path, target: Path) -> None:
    """Codes of the inputs from -128 to 127 where they went from 0 to 255."""
    model = onnx.load(str(source))
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for one in model.graph.initializer:
        if one.name in zeros:
            zero = numpy_helper.to_array(one)
            assert zero.dtype == np.uint8
            assert (zero == 128).all()
            one.CopyFrom(numpy_helper.from_array(np.zeros(zero.shape, np.int8), one.name))
    del model.graph.value_info[:]
    onnx.save(model, str(target))


def texts() -> list[Any]:
    """Token ids of a few texts, each ``(1, tokens)``."""
    rng = np.random.default_rng(0)
    return [np.arange(1, 13)[None], *(rng.integers(1, 120, (1, n)) for n in (7, 20, 40))]


def opened(
    path: Path, work: Path, *, merges: bool = True, int8: bool = False, optimized: bool = True
) -> dict[str, Any]:
    """Products of the optimized graph, and the logits of the texts."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(work / "optimized.onnx")
    if int8:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[] if merges else [MERGES],
    )
    nodes = Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    return {
        "integer_products": sum(nodes[name] for name in INTEGERS),
        "nodes": {name: nodes[name] for name in sorted(nodes) if "MatMul" in name or "QG" in name},
        "quantize_nodes": nodes["QuantizeLinear"],
        "logits": [
            session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
            for ids in texts()
        ],
    }


def away(found: list[Any], expected: list[Any]) -> list[float]:
    """Of each text the largest difference of a logit, over the largest logit."""
    return [
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True)
    ]


def codes_of(path: Path, *, optimized: bool) -> list[dict[str, tuple[Any, Any]]]:
    """Of each text every quantized tensor: its values in steps of its scale, and its codes."""
    model = onnx.load(str(path))
    scales = {one.name: one for one in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for node in quantizers:
        for name, kind in ((node.input[0], "FLOAT"), (node.output[0], "UINT8")):
            told = onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), None)
            model.graph.output.append(told)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_outputs()]
    found = []
    for ids in texts():
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        values = dict(zip(names, session.run(names, fed), strict=True))
        found.append(
            {
                node.input[0]: (
                    values[node.input[0]] / numpy_helper.to_array(scales[node.input[1]]),
                    values[node.output[0]],
                )
                for node in quantizers
            }
        )
    return found


def first_moved(path: Path) -> list[dict[str, Any] | None]:
    """Of each text the first tensor whose codes are not those of the unoptimized graph."""
    found: list[dict[str, Any] | None] = []
    for plain, usual in zip(
        codes_of(path, optimized=False), codes_of(path, optimized=True), strict=True
    ):
        moved = (
            {
                "tensor": name,
                "codes": int(apart.sum()),
                "of": int(apart.size),
                "from_a_tie": float(np.abs(np.abs(steps - np.round(steps))[apart] - 0.5).max()),
            }
            for name, (steps, codes) in plain.items()
            if (apart := codes != usual[name][1]).any()
        )
        found.append(next(moved, None))
    return found


def case(loaded: Loaded, work: Path, *, fmt: str) -> dict[str, Any]:
    """Every form of one format's graph under every kind of session."""
    graph, ops = written(loaded, fmt, work)
    forms = {"uint8": graph}
    if fmt == "w8a8-static":
        forms |= {"int8": work / "int8.onnx", "int8, own pairs": work / "own.onnx"}
        signed(graph, forms["int8"])
        own_pairs(forms["int8"], forms["int8, own pairs"])
    sessions: dict[str, dict[str, bool]] = {
        "default": {},
        "nothing merged": {"merges": False},
        "int8 allowed": {"int8": True},
        "nothing optimized": {"optimized": False},
    }
    rows = {
        (form, name): opened(path, work, **how)
        for form, path in forms.items()
        for name, how in sessions.items()
    }
    logits = {key: row.pop("logits") for key, row in rows.items()}
    return {
        "format": fmt,
        "ops": ops,
        "as_written": "uint8",
        "first_moved": first_moved(graph),
        "rows": [
            {
                "inputs": form,
                "session": name,
                **row,
                "away_from_as_written": away(logits[form, name], logits["uint8", name]),
                "away_from_unoptimized": away(
                    logits[form, name], logits[form, "nothing optimized"]
                ),
            }
            for (form, name), row in rows.items()
        ],
    }


def main() -> None:
    """Both formats."""
    formats = ("w8a8-static", "w8a8-static-affine")
    cases: dict[str, Case] = {fmt: partial(case, fmt=fmt) for fmt in formats}
    run_cases(__doc__, cases, onnxruntime=onnxruntime.__version__)


if __name__ == "__main__":
    main()
