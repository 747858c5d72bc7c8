"""Numbers that are not finite: of the model itself refused, of a quantized op its score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.artifacts import SensitivityReport, read_artifact, write_artifact
from quantspectrum.errors import UserError
from quantspectrum.sensitivity import MEASURED, METRICS, hawq_v2, kl, nll, visibility
from quantspectrum.sensitivity.metric import NOT_FINITE
from quantspectrum.simulation import Simulation
from scans import score, score_all

NAN, INF = float("nan"), float("inf")
UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("weight", [f"{UP}.weight", "lm_head.weight"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_broken_checkpoint_is_the_users_to_mend(
    llama: nn.Module, metric: str, weight: str
) -> None:
    with torch.no_grad():
        llama.get_parameter(weight)[1, 1] = NAN
    more: dict[str, Any] = {"metrics": (metric,), "probes": 1}
    if metric == "sqnr" and weight.startswith("lm_head"):
        # It looks at each op's own output, and those are sound.
        assert all(math.isfinite(op.score) for op in score(llama, **more).ops)
        return
    with pytest.raises(UserError, match=r"sample text:0 is not finite.*check the checkpoint"):
        score(llama, **more)
    assert models_tiny.forwards(llama) == {}
    assert models_tiny.hooks(llama) == 0


def test_the_sample_that_is_broken_is_named(llama: nn.Module) -> None:
    batch = models_tiny.text_batch((5, 5, 5))
    with torch.no_grad():
        token = batch.inputs["input_ids"][2, 3]
        assert not bool((batch.inputs["input_ids"][:2] == token).any())
        llama.get_parameter("model.embed_tokens.weight")[token] = INF
    for metric in ("mse_v2", "sqnr", "visibility"):
        with pytest.raises(UserError, match="sample text:2 is not finite"):
            score(llama, metrics=(metric,), selection=[batch])


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantized, one op gives no number on the first sample of a batch."""
    own = Simulation._forward

    def forward(self: Simulation, name: str, module: nn.Module, before: Any) -> Any:
        quantized = own(self, name, module, before)

        def broken(x: Tensor) -> Any:
            y = quantized(x)
            if name == UP and name in self._active:
                y = y.clone()
                y[0] = NAN
            return y

        return broken

    monkeypatch.setattr(Simulation, "_forward", forward)


@pytest.mark.usefixtures("breaking")
@pytest.mark.parametrize("slots", [1, 8])
def test_an_op_that_breaks_the_output_is_the_most_sensitive(
    llama: nn.Module, tmp_path: Path, slots: int
) -> None:
    for report in score_all(llama, metrics=MEASURED, slots=slots):
        first = report.ops[0]
        assert first.name == UP, report.lens
        assert first.raw["samples_not_finite"] == 2.0
        assert first.score == pytest.approx(NOT_FINITE * 2 / 5)
        assert all(abs(op.score) < 1 for op in report.ops[1:])
        write_artifact(tmp_path / "report.json", report)
        assert read_artifact(tmp_path / "report.json", SensitivityReport) == report


@pytest.mark.usefixtures("breaking")
def test_restoring_it_is_worth_the_most(llama: nn.Module) -> None:
    for report in score_all(llama, base="fallback", metrics=MEASURED):
        assert report.ops[0].name == UP, report.lens
        assert report.ops[0].score == pytest.approx(NOT_FINITE * 2 / 5)
        assert report.complete


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_raw_numbers_that_are_none_are_left_out(bad: float) -> None:
    pictures = kl.summarize(
        {"kl": [1.0], "image_kl": [bad]}, None, {"text_tokens": [2.0], "image_tokens": [3.0]}
    )
    assert pictures.score == 0.5
    assert pictures.raw == {"kl": 1.0, "text_tokens": 2.0, "image_tokens": 3.0}
    seen = visibility.score({"squared": [bad, 1.0], "elementwise": [bad, 1.0], "tokens": [1, 1]})
    assert seen.score == pytest.approx((NOT_FINITE + 1) / 2)
    assert seen.raw == {"tokens": 2.0, "samples_not_finite": 1.0}
    change = nll.summarize({"nll_change": [bad, -bad, 1.0]}, None, {"targets": [1.0, 1.0, 1.0]})
    assert change.raw == {"targets": 3.0, "samples_not_finite": 2.0}
    trace = hawq_v2.score({"trace": [bad, 2.0, -bad], "params": [4.0], "weight_error": [2.0]})
    assert trace.score == pytest.approx((2 * NOT_FINITE + 1) / 3)
    assert trace.raw == {"weight_error": 2.0, "probes": 3.0, "probes_not_finite": 2.0}
