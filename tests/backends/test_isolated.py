"""Backends of other frameworks without the frameworks: what is asked, refused and put right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import framework_cases as cases
import pytest
import torch
from safetensors.torch import load_file, save_file

import models_tiny
from quantspectrum.backends import compressed_tensors, inc, modelopt, onnx
from quantspectrum.backends.exported import (
    Exported,
    adopt,
    check_bytes,
    match_names,
    stored_weights,
)
from quantspectrum.backends.frameworks import ISOLATED, check_backend
from quantspectrum.backends.isolated import read_options
from quantspectrum.backends.parts import text_samples
from quantspectrum.backends.quantize import plans_of
from quantspectrum.data.probe import probe_samples
from quantspectrum.errors import UserError
from quantspectrum.isolation import WorkerError

OWN = {
    "lm_head.weight",
    "model.language_model.norm.weight",
    "model.language_model.layers.0.mlp.up_proj.weight",
    "model.visual.blocks.0.mlp.up_proj.weight",
}


def test_names_of_exports_are_found_by_their_ends() -> None:
    found = {
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.0.mlp.up_proj.weight",
        "visual.blocks.0.mlp.up_proj.weight",
    }
    assert match_names(found, OWN) == {
        "lm_head.weight": "lm_head.weight",
        "model.norm.weight": "model.language_model.norm.weight",
        "model.layers.0.mlp.up_proj.weight": "model.language_model.layers.0.mlp.up_proj.weight",
        "visual.blocks.0.mlp.up_proj.weight": "model.visual.blocks.0.mlp.up_proj.weight",
    }


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"model.layers.9.mlp.up_proj.weight"}, "fits 0 of the model's"),
        ({"x.up_proj.weight"}, "fits 2 of the model's"),
        ({"lm_head.weight", "model.lm_head.weight"}, "fits 0"),
        ({"norm.weight", "model.norm.weight"}, "twice"),
    ],
)
def test_names_that_fit_none_or_several_are_refused(found: set[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        match_names(found, OWN)


Edit = Callable[[dict[str, torch.Tensor]], None]


def _export(tmp_path: Path, edit: Edit | None = None) -> tuple[Exported, object, dict]:
    """An export of a profile's ops, made by our own writer and then edited."""
    loaded = cases.load_tiny("llama", tmp_path / "m")
    plans = plans_of(cases.spectrum_of(loaded, "w8a8"), "most", loaded)
    made, edited = tmp_path / "ours", tmp_path / "export"
    made.mkdir()
    edited.mkdir()
    compressed_tensors.write(loaded, plans, made)
    tensors = load_file(made / "model.safetensors")
    if edit is not None:
        edit(tensors)
    save_file(tensors, edited / "model.safetensors")
    return Exported(edited, loaded), loaded, plans


def test_codes_are_adopted_with_everything_else_ours(tmp_path: Path) -> None:
    def negate(tensors: dict[str, torch.Tensor]) -> None:
        scale = tensors["model.layers.0.mlp.up_proj.weight_scale"]
        scale.neg_()
        codes = tensors["model.layers.0.mlp.up_proj.weight"]
        codes.copy_(codes.clamp(min=-127).neg())

    exported, loaded, plans = _export(tmp_path, negate)
    out = tmp_path / "v"
    out.mkdir()
    findings = adopt(exported, loaded, plans, out)
    assert findings["negative_scales"] == pytest.approx(
        96 / sum(loaded.model.get_parameter(f"{op}.weight").shape[0] for op in plans)
    )
    assert compressed_tensors.count_quantized(out) == len(plans)
    check_bytes(out, inc.predicted_bytes(loaded, plans))
    before = {op: loaded.model.get_parameter(f"{op}.weight").data for op in plans}
    with stored_weights(loaded, plans, out):
        for op, weight in before.items():
            now = loaded.model.get_parameter(f"{op}.weight")
            step = exported.read(f"{op}.weight_scale").abs()
            assert ((now - weight).abs() <= 1.01 * step).all()
            assert not torch.equal(now, weight)
    for op, weight in before.items():
        assert loaded.model.get_parameter(f"{op}.weight").data_ptr() == weight.data_ptr()


def _keep_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 64)


def _quantize_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(64, 96, dtype=torch.int8)


def _change_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] += 1e-3


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_keep_one, r"left 1 of 13 ops in high precision, model\.layers\.0\.mlp\.up_proj"),
        (
            _quantize_one,
            r"quantized 1 ops that the profile keeps, model\.layers\.1\.mlp\.down_proj",
        ),
        (_change_one, r"changed model\.norm\.weight"),
    ],
)
def test_an_export_of_another_profile_is_refused(tmp_path: Path, edit: Edit, told: str) -> None:
    exported, loaded, plans = _export(tmp_path, edit)
    out = tmp_path / "v"
    out.mkdir()
    with pytest.raises(UserError, match=told):
        adopt(exported, loaded, plans, out)


def test_bytes_that_were_not_predicted_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    check_bytes(tmp_path, 4000)
    check_bytes(tmp_path, 4040)
    with pytest.raises(UserError, match="4000 bytes where 4050 were predicted"):
        check_bytes(tmp_path, 4050)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["iters"], "give NAME=VALUE"),
        (["iters="], "give NAME=VALUE"),
        (["steps=3"], r"no option 'steps'; it has iters: "),
    ],
)
def test_wrong_options_are_told(given: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_options(inc, given)


def test_options_are_read() -> None:
    assert read_options(inc, ["iters=20"]) == {"iters": "20"}
    assert inc.needs_calibration({"iters": "20"})
    assert not inc.needs_calibration({})
    with pytest.raises(UserError, match="iters=x: give a whole number"):
        inc.needs_calibration({"iters": "x"})


@pytest.mark.parametrize(
    ("option", "flags", "reduced"),
    [
        ("auto", "avx2 fma", True),
        ("auto", "avx2 avx_vnni", False),
        ("auto", "avx512_vnni", False),
        ("yes", "avx512_vnni", True),
        ("no", "avx2", False),
    ],
)
def test_a_bit_is_left_where_the_processor_needs_it(
    option: str, flags: str, reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert onnx.reduces_range(option, flags) is reduced


def test_no_bit_is_left_where_the_processor_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not onnx.reduces_range("auto", "")
    with pytest.raises(UserError, match="give yes, no or auto"):
        onnx.reduces_range("maybe")


@pytest.mark.parametrize(
    ("backend", "family", "fmt", "told"),
    [
        ("inc", "llama", "w8a8-static", "backend inc writes format w8a8, and the profile gives"),
        ("inc", "vit", "w8a8", "quantizes models that write text"),
        ("inc-static", "vit", "inc", "writes language models, with or without pictures"),
        ("inc-static", "llama", "w8a8", "writes formats inc and inc-reduce-range"),
        ("modelopt", "llama", "w8a8", "writes w8a8-static"),
        ("modelopt", "vit", "fp8", "exports models that write text"),
        ("onnx", "qwen2.5-vl", "w8a8", "writes static int8 inputs"),
        ("onnx", "bert", "w8a8-static", "not masked-lm"),
        ("onnx", "llama", "w8a8", "writes static int8 inputs"),
    ],
)
def test_what_a_backend_cannot_write_is_told_first(
    tmp_path: Path, backend: str, family: str, fmt: str, told: str
) -> None:
    loaded = models_tiny.loaded(models_tiny.family(family))
    with pytest.raises(UserError, match=told):
        cases.write(loaded, cases.spectrum_of(loaded, fmt), backend, tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


def test_onnx_has_nothing_to_do_of_the_vision_tower_alone(tmp_path: Path) -> None:
    loaded = models_tiny.loaded(models_tiny.qwen2_5_vl())
    spectrum = cases.spectrum_of(loaded, "w8a8-static", drop="language_model")
    profile = spectrum.profile("most")
    vision = {op: fmt for op, fmt in profile.ops.items() if "visual" in op}
    spectrum = spectrum.model_copy(
        update={"profiles": (profile.model_copy(update={"ops": vision}),)}
    )
    with pytest.raises(UserError, match=r"writes language and head alone.*cannot trace.*inc and"):
        cases.write(loaded, spectrum, "onnx", tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_takes_text_is_calibrated_on_text() -> None:
    loaded = models_tiny.loaded(models_tiny.qwen2_5_vl())
    samples = probe_samples(image=True)
    part = onnx.part(loaded)
    assert text_samples(samples, "onnx", part) == probe_samples(image=False)
    assert text_samples(samples, "inc", inc.part(loaded)) == samples
    with pytest.raises(UserError, match="every calibration sample has a picture; give --data text"):
        text_samples(samples[4:], "onnx", part)


@pytest.mark.parametrize("name", ["inc", "inc-static", "modelopt"])
def test_an_absent_environment_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    environment = ISOLATED[name].ENVIRONMENT
    assert environment is not None
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(_variable(environment), raising=False)
    fmt = {"inc": "w8a8", "inc-static": "inc", "modelopt": "fp8"}[name]
    loaded = models_tiny.loaded(models_tiny.causal_lm())
    with pytest.raises(UserError, match=f"doctor --install {environment}`$"):
        cases.write(loaded, cases.spectrum_of(loaded, fmt), name, tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


def _variable(environment: str) -> str:
    return f"QUANTSPECTRUM_ENV_{environment.upper().replace('-', '_')}"


@pytest.mark.parametrize("name", ["inc", "inc-static", "modelopt"])
def test_a_worker_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """This interpreter has none of the frameworks, so that the worker fails when it imports them."""
    environment = ISOLATED[name].ENVIRONMENT
    assert environment is not None
    monkeypatch.setenv(_variable(environment), sys.executable)
    fmt = {"inc": "w8a8", "inc-static": "inc", "modelopt": "fp8"}[name]
    loaded = cases.load_tiny("llama", tmp_path / "m")
    with pytest.raises(
        WorkerError, match=r"wrote no result \(exit 1\): ModuleNotFoundError"
    ) as told:
        cases.write(loaded, cases.spectrum_of(loaded, fmt), name, tmp_path / "v")
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_profile_of_nothing_is_told(tmp_path: Path) -> None:
    loaded = models_tiny.loaded(models_tiny.causal_lm())
    with pytest.raises(UserError, match="profile none quantizes nothing"):
        cases.write(loaded, cases.spectrum_of(loaded, "w8a8"), "inc", tmp_path / "v", "none")


def test_a_run_refuses_variants_that_it_cannot_evaluate() -> None:
    check_backend("onnx")
    check_backend("inc", evaluated=True)
    with pytest.raises(UserError, match="loaded by ONNX Runtime, not by transformers"):
        check_backend("onnx", evaluated=True)
    with pytest.raises(UserError, match=r"unknown backend 'tensorrt'; .*compressed-tensors, inc,"):
        check_backend("tensorrt")


def test_tied_heads_are_not_for_inc(tmp_path: Path) -> None:
    loaded = models_tiny.loaded(models_tiny.causal_lm(tie_word_embeddings=True))
    plans = plans_of(cases.spectrum_of(loaded, "w8a8"), "most", loaded)
    inc.check(loaded, plans)
    with pytest.raises(UserError, match="INC does not quantize lm_head"):
        inc.check(loaded, plans | {"lm_head": next(iter(plans.values()))})


def test_modelopt_takes_one_format() -> None:
    loaded = models_tiny.loaded(models_tiny.causal_lm())
    int8 = plans_of(cases.spectrum_of(loaded, "w8a8-static"), "most", loaded)
    fp8 = plans_of(cases.spectrum_of(loaded, "fp8"), "most", loaded)
    first = next(iter(fp8))
    with pytest.raises(UserError, match="holds one format"):
        modelopt.check(loaded, int8 | {first: fp8[first]})
