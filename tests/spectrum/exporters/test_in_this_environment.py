"""What frameworks of this environment make of an export: compressed-tensors and ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from torch import Tensor, nn

import models_tiny
import onnx_products
from quantspectrum.backends import compressed_tensors
from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme, preset
from quantspectrum.simulation import OpPlan
from quantspectrum.spectrum.exporters.assignment import Assignment, ExportedOp
from quantspectrum.spectrum.exporters.graph import nodes_of_ops, read_nodes
from spectrum.exporters.export_cases import MODELS, Case, make_case

GROUPS = Format(name="w4a16-g32", weight=TensorScheme(bits=4, granularity="group", group_size=32))
OUTPUTS = preset("w8a8-static-affine").model_copy(
    update={"name": "with-outputs", "output": TensorScheme(symmetric=False)}
)


@pytest.mark.parametrize("mixed", [False, True], ids=["one format", "two formats"])
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static", "fp8", "w4a16"])
@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_compressed_tensors(name: str, fmt: str, mixed: bool, tmp_path: Path) -> None:
    case = make_case(tmp_path, name, fmt)
    if mixed:
        case.mix(preset("w8a16"), "down_proj")
    config = json.loads(case.export("compressed-tensors"))
    model = MODELS[name]()
    apply_quantization_config(model, QuantizationConfig.model_validate(config))
    found = {
        op: module.quantization_scheme
        for op, module in model.named_modules()
        if getattr(module, "quantization_scheme", None) is not None
    }
    assert set(found) == case.chosen
    for op, asked in case.profile.ops.items():
        weight = preset(asked).weight
        assert found[op].weights.num_bits == weight.bits
        assert found[op].weights.type == weight.kind
        assert (found[op].input_activations is None) == (preset(asked).activation is None)


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_the_configuration_is_that_of_a_variant(name: str, tmp_path: Path) -> None:
    case = make_case(tmp_path, name, "w8a8")
    plans = {op: OpPlan(format=preset("w8a8")) for op in case.chosen}
    written = compressed_tensors.quantization_config(models_tiny.loaded(case.model), plans)
    exported = json.loads(case.export("compressed-tensors"))
    assert sorted(exported.pop("ignore")) == sorted(written.pop("ignore"))
    assert exported == written


class Text(nn.Module):
    """A language model in a wrapper, as one exports it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wrapped = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.wrapped(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits


class Decoder(nn.Module):
    """The language model of Qwen2.5-VL alone, which is what can be exported of it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.model.language_model
        self.lm_head = model.lm_head

    def forward(self, embeds: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        states = self.decoder(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        )
        return self.lm_head(states.last_hidden_state)


def inputs_of(name: str) -> tuple[Tensor, ...]:
    mask = torch.ones(2, 16, dtype=torch.long)
    if name == "llama":
        return torch.arange(3, 35).reshape(2, 16), mask
    generator = torch.Generator().manual_seed(0)
    positions = torch.arange(16).expand(3, 2, 16).contiguous()
    return torch.randn(2, 16, 64, generator=generator), mask, positions


@pytest.fixture(scope="module", params=["llama", "qwen2_5_vl"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model's name and its ONNX graph."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model: Any = MODELS[request.param]()
    model.set_attn_implementation("eager")
    wrapped = Text(model) if request.param == "llama" else Decoder(model)
    torch.onnx.export(
        wrapped.eval(), inputs_of(request.param), str(path), dynamo=True, opset_version=20,
        verbose=False,
    )  # fmt: skip
    return request.param, path


def run_exported(text: str, graph: Path, out: Path, feeds: Callable[[], Iterator[Any]]) -> None:
    """What docs/export.md says to do with the file."""
    import onnxruntime.quantization as ort
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    asked = json.loads(text)
    arguments = asked["arguments"]
    if asked["function"] == "MatMulNBitsQuantizer":
        quantizer = MatMulNBitsQuantizer(str(graph), **arguments)
        quantizer.process()
        quantizer.model.save_model_to_file(str(out))
        return

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = feeds()

        def get_next(self) -> Any:
            return next(self.rows, None)

    arguments |= {
        "quant_format": ort.QuantFormat[arguments["quant_format"]],
        "weight_type": ort.QuantType[arguments["weight_type"]],
        "activation_type": ort.QuantType[arguments["activation_type"]],
        "calibrate_method": ort.CalibrationMethod[arguments["calibrate_method"]],
    }
    ort.quantize_static(str(graph), str(out), Reader(), **arguments)


def ops_quantized_in(path: Path, before: Path) -> tuple[set[str], set[str]]:
    """Modules whose node has a quantized weight, and those whose node has a quantized output."""
    import onnx

    module = {node.name: str(node.module) for node in read_nodes(before)}
    made = onnx.load(str(path)).graph
    source = {output: node for node in made.node for output in node.output}
    rounded = {name for n in made.node if n.op_type == "QuantizeLinear" for name in n.input}
    weights, outputs = set(), set()
    for node in made.node:
        if node.op_type == "MatMulNBits":
            weights.add(module[node.name.removesuffix("_Q4").removesuffix("_Q8")])
        if node.name not in module:
            continue
        weight = source.get(node.input[1])
        # A weight is stored quantized, where activations come out of a QuantizeLinear.
        if getattr(weight, "op_type", "") == "DequantizeLinear" and weight.input[0] not in source:
            weights.add(module[node.name])
            assert source[node.input[0]].op_type == "DequantizeLinear"
            if node.output[0] in rounded:
                outputs.add(module[node.name])
    return weights, outputs


def of_case(case: Case, name: str, modules: set[str]) -> set[str]:
    """Names in the graph as names of ops."""
    if name == "llama":
        return {module.removeprefix("wrapped.") for module in modules}
    return {module.replace("decoder.", "model.language_model.", 1) for module in modules}


def _check_inputs(path: Path, fmt: Format, work: Path, *, ops: int) -> None:
    """Inputs are uint8, those of symmetric formats around 128; products are of integers by default."""
    zeros = {(str(zero.dtype), int(zero)) for _, zero in onnx_products.inputs_of(path).values()}
    assert {kind for kind, _ in zeros} == {"uint8"}
    assert fmt.activation is not None
    assert (zeros == {("uint8", 128)}) is fmt.activation.symmetric
    onnx_products.need_x86()
    assert onnx_products.integer_products(path, work) == ops


@pytest.mark.slow
@pytest.mark.parametrize(
    "fmt",
    [
        preset("w8a8-static"),
        preset("w8a8-static-affine"),
        preset("w8a8-static-percentile"),
        GROUPS,
        OUTPUTS,
    ],
    ids=lambda fmt: fmt.name,
)
def test_onnxruntime(fmt: Format, graph: tuple[str, Path], tmp_path: Path) -> None:
    import onnxruntime

    name, path = graph
    case = make_case(tmp_path, name, fmt)
    components = ("language",) if name == "qwen2_5_vl" else ()
    text = case.export("onnxruntime", onnx=path, components=components)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    keys = [entry.name for entry in session.get_inputs()]
    feed = {key: value.numpy() for key, value in zip(keys, inputs_of(name), strict=True)}
    out = tmp_path / "quantized.onnx"
    run_exported(text, path, out, lambda: iter([feed]))
    modules, outputs = ops_quantized_in(out, path)
    wanted = {op for op in case.chosen if name == "llama" or "language_model" in op}
    assert wanted
    assert of_case(case, name, modules) == wanted
    assert outputs == (modules if fmt.output is not None else set())
    made = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert made.run(None, feed)[0].shape == session.run(None, feed)[0].shape
    if fmt.activation is not None:
        _check_inputs(out, fmt, tmp_path, ops=len(wanted))


@pytest.mark.slow
def test_ops_that_are_not_in_the_graph_are_named(graph: tuple[str, Path], tmp_path: Path) -> None:
    _, path = graph
    case = make_case(tmp_path, "qwen2_5_vl", "w8a8-static", share=1.0)
    with pytest.raises(UserError, match=r"ops of profile half are not in the ONNX graph, model\."):
        case.export("onnxruntime", onnx=path)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    case = make_case(tmp_path, "llama", "w8a8-static")
    for name, match in (
        (case.spectrum, "not readable as an ONNX graph|no node"),
        (tmp_path / "absent", "not readable"),
    ):
        with pytest.raises(UserError, match=match):
            case.export("onnxruntime", onnx=name)


@pytest.mark.slow
def test_a_convolution_under_the_name_of_its_batch_norm_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    model = nn.Sequential()
    model.add_module("convolution", nn.Conv2d(3, 4, 3))
    model.add_module("normalization", nn.BatchNorm2d(4))
    op = ExportedOp(
        name="convolution", type="Conv2d", shape=(4, 3, 3, 3), format=preset("w8a8-static")
    )
    for optimize in (True, False):
        path = tmp_path / f"{optimize}.onnx"
        torch.onnx.export(
            model.eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=True, opset_version=18,
            verbose=False, optimize=optimize,
        )  # fmt: skip
        asked = Assignment(profile="half", ops=(op,), kept=(), nodes=read_nodes(path))
        if optimize:
            with pytest.raises(UserError, match="export with optimize=False"):
                nodes_of_ops(asked)
        else:
            assert nodes_of_ops(asked) == [node.name for node in asked.nodes or ()]
            assert len(nodes_of_ops(asked)) == 1
