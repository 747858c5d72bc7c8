"""Readings of profiles against float64 logits of whole forward passes, computed here."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.metric import NOT_FINITE
from quantspectrum.spectrum.meter import Meter, ops_sha256, plans_for
from scans import MIXED, TEXT, UNSEEN, logits_with, plans_of
from spectrum.measured_cases import case_of


def expected(
    loaded: Loaded, batch: Batch, reference: torch.Tensor, perturbed: torch.Tensor
) -> dict[str, list[float]]:
    mask = batch.inputs["attention_mask"].bool()
    text = mask & (batch.inputs["input_ids"] != loaded.layout.image_token_id)
    log_p, log_q = (torch.log_softmax(x, -1) for x in (reference, perturbed))
    ids = batch.inputs["input_ids"][:, 1:, None]
    nll_p, nll_q = (-x[:, :-1].gather(-1, ids).squeeze(-1) for x in (log_p, log_q))
    target = batch.target[:, 1:]
    found = {
        "kl": ((log_p.exp() * (log_p - log_q)).sum(-1) * text).sum(1),
        "nll_change": ((nll_q - nll_p) * target).sum(1),
        "sse": ((perturbed - reference).square().sum(-1) * mask).sum(1),
        "nll": (nll_p * target).sum(1),
        "targets": target.sum(1),
        "text_tokens": text.sum(1),
    }
    return {key: values.tolist() for key, values in found.items()}


@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
@pytest.mark.parametrize("vision", [False, True])
def test_readings_are_those_of_whole_passes(fmt: str, vision: bool) -> None:
    model = models_tiny.qwen2_5_vl() if vision else models_tiny.causal_lm("qwen2")
    batches = MIXED if vision else TEXT
    loaded = models_tiny.loaded(model)
    plans = plans_of(loaded, preset(fmt), UNSEEN if not vision else MIXED)
    names = list(plans)
    profiles = [names[::2], names[:1], names]
    meter = Meter(loaded, {fmt: plans}, batches, metrics=("kl", "nll", "mse_v2"))
    readings = meter.measure([dict.fromkeys(chosen, fmt) for chosen in profiles])
    assert meter.samples == tuple(s for batch in batches for s in batch.sample_ids)
    for chosen, reading in zip(profiles, readings, strict=True):
        wanted: dict[str, list[float]] = {}
        for batch in batches:
            reference = logits_with(loaded, plans, set(), batch)
            perturbed = logits_with(loaded, plans, set(chosen), batch)
            for key, values in expected(loaded, batch, reference, perturbed).items():
                wanted.setdefault(key, []).extend(values)
        assert reading.not_finite == 0
        for key in ("kl", "nll_change", "sse"):
            largest = max(map(abs, wanted[key]))
            assert reading.values[key] == pytest.approx(wanted[key], rel=2e-3, abs=1e-3 * largest)
        for key in ("nll", "targets", "text_tokens"):
            assert meter.baseline.values[key] == pytest.approx(wanted[key], rel=1e-5)


def test_nothing_quantized_is_no_damage_at_all(llama: nn.Module) -> None:
    (reading,) = case_of(llama).meter().measure([{}])
    assert set(reading.values["kl"]) == {0.0}
    assert set(reading.values["nll_change"]) == {0.0}


@pytest.mark.parametrize("limit", [0, 2**16, 2**30])
def test_memory_changes_no_reading(llama: nn.Module, limit: int) -> None:
    case = case_of(llama)
    profiles = [profile.ops for profile in case.spectrum.profiles]
    found = case.meter(memory_limit=limit).measure(profiles)
    for reading, other in zip(found, case.meter().measure(profiles), strict=True):
        assert reading.values == other.values


def test_a_profile_costs_one_pass_and_the_baseline_one_for_all(llama: nn.Module) -> None:
    case = case_of(llama)
    meter = case.meter()
    meter.measure([{}])  # Looks at the head, which takes passes of its own.
    with mock.patch.object(ReplayEngine, "run", autospec=True, side_effect=ReplayEngine.run) as run:
        meter.measure([profile.ops for profile in case.spectrum.profiles])
        assert run.call_count == len(case.spectrum.profiles) * len(meter.batches)
        _ = meter.baseline
        assert run.call_count == len(case.spectrum.profiles) * len(meter.batches)


def test_profiles_of_several_formats(llama: nn.Module) -> None:
    loaded = models_tiny.loaded(llama)
    formats = ("w8a8", "w8a16")
    both = {fmt: plans_of(loaded, preset(fmt), UNSEEN) for fmt in formats}
    names = list(both["w8a8"])
    ops = {name: formats[place % 2] for place, name in enumerate(names[:6])}
    (reading,) = Meter(loaded, both, TEXT).measure([ops])
    mixed = {name: both[fmt][name] for name, fmt in ops.items()}
    wanted: list[float] = []
    for batch in TEXT:
        reference = logits_with(loaded, mixed, set(), batch)
        perturbed = logits_with(loaded, mixed, set(ops), batch)
        wanted += expected(loaded, batch, reference, perturbed)["kl"]
    assert reading.values["kl"] == pytest.approx(wanted, rel=2e-3)


def test_the_model_is_left_as_it_was(llama: nn.Module) -> None:
    case = case_of(llama)
    forwards, weights = models_tiny.forwards(llama), models_tiny.weights(llama)
    meter = case.meter()
    with pytest.raises(RuntimeError, match="stop"):
        meter.measure(
            [case.spectrum.profiles[-1].ops], step=mock.Mock(side_effect=RuntimeError("stop"))
        )
    meter.measure([case.spectrum.profiles[-1].ops])
    assert models_tiny.forwards(llama) == forwards
    for name, (place, values) in models_tiny.weights(llama).items():
        assert place == weights[name][0]
        assert torch.equal(values, weights[name][1])


def test_what_is_not_finite_counts_as_the_largest_damage(llama: nn.Module) -> None:
    case = case_of(llama)
    meter = case.meter()
    name = case.report.ops[0].name
    with mock.patch.object(
        ReplayEngine, "run", autospec=True, side_effect=[*_whole(meter), *_broken(meter)]
    ):
        (reading,) = meter.measure([{name: "w8a8-static"}])
    assert reading.not_finite == len(meter.batches[0].sample_ids)
    assert reading.values["kl"][0] == NOT_FINITE


def _whole(meter: Meter) -> list[torch.Tensor]:
    """The baseline's output on the first batch, and once more where the head is looked at."""
    inputs = meter.batches[0].inputs
    meter.batches = meter.batches[:1]
    with torch.no_grad():
        meter._engine.check_head(inputs)
        return [meter._engine.run(inputs)]


def _broken(meter: Meter) -> list[torch.Tensor]:
    inputs = meter.batches[0].inputs
    with torch.no_grad():
        return [torch.full_like(meter._engine.run(inputs), torch.nan)]


def test_a_spectrum_of_other_weights_is_refused(llama: nn.Module) -> None:
    case = case_of(llama)
    other = models_tiny.loaded(models_tiny.causal_lm("llama", seed=9))
    with pytest.raises(UserError, match="weights of tiny in float32 differ"):
        plans_for(other, case.spectrum, lambda: UNSEEN)


def test_ranges_are_observed_only_where_the_spectrum_lacks_them(llama: nn.Module) -> None:
    case = case_of(llama)
    never = mock.Mock(side_effect=AssertionError)
    known = plans_for(case.loaded, case.spectrum, never)["w8a8-static"]
    bare = case.spectrum.model_copy(update={"input_ranges": {}})
    assert plans_for(case.loaded, bare, lambda: UNSEEN)["w8a8-static"] == known


def test_the_hash_is_of_ops_and_formats_whatever_their_order() -> None:
    assert ops_sha256({"a": "x", "b": "y"}) == ops_sha256({"b": "y", "a": "x"})
    assert ops_sha256({"a": "x"}) != ops_sha256({"a": "y"})
