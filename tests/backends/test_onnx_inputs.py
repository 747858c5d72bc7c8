"""How graphs of backend onnx store inputs, and that ONNX Runtime multiplies them as integers by default."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import framework_cases as cases
import numpy as np
import pytest
import torch

import models_tiny
import onnx_products
from quantspectrum.artifacts import Manifest, Spectrum
from quantspectrum.backends.isolated import Task
from quantspectrum.backends.quantize import plans_of
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.quantizer import qparams

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'quantspectrum[onnx]'")
pytest.importorskip("onnxscript", reason="needs ONNX Runtime: pip install 'quantspectrum[onnx]'")

pytestmark = pytest.mark.slow

Written = tuple[Loaded, Spectrum, Manifest, Path]


def _write(directory: Path, family: str, fmt: str, **options: str) -> Written:
    loaded = cases.load_tiny(family, directory / "m")
    spectrum, out = cases.spectrum_of(loaded, fmt), directory / "v"
    manifest = cases.write(loaded, spectrum, "onnx", out, options={"reduce_range": "no"} | options)
    return loaded, spectrum, manifest, out / "model.onnx"


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return _write(tmp_path_factory.mktemp("symmetric"), "llama", "w8a8-static")


def _ranges(spectrum: Spectrum) -> set[tuple[float, float]]:
    return {tuple(spectrum.input_ranges[op]) for op in spectrum.profile("most").ops}


def test_symmetric_inputs_are_uint8_around_128(symmetric: Written) -> None:
    """The scale is that of int8, the largest magnitude over 127."""
    _, spectrum, _, path = symmetric
    found = onnx_products.inputs_of(path).values()
    assert {(zero.dtype, int(zero)) for _, zero in found} == {(np.dtype(np.uint8), 128)}
    expected = {max(abs(low), abs(high)) / 127 for low, high in _ranges(spectrum)}
    assert sorted({scale for scale, _ in found}) == pytest.approx(sorted(expected), rel=1e-4)


def test_affine_inputs_are_what_they_were(tmp_path: Path) -> None:
    onnx_products.need_x86()
    _, spectrum, manifest, path = _write(tmp_path, "llama", "w8a8-static-affine")
    scheme = preset("w8a8-static-affine").activation
    assert scheme is not None
    low, high = torch.tensor(sorted(_ranges(spectrum))).T
    scales, zeros = qparams(low, high, scheme)
    found = sorted({(scale, int(zero)) for scale, zero in onnx_products.inputs_of(path).values()})
    expected = sorted(zip(scales.tolist(), (zeros + 128).int().tolist(), strict=True))
    assert [zero for _, zero in found] == [zero for _, zero in expected]
    assert [scale for scale, _ in found] == pytest.approx([s for s, _ in expected], rel=1e-4)
    assert len({zero for _, zero in found}) > 1
    assert onnx_products.integer_products(path, tmp_path) == len(manifest.profile.ops)


def test_every_op_is_a_product_of_integers_by_default(symmetric: Written, tmp_path: Path) -> None:
    onnx_products.need_x86()
    _, _, manifest, path = symmetric
    assert onnx_products.integer_products(path, tmp_path) == len(manifest.profile.ops)
    # int8 inputs, which q, k and v share, are not.
    onnx_products.store_inputs(path, tmp_path / "int8.onnx", np.int8(0))
    int8 = onnx_products.integer_products(tmp_path / "int8.onnx", tmp_path)
    assert int8 < len(manifest.profile.ops)


@pytest.mark.parametrize("family", ["qwen2", "vit"])
def test_with_biases_pictures_and_a_bit_unused_too(tmp_path: Path, family: str) -> None:
    onnx_products.need_x86()
    _, _, manifest, path = _write(tmp_path, family, "w8a8-static", reduce_range="yes")
    assert {int(zero) for _, zero in onnx_products.inputs_of(path).values()} == {128}
    assert onnx_products.integer_products(path, tmp_path) == len(manifest.profile.ops)


def test_a_gemm_whose_bias_is_float_is_no_product_of_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/backends.md says so of a classifier's last layer."""
    onnx_products.need_x86()
    included = partial(cases.list_ops, include=("classifier", "layers"))
    monkeypatch.setattr(cases, "list_ops", included)
    _, _, manifest, path = _write(tmp_path, "vit", "w8a8-static")
    assert "classifier" in manifest.profile.ops
    assert onnx_products.integer_products(path, tmp_path) == len(manifest.profile.ops) - 1


def test_codes_are_those_of_int8_plus_128(symmetric: Written, tmp_path: Path) -> None:
    """Bit for bit the same logits where ONNX Runtime runs both graphs as they are."""
    import onnxruntime

    loaded, _, manifest, path = symmetric
    onnx_products.store_inputs(path, tmp_path / "int8.onnx", np.int8(0))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    batch = models_tiny.text_batch((30, 12), seed=3)
    fed = {name: batch.inputs[name].numpy() for name in ("input_ids", "attention_mask")}
    uint8, int8 = (
        onnxruntime.InferenceSession(str(one), options).run(["logits"], fed)[0]
        for one in (path, tmp_path / "int8.onnx")
    )
    assert (uint8 == int8).all()
    assert (uint8 != models_tiny.logits(loaded.model, batch).numpy()).any()
    # They are the simulated ones, also in a default session.
    assert manifest.verification is not None
    assert manifest.verification.distances["ops"] < 1e-5
    assert manifest.verification.relative_l2 < 0.2 * manifest.verification.distances["unquantized"]


def test_inputs_stored_otherwise_are_found_out(symmetric: Written, tmp_path: Path) -> None:
    from quantspectrum.backends import onnx_check, onnx_graph

    loaded, spectrum, _, path = symmetric
    plans = plans_of(spectrum, "most", loaded)
    nodes = onnx_graph.nodes_of(path, plans)
    onnx_products.store_inputs(path, tmp_path / "int8.onnx", np.int8(0))
    with pytest.raises(UserError, match=r"input of model\.layers\S+ as int8, not uint8"):
        onnx_check.quantized_tensors(tmp_path / "int8.onnx", nodes)
    onnx_products.store_inputs(path, tmp_path / "moved.onnx", np.uint8(127))
    moved = onnx_check.quantized_tensors(tmp_path / "moved.onnx", nodes)
    task = Task(loaded=loaded, plans=plans, directory=tmp_path)
    with pytest.raises(UserError, match="zero point 127 where symmetric codes have 128"):
        onnx_check.op_error(task, tmp_path / "moved.onnx", nodes, moved)


def test_weights_may_lie_in_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantspectrum.backends import onnx_graph

    monkeypatch.setattr(onnx_graph, "_LARGE", 0)
    _, _, manifest, path = _write(tmp_path, "llama", "w8a8-static")
    assert {file.name for file in path.parent.glob("model.onnx*")} > {"model.onnx"}
    assert {int(zero) for _, zero in onnx_products.inputs_of(path).values()} == {128}
    assert manifest.verification is not None
    assert manifest.verification.distances["ops"] < 1e-5
