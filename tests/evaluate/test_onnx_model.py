"""A variant of backend onnx, measured through ONNX Runtime."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runner_cases as cases
import torch

import models_tiny
import onnx_products
from quantspectrum.artifacts import Evaluation, Manifest, read_artifact
from quantspectrum.cli import main
from quantspectrum.data.encode import encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.generation import answer
from quantspectrum.evaluate.noise import why_not_dtype
from quantspectrum.evaluate.onnx_model import OnnxModel, is_onnx_variant, load_onnx_variant
from quantspectrum.evaluate.resources import kernel_of
from quantspectrum.models.loading import Loaded

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'quantspectrum[onnx]'")
pytest.importorskip("onnxscript", reason="needs ONNX Runtime: pip install 'quantspectrum[onnx]'")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return cases.model(tmp_path_factory.mktemp("onnx") / "base")


@pytest.fixture(scope="module")
def exported(base: Loaded, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """The unquantized model as a graph."""
    from quantspectrum.backends import onnx_graph

    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx_graph.export(base, path)
    return OnnxModel(base.config, path)


@pytest.fixture(scope="module")
def variant(base: Loaded, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("variant") / "v"
    return out, cases.onnx_variant(base, out)


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_are_those_of_transformers_with_padding_on_either_side(
    base: Loaded, exported: OnnxModel, side: str
) -> None:
    batch = models_tiny.text_batch((3, 11, 7)).inputs
    ids, mask = batch["input_ids"], batch["attention_mask"]
    alone = [
        base.model(input_ids=row[m.bool()][None]).logits[0]
        for row, m in zip(ids, mask, strict=True)
    ]
    if side == "left":
        ids, mask = (
            torch.stack([t.roll(int(11 - n)) for t, n in zip(x, mask.sum(1), strict=True)])
            for x in (ids, mask)
        )
    found = exported(input_ids=ids, attention_mask=mask).logits
    for row, kept, expected in zip(found, mask.bool(), alone, strict=True):
        assert torch.allclose(row[kept], expected, atol=2e-4)


def test_greedy_answers_are_those_of_transformers(base: Loaded, exported: OnnxModel) -> None:
    prompts = [Sample(id=str(n), text="", prompt="Why " * n) for n in (1, 4)]
    batches = encode_prompts(prompts, base.processor, batch_size=2)
    expected = answer(base, batches, max_new_tokens=5)
    assert answer(replace(base, model=exported), batches, max_new_tokens=5) == expected


def test_integer_products_are_seen_of_the_profiles_ops_and_of_no_other(
    base: Loaded, exported: OnnxModel, variant: tuple[Path, Manifest]
) -> None:
    directory, manifest = variant
    assert is_onnx_variant(str(directory))
    loaded = load_onnx_variant(cases.spec(directory))
    assert isinstance(loaded.model, OnnxModel)
    ran, plain = loaded.model.products(), exported.products()
    integers = {
        name: calls for name, calls in ran.items() if "Integer" in name or "QLinear" in name
    }
    assert sum(integers.values()) == len(manifest.profile.ops)
    assert sum(ran.values()) == sum(plain.values())
    assert not any("Integer" in name or "QLinear" in name for name in plain)
    assert kernel_of(loaded) == "onnxruntime"
    shapes = [base.model.get_submodule(op).weight.numel() for op in manifest.profile.ops]
    assert loaded.model.weight_bytes()["int8"] >= sum(shapes)
    assert "ONNX Runtime" in (why_not_dtype(loaded, asked=True) or "")


def test_a_graph_of_int8_inputs_is_still_read(
    variant: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """Graphs were written so before; their logits are the same but for codes on a tie."""
    before = tmp_path / "before"
    shutil.copytree(variant[0], before)
    onnx_products.store_inputs(variant[0] / "model.onnx", before / "model.onnx", np.int8(0))
    old, new = (load_onnx_variant(cases.spec(one)).model for one in (before, variant[0]))
    assert isinstance(old, OnnxModel)
    assert isinstance(new, OnnxModel)
    batch = models_tiny.text_batch((20, 9)).inputs
    fed = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = new(**fed).logits
    assert (old(**fed).logits - expected).norm() < 0.05 * expected.norm()
    assert sum(old.products().values()) == sum(new.products().values())


def test_the_command_evaluates_an_onnx_variant_and_times_it(
    base: Loaded, variant: tuple[Path, Manifest], tmp_path: Path
) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(f"Line {n} of a text about nothing. " * 30 for n in range(20)))
    common = [
        *("--data", f"text:{text}", "--calibration", "2", "--samples", "2", "--eval-samples", "2"),
        *("--max-length", "32", "--max-new-tokens", "2", "--quiet"),
        *("--latency-batch-size", "2", "--latency-prompt-tokens", "8"),
        *("--runner", "onnxruntime"),
    ]
    whole, out = tmp_path / "base.json", tmp_path / "v.json"
    asked = ["evaluate", base.spec.model, "--device", "cpu", "--out", str(whole)]
    assert main([*asked, *common]) == 0
    asked = ["evaluate", str(variant[0]), "--out", str(out), "--baseline", str(whole)]
    assert main([*asked, *common]) == 0
    before, after = (read_artifact(path, Evaluation) for path in (whole, out))
    assert after.resources.kernel == "onnxruntime"
    assert 0 < after.fidelity[0].kl_mean.value < 0.1
    (plain,), (run,) = before.runners, after.runners
    assert "unquantized" in plain.weights
    assert "own graph" in run.weights
    assert run.kernels == after.resources.matmuls
    assert {(e.batch_size, e.prompt_tokens) for e in run.latency} == {(2, 8)}
    assert all(e.prefill_ms > 0 and e.per_token_ms > 0 for e in (*run.latency, *plain.latency))
    assert run.versions["onnxruntime"]


def test_what_is_wrong_with_a_graph_is_told(variant: tuple[Path, Manifest], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(variant[0], broken)
    (broken / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="ONNX Runtime cannot load"):
        load_onnx_variant(cases.spec(broken))
    (broken / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest\.json"):
        load_onnx_variant(cases.spec(broken))
    with pytest.raises(UserError, match="leave out --device"):
        load_onnx_variant(replace(cases.spec(variant[0]), device="cuda"))


@pytest.mark.parametrize("option", [{"device_map": "auto"}, {"gguf_file": "a.gguf"}])
def test_a_graph_takes_no_other_weights_and_no_device_map(
    option: dict[str, str], variant: tuple[Path, Manifest]
) -> None:
    with pytest.raises(UserError, match="leave out --device-map and --gguf-file"):
        load_onnx_variant(replace(cases.spec(variant[0]), **option))
