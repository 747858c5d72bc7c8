"""The stage: noise floors, what variants share, resources, and loading into what is there."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import models_tiny
from quantspectrum import stages
from quantspectrum.artifacts import Evaluation, read_artifact
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.backends.serving import serving_arithmetic
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.evaluation import evaluate_model
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.noise import in_dtype, other_batch_size, why_not_dtype
from quantspectrum.evaluate.reload import load_variant
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.session import EvaluationSession, predictions_path
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.simulation import OpPlan

SAMPLES = [
    Sample(id=f"s{n}", text="the sheep on the hill"[: 8 + 3 * n], prompt=None if n % 2 else "Say:")
    for n in range(5)
]
PROMPTS = [Sample(id=f"p{n}", text="", prompt="Why? " * (n + 1)) for n in range(2)]
FORMATS = ["w8a8", "w8a8-static"]


def request(**more: Any) -> EvaluationRequest:
    session = EvaluationSession(samples=SAMPLES, prompts=PROMPTS, data=())
    fields: dict[str, Any] = {
        "session": session,
        "label": "x",
        "batch_size": 4,
        "max_new_tokens": 4,
        "latency": LatencyPlan(batch_sizes=(1, 2), prompt_tokens=(4, 9), new_tokens=2, repeats=2),
    }
    return EvaluationRequest(**(fields | more))


@pytest.fixture
def base(tmp_path: Path) -> Loaded:
    directory = models_tiny.save(models_tiny.qwen2_5_vl(), tmp_path / "model")
    return load_model(ModelSpec(model=str(directory), device="cpu"))


def variant(base: Loaded, out: Path, fmt: str = "w8a8", share: float = 1.0) -> Path:
    names = [op.name for op in list_ops(base.model, base.layout).candidates]
    plans = {
        name: OpPlan(format=preset(fmt), input_range=(-3.0, 2.5), scale_dtype=base.storage_dtype)
        for name in names[: round(len(names) * share)]
    }
    out.mkdir()
    write(base, plans, out)
    return out


def test_a_baseline_is_measured_against_itself_in_every_way_asked_for(base: Loaded) -> None:
    done = evaluate_model(base, request(noise=("batch", "dtype")), load_s=0)
    assert [(one.name, one.batch_size, one.dtype) for one in done.noise] == [
        ("batch size 2", 2, "float32"),
        ("bfloat16", 4, "bfloat16"),
    ]
    batch, dtype = (one.fidelity[0] for one in done.noise)
    assert batch.kl_mean.value < 1e-9
    assert 1e-9 < dtype.kl_mean.value < 1
    assert dtype.delta_p_rms.value > 10 * batch.delta_p_rms.value
    assert done.fidelity == ()
    assert evaluate_model(base, request(noise=()), load_s=0).noise == ()


def test_another_dtype_gives_back_the_very_same_weights(base: Loaded) -> None:
    before = {name: (p.data_ptr(), p.dtype) for name, p in base.model.named_parameters()}
    buffers = {name: b.dtype for name, b in base.model.named_buffers()}
    with in_dtype(base.model, torch.bfloat16):
        assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
        assert {name: b.dtype for name, b in base.model.named_buffers()} == buffers
    with suppress(KeyError), in_dtype(base.model, torch.bfloat16):
        raise KeyError
    after = {name: (p.data_ptr(), p.dtype) for name, p in base.model.named_parameters()}
    assert after == before


def test_a_quantized_model_is_not_run_in_another_dtype(base: Loaded, tmp_path: Path) -> None:
    path = variant(base, tmp_path / "v")
    loaded = load_model(ModelSpec(model=str(path), device="cpu", dtype="float32"))
    assert why_not_dtype(loaded, asked=True) == "it is quantized"
    done = evaluate_model(loaded, request(noise=("dtype",)), load_s=0)
    assert (done.noise[0].skipped, done.noise[0].fidelity) == ("it is quantized", ())


@pytest.mark.parametrize(("size", "other"), [(1, 2), (2, 1), (8, 4), (9, 4)])
def test_the_other_batch_size_is_another_one(size: int, other: int) -> None:
    assert other_batch_size(size) == other != size


def test_a_variant_is_compared_and_its_floors_stand_beside(base: Loaded, tmp_path: Path) -> None:
    data = stages.DataRequest(data=("x",), batch_size=4, max_new_tokens=4)
    session = EvaluationSession(samples=SAMPLES, prompts=PROMPTS, data=())
    out = tmp_path / "base.json"
    measuring = stages.MeasuringRequest(noise=("batch", "dtype"))
    common: dict[str, Any] = {"data": data, "session": session, "measuring": measuring}
    whole = stages.evaluate(base, out, label="baseline", load_s=1.5, **common)
    assert whole.predictions == predictions_path(out).name
    assert predictions_path(out).is_file()
    path = variant(base, tmp_path / "v")
    loaded = load_model(ModelSpec(model=str(path), device="cpu", dtype="float32"))
    done = stages.evaluate(
        loaded, tmp_path / "v.json", label="v", load_s=0.5, baseline=out, **common
    )
    (all_, *_) = done.fidelity
    assert all_.kl_kind == "exact"
    assert all_.kl_mean.value > 0
    floors = [one.fidelity[0] for one in whole.noise]
    assert all_.kl_mean.floor == pytest.approx(max(one.kl_mean.value for one in floors), rel=1e-6)
    assert done.prompt_fidelity is not None
    assert done.prompt_fidelity.floor_changed is not None
    assert [one.departs_at is None for one in done.prompts] == [
        one.similarity == 1.0 for one in done.prompts
    ]
    assert done.noise == ()
    assert done.phases_s is not None
    assert done.phases_s["load"] == 0.5
    kl = sum(sample.kl or 0 for sample in done.loss.samples) / done.loss.tokens
    assert all_.kl_mean.value == pytest.approx(kl, rel=1e-6)
    # Smaller than the baseline's, which holds whole distributions.
    sizes = [predictions_path(p).stat().st_size for p in (tmp_path / "v.json", out)]
    assert sizes[0] < sizes[1]
    assert read_artifact(tmp_path / "v.json", Evaluation) == done


def test_a_record_of_the_first_schema_is_read_and_lacks_what_was_not_measured(
    base: Loaded, tmp_path: Path
) -> None:
    done = evaluate_model(base, request(noise=()), load_s=0)
    old = json.loads(done.model_dump_json())
    old["schema_version"] = 1
    for name in ("fidelity", "noise", "flips", "yes_no", "yes_no_flips", "prompt_fidelity"):
        del old[name]
    for name in ("benchmarks", "predictions", "phases_s"):
        del old[name]
    for name in ("weight_bytes", "matmuls", "peak_host_bytes", "peak_device_bytes"):
        del old["resources"][name]
    for prompt in old["prompts"]:
        for name in ("tokens", "departs_at", "similarity"):
            del prompt[name]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    read = read_artifact(path, Evaluation)
    assert (read.loss, read.resources.weight_bytes, read.fidelity) == (done.loss, None, ())
    assert read.prompts[0].tokens is None
    path.write_text(json.dumps(old | {"schema_version": 3}))
    with pytest.raises(UserError, match="schema version 3"):
        read_artifact(path, Evaluation)


def test_resources_say_what_is_stored_and_what_multiplied(base: Loaded, tmp_path: Path) -> None:
    path = variant(base, tmp_path / "v", share=0.5)
    loaded = load_model(ModelSpec(model=str(path), device="cpu", dtype="float32"))
    done = evaluate_model(loaded, request(), load_s=0).resources
    assert done.kernel == "emulated"
    assert done.weight_bytes is not None
    codes = sum(
        m.weight.numel() for m in loaded.model.modules() if hasattr(m, "quantization_scheme")
    )
    assert done.weight_bytes["int8"] == codes
    assert sum(done.weight_bytes.values()) < done.disk_bytes
    assert done.matmuls
    assert all("int8" not in name and "float32" in name for name in done.matmuls)
    assert [(one.batch_size, one.prompt_tokens) for one in done.latency] == [
        (1, 4),
        (1, 9),
        (2, 4),
        (2, 9),
    ]
    assert all(one.prefill_ms > 0 and one.per_token_ms > 0 for one in done.latency)
    own = evaluate_model(base, request(noise=()), load_s=0).resources
    assert (own.kernel, list(own.weight_bytes or {})) == ("native", ["float32"])


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_variant_loaded_into_the_model_is_the_one_loaded_anew(
    fmt: str, base: Loaded, tmp_path: Path
) -> None:
    paths = [variant(base, tmp_path / f"v{n}", fmt, share) for n, share in enumerate((1.0, 0.4))]
    for path in paths:
        spec = ModelSpec(model=str(path), device="cpu", dtype="float32")
        anew, filled = load_model(spec), load_variant(spec, base)
        assert filled.model is base.model
        batch = models_tiny.image_batch()
        with serving_arithmetic(anew.model):
            expected = models_tiny.logits(anew.model, batch)
            weights = {n: p for n, p in anew.model.named_parameters() if n.endswith(".weight")}
        with serving_arithmetic(filled.model):
            assert torch.equal(models_tiny.logits(filled.model, batch), expected)
        for name, parameter in filled.model.named_parameters():
            if name.endswith(".weight"):
                assert torch.equal(parameter, weights[name]), name


def test_what_does_not_fit_is_loaded_anew(base: Loaded, tmp_path: Path) -> None:
    path = variant(base, tmp_path / "v")
    spec = ModelSpec(model=str(path), device="cpu", dtype="float32")
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    config = json.loads((path / "config.json").read_text())
    changed = config | {"text_config": config["text_config"] | {"rms_norm_eps": 1e-3}}
    (path / "config.json").write_text(json.dumps(changed))
    assert load_variant(spec, base).model is not base.model
    (path / "config.json").write_text(json.dumps(config))
    assert load_variant(spec, None).model is not base.model
    other = ModelSpec(model=str(path), device="cpu", dtype="bfloat16")
    assert load_variant(other, base).model is not base.model
    for name, parameter in base.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_baseline_of_an_older_release_is_told_to_be_evaluated_again(
    base: Loaded, tmp_path: Path
) -> None:
    out = tmp_path / "base.json"
    session = EvaluationSession(samples=SAMPLES, prompts=PROMPTS, data=())
    data = stages.DataRequest(data=("x",), batch_size=4, max_new_tokens=2)
    measuring = stages.MeasuringRequest(noise=())
    stages.evaluate(base, out, data=data, label="b", load_s=0, session=session, measuring=measuring)
    from safetensors.torch import save_file

    save_file({"s0/tokens": torch.zeros(1)}, predictions_path(out))
    fresh = EvaluationSession(samples=SAMPLES, prompts=PROMPTS, data=())
    with pytest.raises(UserError, match="evaluate the baseline again"):
        stages.evaluate(
            base, tmp_path / "v.json", data=data, label="v", load_s=0, session=fresh, baseline=out
        )
