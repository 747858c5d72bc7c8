"""Variants written by the frameworks themselves, on tiny models; each needs its environment."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import framework_cases as cases
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import models_tiny
from quantspectrum.artifacts import Manifest, Profile, Spectrum, read_artifact, write_artifact
from quantspectrum.backends import inc_static
from quantspectrum.backends.isolated import Task
from quantspectrum.backends.onnx import MAX_OP_L2
from quantspectrum.backends.probing import distance, logits_of, probe_batches
from quantspectrum.backends.quantize import plans_of
from quantspectrum.cli import main
from quantspectrum.errors import UserError
from quantspectrum.integer import IntegerKernel
from quantspectrum.models.loading import Loaded, ModelSpec, load_model

pytestmark = pytest.mark.slow


def _check_checkpoint(loaded: Loaded, out: Path, manifest: Manifest, dtype: torch.dtype) -> None:
    """Exactly the profile's ops are quantized; transformers gives finite logits near the model's."""
    planned = set(manifest.profile.ops)
    stored = load_file(out / "model.safetensors")
    codes = {name.removesuffix(".weight") for name, t in stored.items() if t.dtype == dtype}
    assert codes == planned
    assert set(stored) >= {f"{op}.weight_scale" for op in planned}
    ignored = set(json.loads((out / "config.json").read_text())["quantization_config"]["ignore"])
    linears = {n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert ignored == linears - planned
    auto = AutoModelForImageTextToText if loaded.takes_images else AutoModelForCausalLM
    model = auto.from_pretrained(out).eval()
    for batch in cases.calibration(loaded):
        found = models_tiny.logits(model, batch)
        assert torch.isfinite(found).all()
        expected = models_tiny.logits(loaded.model, batch)
        assert 0 < (found - expected).norm() / expected.norm() < 0.2
    assert manifest == read_artifact(out / "manifest.json", Manifest)
    assert not (out / "work").exists()


@pytest.mark.parametrize("iters", [0, 5])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen2.5-vl"])
def test_inc_writes_w8a8(tmp_path: Path, family: str, iters: int) -> None:
    cases.need("inc-autoround")
    loaded, out = cases.load_tiny(family, tmp_path / "m"), tmp_path / "v"
    spectrum = cases.spectrum_of(loaded, "w8a8")
    manifest = cases.write(loaded, spectrum, "inc", out, options={"iters": str(iters)})
    _check_checkpoint(loaded, out, manifest, torch.int8)
    verification = manifest.verification
    assert verification is not None
    assert verification.relative_l2 <= 1e-5
    if not iters:
        assert verification.distances["unquantized"] == pytest.approx(
            verification.distances["ours to unquantized"], rel=0.3
        )
    assert manifest.writer is not None
    assert manifest.writer.versions["neural-compressor-pt"] == "3.10"


def test_inc_writes_the_language_model_of_a_vlm_alone(tmp_path: Path) -> None:
    cases.need("inc-autoround")
    loaded, out = cases.load_tiny("qwen2.5-vl", tmp_path / "m", torch.bfloat16), tmp_path / "v"
    manifest = cases.write(loaded, cases.spectrum_of(loaded, "w8a8", drop="visual"), "inc", out)
    _check_checkpoint(loaded, out, manifest, torch.int8)


@pytest.mark.parametrize("fmt", ["w8a8-static", "fp8"])
@pytest.mark.parametrize("family", ["llama", "qwen2.5-vl"])
def test_modelopt_writes_what_loads(tmp_path: Path, family: str, fmt: str) -> None:
    cases.need("modelopt")
    loaded, out = cases.load_tiny(family, tmp_path / "m"), tmp_path / "v"
    manifest = cases.write(loaded, cases.spectrum_of(loaded, fmt), "modelopt", out)
    dtype = torch.int8 if fmt == "w8a8-static" else torch.float8_e4m3fn
    _check_checkpoint(loaded, out, manifest, dtype)
    verification = manifest.verification
    assert verification is not None
    assert verification.relative_l2 <= 1e-5
    if fmt == "w8a8-static":
        # ModelOpt's own simulation, which nobody here wrote.
        assert verification.distances["framework"] < 1e-3


@pytest.mark.parametrize("fmt", ["inc", "inc-reduce-range"])
@pytest.mark.parametrize("family", ["llama", "qwen2.5-vl"])
def test_incs_static_ptq_is_run_again(tmp_path: Path, family: str, fmt: str) -> None:
    cases.need("inc")
    loaded, out = cases.load_tiny(family, tmp_path / "m"), tmp_path / "v"
    spectrum = cases.spectrum_of(loaded, fmt)
    manifest = cases.write(loaded, spectrum, "inc-static", out)
    assert {"best_model.pt", "config.json"} <= set(manifest.files)
    verification = manifest.verification
    assert verification is not None
    # Our integer arithmetic is that of PyTorch's kernels; a code on the other side of a tie moves more.
    assert verification.relative_l2 < 0.1 * verification.distances["unquantized"]
    assert verification.quantized_tensors == len(manifest.profile.ops)
    assert verification.distances["codes"] <= 1e-5
    work = tmp_path / "work"
    work.mkdir()
    task = Task(loaded=loaded, plans=plans_of(spectrum, "most", loaded), directory=work)
    probes = probe_batches(loaded)
    found = inc_static.saved_logits(task, out, probes)
    assert distance(found, logits_of(loaded, probes)) == pytest.approx(
        verification.distances["unquantized"]
    )


def test_a_bias_rounded_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.need("inc")
    loaded = cases.load_tiny("qwen2.5-vl", tmp_path / "m")
    kernel = partial(IntegerKernel, rounds_bias=False)
    monkeypatch.setattr(inc_static, "IntegerKernel", lambda a, b, _rounds: kernel(a, b))
    with pytest.raises(UserError, match="are not those of the integer arithmetic"):
        cases.write(loaded, cases.spectrum_of(loaded, "inc"), "inc-static", tmp_path / "v")
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("family", "fmt", "reduce_range"),
    [
        ("llama", "w8a8-static", "auto"),
        ("qwen2", "w8a8-static-affine", "yes"),
        ("vit", "w8a8-static", "auto"),
        ("vit", "w8a8-static-affine", "yes"),
    ],
)
def test_onnx_quantizes_the_profiles_nodes(
    tmp_path: Path, family: str, fmt: str, reduce_range: str
) -> None:
    onnx = pytest.importorskip("onnx")
    loaded, out = cases.load_tiny(family, tmp_path / "m"), tmp_path / "v"
    attention = loaded.config._attn_implementation
    spectrum = cases.spectrum_of(loaded, fmt, drop="layers.1.")
    options = {"reduce_range": reduce_range}
    manifest = cases.write(loaded, spectrum, "onnx", out, options=options)
    graph = onnx.load(out / "model.onnx").graph
    int8 = [
        i for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 2
    ]
    assert len(int8) == len(manifest.profile.ops)
    assert manifest.verification is not None
    assert manifest.verification.quantized_tensors == len(manifest.profile.ops)
    assert loaded.config._attn_implementation == attention
    if reduce_range == "yes":
        codes = [onnx.numpy_helper.to_array(i) for i in int8]
        assert max(abs(int(c.min())) for c in codes) <= 64


@pytest.mark.parametrize("tied", [False, True])
def test_onnx_holds_the_language_model_of_a_vlm(
    tmp_path: Path, tied: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its graph takes tokens; the profile's vision ops are named, and the command ends with 3."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    models_tiny.save(models_tiny.qwen2_5_vl(tied=tied), tmp_path / "m")
    loaded = load_model(ModelSpec(model=str(tmp_path / "m"), device="cpu"))
    spectrum = cases.spectrum_of(loaded, "w8a8-static")
    write_artifact(tmp_path / "s.json", spectrum)
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(f"Line {n} of a text about nothing. " * 20 for n in range(60)))
    done = main(
        [
            *("quantize", str(tmp_path / "m"), "--device", "cpu", "--quiet"),
            *("--spectrum", str(tmp_path / "s.json"), "--profile", "most", "--backend", "onnx"),
            *("--data", f"text:{text}", "--calibration", "4", "--samples", "4"),
            *("--eval-samples", "4", "--out", str(tmp_path / "v")),
        ]
    )
    told = capsys.readouterr()
    assert done == 3, told.err
    planned = set(spectrum.profile("most").ops)
    text_ops = {op for op in planned if "visual" not in op}
    assert text_ops < planned
    assert f"{len(text_ops)} ops quantized" in told.out
    assert f"INCOMPLETE: {len(planned - text_ops)} of the {len(planned)} ops" in told.err
    manifest = read_artifact(tmp_path / "v" / "manifest.json", Manifest)
    assert manifest.writer is not None
    assert manifest.writer.components == ("language", "head")
    assert set(manifest.writer.left_out) == planned - text_ops
    assert "cannot trace" in manifest.writer.notes[-1]
    assert manifest.verification is not None
    assert manifest.verification.quantized_tensors == len(text_ops)
    assert manifest.verification.distances["ops"] < 1e-5
    graph = onnx.load(tmp_path / "v" / "model.onnx").graph
    int8 = [
        i for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1
    ]
    assert len(int8) == len(text_ops)
    # The graph is what transformers computes of a padded text, but for the rounding.
    batch = models_tiny.text_batch((12, 30), seed=7, vision=True)
    session = runtime.InferenceSession(str(tmp_path / "v" / "model.onnx"))
    names = ("input_ids", "attention_mask")
    (found,) = session.run(None, {name: batch.inputs[name].numpy() for name in names})
    there = batch.inputs["attention_mask"].bool()
    expected = models_tiny.logits(loaded.model, batch)[there]
    error = (torch.from_numpy(found)[there] - expected).norm() / expected.norm()
    assert 0 < error < 0.3
    # It is evaluated as the text model that it is, and takes no pictures.
    measured = ["evaluate", str(tmp_path / "v"), "--quiet", "--calibration", "2", "--samples", "2"]
    measured += ["--eval-samples", "2", "--max-new-tokens", "2", "--max-length", "64"]
    measured += ["--out", str(tmp_path / "e.json"), "--data"]
    assert main([*measured, f"text:{text}"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main([*measured, "demo"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def _one_op(loaded: Loaded, op: str) -> Spectrum:
    spectrum = cases.spectrum_of(loaded, "w8a8-static")
    profiles = [
        Profile(name="most", share=0, groups=1, ops={op: "w8a8-static"}, predicted_damage=0)
    ]
    return spectrum.model_copy(update={"profiles": tuple(profiles)})


def test_onnx_leaves_the_siblings_of_an_op_alone(tmp_path: Path) -> None:
    """q, k and v read one tensor; its quantized twin is for q alone."""
    onnx = pytest.importorskip("onnx")
    loaded, op = cases.load_tiny("llama", tmp_path / "m"), "model.layers.0.self_attn.q_proj"
    manifest = cases.write(loaded, _one_op(loaded, op), "onnx", tmp_path / "v")
    nodes = onnx.load(tmp_path / "v" / "model.onnx").graph.node
    made = {o for node in nodes if node.op_type == "DequantizeLinear" for o in node.output}
    assert len([node for node in nodes if made.intersection(node.input)]) == 1
    assert manifest.verification is not None
    assert manifest.verification.distances["ops"] < 1e-5


def test_a_graph_that_computes_otherwise_is_found_out(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from quantspectrum.backends import onnx_check, onnx_graph

    loaded, op = cases.load_tiny("llama", tmp_path / "m"), "model.layers.0.mlp.down_proj"
    spectrum = _one_op(loaded, op)
    cases.write(loaded, spectrum, "onnx", tmp_path / "v")
    task = Task(loaded=loaded, plans=plans_of(spectrum, "most", loaded), directory=tmp_path)
    path = tmp_path / "v" / "model.onnx"
    nodes = onnx_graph.nodes_of(path, [op])
    right = onnx_check.quantized_tensors(path, nodes)
    assert onnx_check.op_error(task, path, nodes, right) < 1e-5
    assert onnx_check.weight_error(loaded, right) <= 0.501
    # What is expected no longer is what the graph holds.
    wrong = {op: replace(right[op], scale=right[op].scale * 1.1, weight=right[op].weight + 0.01)}
    assert onnx_check.op_error(task, path, nodes, wrong) > MAX_OP_L2
    assert onnx_check.weight_error(loaded, wrong) > 0.51
    with pytest.raises(UserError, match="1 quantized nodes where 0 were planned"):
        onnx_check.quantized_tensors(path, {})


def test_the_command_writes_a_variant_of_a_framework(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    loaded = cases.load_tiny("llama", tmp_path / "m")
    write_artifact(tmp_path / "s.json", cases.spectrum_of(loaded, "w8a8-static"))
    text = tmp_path / "t.txt"
    text.write_text(
        "\n\n".join(f"Line {n} of a text about nothing at all. " * 40 for n in range(60))
    )
    done = main(
        [
            *("quantize", str(tmp_path / "m"), "--device", "cpu", "--quiet"),
            *("--spectrum", str(tmp_path / "s.json"), "--profile", "most"),
            *("--backend", "onnx", "--backend-option", "reduce_range=yes"),
            *("--data", f"text:{text}", "--calibration", "4", "--samples", "4"),
            *("--eval-samples", "4", "--out", str(tmp_path / "v")),
        ]
    )
    assert done == 0, capsys.readouterr().err
    assert "13 ops quantized" in capsys.readouterr().out
    manifest = read_artifact(tmp_path / "v" / "manifest.json", Manifest)
    assert [(data.split, data.samples) for data in manifest.provenance.data] == [("calibration", 4)]
