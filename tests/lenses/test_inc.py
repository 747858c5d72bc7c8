"""INC 3.7 as a lens: what it is asked and how its answers are read; with its environment, its own numbers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lens_cases
import pytest
import torch

import models_tiny
from oracles.inc_models import make_batch, make_model
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.isolation import find_environment, run_worker
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.lenses import inc
from quantspectrum.lenses.request import LensRequest
from quantspectrum.lenses.scoring import score_with
from quantspectrum.models import adapter_for
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import describe_model
from quantspectrum.sensitivity.scan import Base

GOLDEN = Path(__file__).parents[1] / "oracles/inc"


@pytest.fixture
def inc_environment() -> None:
    if find_environment("inc") is None:
        pytest.skip("the environment `inc` is absent")


def loaded_of(case: str, directory: Path) -> Loaded:
    """A tiny model, saved where workers find it."""
    model = make_model(case)
    model.save_pretrained(directory)
    adapter = adapter_for(model.config)
    identity = describe_model(model, model.config, model_id="tiny", revision=None)
    return Loaded(
        model=model,
        processor=None,  # type: ignore[arg-type]
        config=model.config,
        adapter=adapter,
        layout=adapter.layout(model),
        identity=identity,
        device=torch.device("cpu"),
        spec=ModelSpec(model=str(directory)),
        storage_dtype=torch.float32,
    )


def request_of(case: str, directory: Path, **more: Any) -> LensRequest:
    batch = make_batch(case)
    base: Base = more.pop("base", "fallback")
    return LensRequest(
        format=preset(more.pop("fmt", "inc")),
        base=base,
        calibration=[batch],
        selection=[batch],
        data=(),
        seed=0,
        directory=directory,
        **more,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["qwen2", "qwen2_5_vl"])
@pytest.mark.usefixtures("inc_environment")
def test_the_fast_path_gives_incs_own_numbers(case: str, tmp_path: Path) -> None:
    """Against numbers of INC's own loop, which `tools/inc_golden.py` recorded."""
    golden = json.loads((GOLDEN / f"{case}.json").read_text())
    loaded = loaded_of(case, tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    found = inc.MSE_V2.score(loaded, table, request_of(case, tmp_path, options={"fast": "true"}))
    raw = {name: values["residual_sse"] for name, values in found.raw.items()}
    assert raw == {name: pytest.approx(golden["residual_sse"][name], rel=1e-6) for name in raw}
    assert raw.keys() == golden["residual_sse"].keys()
    assert found.framework.settings["fast"] is True
    assert found.framework.settings["reduce_range"] is False
    assert found.framework.versions["neural-compressor"].startswith("3.7")
    assert any("sub-graph" in note for note in found.framework.notes)
    ranked = sorted(raw, key=lambda name: raw[name])
    assert sorted(found.scores, key=lambda name: -found.scores[name]) == ranked


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_a_time_budget_leaves_what_was_scored(tmp_path: Path) -> None:
    loaded = loaded_of("qwen2", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    found = inc.MSE_V2.score(loaded, table, request_of("qwen2", tmp_path, time_budget=1e-6))
    assert len(found.scores) == 1
    assert found.stopped_by == "time budget"


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_traces_end_with_their_budget_inside_a_batch(tmp_path: Path) -> None:
    loaded = loaded_of("qwen2", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    nothing = request_of("qwen2", tmp_path, base="isolate", time_budget=1e-6)
    report = score_with("inc:hawq_v2", loaded, table, nothing)
    assert (report.coverage.scored, report.complete) == (0, False)
    assert report.stopped_by == "time budget"
    assert {note.reason for note in report.coverage.skipped} >= {
        "the time budget ended before INC had taken all probes of the first batch"
    }
    endless = {"repaired": "true", "probes": "1000000"}
    started = time.monotonic()
    found = inc.HAWQ_V2.score(loaded, table, replace(nothing, time_budget=3.0, options=endless))
    assert (found.scores, found.stopped_by) == ({}, "time budget")
    # Starting and loading take their time; the budget is of the scoring.
    assert found.framework.seconds < 3 + 5
    assert time.monotonic() - started < 60


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
@pytest.mark.parametrize("budget", [0.5, 8.0])
def test_tuning_ends_with_its_budget(budget: float, tmp_path: Path) -> None:
    """INC's tuning takes its timer's KeyboardInterrupt for its end: the worker minds the time itself."""
    loaded = loaded_of("qwen2", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    report = score_with(
        "inc:tune", loaded, table, request_of("qwen2", tmp_path, time_budget=budget)
    )
    assert (report.complete, report.stopped_by) == (False, "time budget")
    assert report.framework is not None
    assert report.framework.seconds is not None
    assert budget <= report.framework.seconds < budget + 5
    assert report.coverage.scored == report.framework.settings["ops_restored"] < 14
    if budget < 1:
        assert report.coverage.scored == 0
        reasons = {note.reason for note in report.coverage.skipped}
        assert "INC's tuning ended before an op was restored" in reasons


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_tuning_heeds_an_interrupt(tmp_path: Path) -> None:
    loaded = loaded_of("qwen2", tmp_path / "model")
    started = time.monotonic()
    found = run_worker(
        "inc",
        "inc_tune",
        {
            **model_request(loaded, tmp_path / "copy"),
            "ops": [op.name for op in list_ops(loaded.model, loaded.layout).candidates],
            "seed": 0,
            "time_budget": None,
            "settings": {
                "reduce_range": "false",
                "engine": "qnnpack",
                "observer": "minmax",
                "tolerable_loss": "none",
            },
        },
        tmp_path,
        tensors=batch_tensors("selection", [make_batch("qwen2")]),
        timeout=25.0,
    )
    assert found["stopped_by"] == "time budget"
    # Long before it would have been killed.
    assert time.monotonic() - started < 25 + 10


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_traces_name_their_defects(tmp_path: Path) -> None:
    loaded = loaded_of("qwen2_5_vl", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    found = inc.HAWQ_V2.score(loaded, table, request_of("qwen2_5_vl", tmp_path, base="isolate"))
    language = {op.name for op in table.candidates if op.component == "language"}
    assert found.scores.keys() == language
    assert found.missing.keys() == {op.name for op in table.candidates} - language
    told = " ".join(found.framework.notes)
    for defect in ("noise", "signed denominator", "drops the user's", "discards"):
        assert defect in told


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_repaired_traces_are_those_of_the_hessian(tmp_path: Path) -> None:
    """With its noise gone and many probes, INC's routine estimates the trace that autograd computes."""
    loaded = loaded_of("qwen2", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout, include=("*layers.1.mlp.down_proj",))
    request = request_of(
        "qwen2", tmp_path, base="isolate", options={"repaired": "true", "probes": "200"}
    )
    found = inc.HAWQ_V2.score(loaded, table, request)
    (name,) = found.scores
    weight = loaded.model.get_parameter(f"{name}.weight").requires_grad_(True)
    batch = make_batch("qwen2")
    ids = batch.inputs["input_ids"]
    target = torch.where(batch.target, ids, -100)[:, 1:]

    loaded.model.set_attn_implementation("eager")  # type: ignore[operator]

    def loss() -> torch.Tensor:
        logits = loaded.model(**batch.inputs).logits[:, :-1].transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, target)

    (gradient,) = torch.autograd.grad(loss(), weight, create_graph=True)
    generator = torch.Generator().manual_seed(1)
    probes = []
    for _ in range(60):
        v = torch.randint(0, 2, weight.shape, generator=generator).float() * 2 - 1
        (hv,) = torch.autograd.grad((gradient * v).sum(), weight, retain_graph=True)
        probes.append(float((hv * v).sum()))
    trace = torch.tensor(probes)
    # INC reports an average over the probes and over the weights of an op.
    mean, error = float(trace.mean()), float(trace.std()) / len(probes) ** 0.5
    ratios = [found.scores[name] / (mean / scale) for scale in (1, weight.numel())]
    assert any(abs(r - 1) < 5 * error / abs(mean) + 0.2 for r in ratios)


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_a_probe_frees_its_graph(tmp_path: Path) -> None:
    """INC's probes kept theirs: 1.4 MB each on this model, about 40 MB each on stories260k."""
    loaded = lens_cases.saved(models_tiny.causal_lm(), tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    batch = models_tiny.text_batch((40, 60, 50, 60))
    peaks = []
    for probes in ("10", "210"):
        options = {"repaired": "true", "probes": probes}
        asked = lens_cases.request_of([batch], tmp_path, base="isolate", fmt="inc", options=options)
        peaks.append(inc.HAWQ_V2.score(loaded, table, asked).framework.peak_bytes)
    assert peaks[1] - peaks[0] < 100e6


def test_settings_are_checked_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("nothing was to run")

    monkeypatch.setattr(inc, "ask_worker", never)
    loaded = loaded_of("qwen2", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    refused: list[tuple[Any, dict[str, str], str, str]] = [
        (inc.MSE_V2, {"engine": "mkl"}, "inc", "it is one of qnnpack, x86, fbgemm"),
        (inc.MSE_V2, {"reduce_range": "true"}, "inc", "give --format inc-reduce-range"),
        (inc.MSE_V2, {"reduce_range": "false"}, "inc-reduce-range", "give --format inc"),
        (inc.HAWQ_V2, {"probes": "0"}, "inc", "give a number of 1 or more"),
        (inc.TUNE, {"tolerable_loss": "-1"}, "inc", "give nats, or none"),
    ]
    for lens, options, fmt, match in refused:
        with pytest.raises(UserError, match=match):
            lens.score(loaded, table, request_of("qwen2", tmp_path, options=options, fmt=fmt))


def test_what_a_worker_is_told(answering: Any, tmp_path: Path) -> None:
    loaded = loaded_of("qwen2", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    first = table.candidates[0].name
    asked = answering({"scores": {first: 1.0}, "seconds": 2.0})
    found = inc.MSE_V2.score(
        loaded, table, request_of("qwen2", tmp_path, fmt="inc-reduce-range", max_ops=3)
    )
    assert (asked["environment"], asked["worker"]) == ("inc", "inc_mse_v2")
    assert asked["ops"] == [op.name for op in table.candidates[:3]]
    assert asked["settings"]["reduce_range"] == "true"
    assert Path(asked["model"]) == (tmp_path / "model").resolve()
    assert torch.equal(
        asked["tensors"]["selection.0.inputs.input_ids"], make_batch("qwen2").inputs["input_ids"]
    )
    assert found.stopped_by == "a limit of 3 ops"
    assert (found.framework.asked, found.framework.covered) == (len(table.candidates), 1)


def test_no_score_at_all_is_an_error(answering: Any, tmp_path: Path) -> None:
    loaded = loaded_of("qwen2", tmp_path / "model")
    answering({"scores": {}})
    table = list_ops(loaded.model, loaded.layout)
    with pytest.raises(UserError, match=r"scored none of the 14 ops.*worker\.log"):
        inc.MSE_V2.score(loaded, table, request_of("qwen2", tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_incs_own_loop_gives_the_recorded_numbers(tmp_path: Path) -> None:
    batch = make_batch("qwen2")
    golden = json.loads((GOLDEN / "qwen2.json").read_text())["residual_sse"]
    names = sorted(golden)[:3]
    settings = {"reduce_range": "false", "engine": "qnnpack", "observer": "minmax", "fast": "false"}
    found = run_worker(
        "inc",
        "inc_mse_v2",
        {
            **model_request(loaded_of("qwen2", tmp_path / "model"), tmp_path / "copy"),
            "ops": sorted(golden),
            "seed": 0,
            "time_budget": None,
            "settings": settings,
        },
        tmp_path,
        tensors=batch_tensors("selection", [batch]),
    )
    assert found["settings"]["fast"] is False
    assert {n: found["raw"][n]["residual_sse"] for n in names} == {
        n: pytest.approx(golden[n], rel=1e-6) for n in names
    }
    assert found["order"][0] == min(golden, key=lambda name: golden[name])


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_a_batch_without_pictures_beside_one_with_them_is_as_in_incs_own_loop(
    tmp_path: Path,
) -> None:
    """Vision ops have scores though a batch never runs them; INC's loop, on the same batches, has the same."""
    loaded = lens_cases.saved(models_tiny.qwen2_5_vl(), tmp_path / "model")
    include = ("*visual.blocks.0.attn.qkv", "*visual.merger.mlp.0", "*layers.1.mlp.down_proj")
    table = list_ops(loaded.model, loaded.layout, include=include)
    assert [op.component for op in table.candidates] == ["vision", "merger", "language"]
    batches = [models_tiny.text_batch((9, 9, 9), vision=True), models_tiny.image_batch((5, 5))]
    found = {}
    for fast in ("true", "false"):
        asked = lens_cases.request_of(
            batches, tmp_path, base="fallback", fmt="inc", options={"fast": fast}
        )
        found[fast] = inc.MSE_V2.score(loaded, table, asked)
        assert found[fast].framework.settings["fast"] is (fast == "true")
        assert found[fast].framework.settings["batches_scored"] == 2
    own, ours = found["false"], found["true"]
    assert ours.scores.keys() == own.scores.keys() == {op.name for op in table.candidates}
    for name, raw in own.raw.items():
        assert ours.raw[name] == pytest.approx(raw, rel=1e-6), name
        assert ours.scores[name] != 0, name


@pytest.mark.slow
@pytest.mark.usefixtures("inc_environment")
def test_ops_that_no_sample_reaches_are_listed(tmp_path: Path) -> None:
    """Without pictures a vision tower never runs: its ops are no fault, and have no score."""
    loaded = loaded_of("qwen2_5_vl", tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    ids = torch.randint(5, 30, (4, 12), generator=torch.Generator().manual_seed(0))
    batch = replace(
        make_batch("qwen2"),
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        target=torch.ones_like(ids, dtype=torch.bool),
    )
    asked = replace(
        request_of("qwen2_5_vl", tmp_path, options={"fast": "true"}),
        selection=[batch],
        calibration=[batch],
    )
    found = inc.MSE_V2.score(loaded, table, asked)
    language = {op.name for op in table.candidates if op.component == "language"}
    assert found.scores.keys() == language
    assert set(found.missing.values()) == {"the selection data never reaches it"}
    assert found.missing.keys() == {op.name for op in table.candidates} - language
