"""The profile that a budget allows, on tiny models with a planted op."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import models_tiny
from quantspectrum.artifacts import QualityBudget, SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.meter import Meter, ops_sha256
from quantspectrum.spectrum.quality import (
    Found,
    find_profile,
    ranked_groups,
    read_profile,
    weight_bytes,
    with_profile,
)
from spectrum.measured_cases import PLANTED, SELECTION, Case, case_of, plant


@pytest.fixture(scope="module")
def planted() -> Case:
    return case_of(plant(models_tiny.causal_lm("qwen2")))


def kl(limit: float) -> QualityBudget:
    return QualityBudget(text=f"kl {limit}", quantity="kl", limit=limit)


def find(case: Case, budget: QualityBudget, **more: object) -> Found:
    asked: dict[str, object] = {"name": "quality", "trials": 24, "journal": Journal(None, {})}
    return find_profile(case.meter(), case.spectrum, case.report, budget, **asked | more)  # type: ignore[arg-type]


def damage_without(case: Case) -> float:
    """KL with all quantized but the planted op."""
    ops = {op.name: "w8a8-static" for op in case.report.ops if op.name != PLANTED}
    return read_profile(case.meter(), case.spectrum, ops, kl(1), Journal(None, {}))[1].value


def misranked(case: Case) -> Case:
    """The same with the planted op ranked as the least sensitive one."""
    ops = tuple(
        op.model_copy(update={"score": -1.0}) if op.name == PLANTED else op
        for op in case.report.ops
    )
    report: SensitivityReport = case.report.model_copy(update={"ops": ops})
    return Case(case.loaded, report, build_spectrum(report, report_sha256="0" * 64))


@pytest.mark.parametrize("ranked", ["well", "wrongly"])
def test_the_op_that_does_the_damage_is_left_out(planted: Case, ranked: str) -> None:
    case = planted if ranked == "well" else misranked(planted)
    found = find(case, kl(1.05 * damage_without(planted)))
    everything = {op.name for op in case.report.ops}
    assert everything - set(found.profile.ops) == {PLANTED}
    assert found.profile.groups == len(case.spectrum.damages) - 1
    assert 0 < found.profile.share < 1
    assert "left out" in found.profile.rule or ranked == "well"


def test_every_trial_is_on_record(planted: Case) -> None:
    case = misranked(planted)
    budget = kl(1.05 * damage_without(planted))
    found = find(case, budget)
    groups = {group.name: group for group in ranked_groups(case.report, case.spectrum)}
    assert [trial.number for trial in found.trials] == list(range(1, len(found.trials) + 1))
    assert found.trials[0].step == "whole"
    assert {"bisect", "add"} <= {trial.step for trial in found.trials}
    for trial in found.trials:
        ops = {op.name: "w8a8-static" for name in trial.quantized for op in groups[name].ops}
        assert trial.reading.ops_sha256 == ops_sha256(ops)
        assert trial.reading.groups == len(trial.quantized)
        assert trial.reading.weight_bytes == weight_bytes(ops, case.spectrum)
        assert trial.meets == (trial.judged.value <= budget.limit)
        assert trial.judged == trial.reading.kl
        assert trial.judged.n == sum(len(batch.sample_ids) for batch in SELECTION)
    met = [trial for trial in found.trials if trial.meets]
    best = max(met, key=lambda trial: trial.reading.weight_bytes)
    assert best.reading.ops_sha256 == ops_sha256(found.profile.ops)


@settings(max_examples=12)
@given(
    st.floats(-9, 0),
    st.sampled_from(["kl", "nll", "nll_relative"]),
    st.booleans(),
    st.integers(1, 12),
)
def test_no_budget_is_ever_violated(
    planted: Case, log_limit: float, quantity: str, confident: bool, trials: int
) -> None:
    budget = QualityBudget(
        text="x",
        quantity=quantity,
        limit=10**log_limit,
        confident=confident,  # type: ignore[arg-type]
    )
    found = find(planted, budget, trials=trials)
    assert len(found.trials) <= trials
    if not found.profile.ops:
        assert not any(trial.meets for trial in found.trials)
        return
    _, judged = read_profile(
        planted.meter(), planted.spectrum, found.profile.ops, budget, Journal(None, {})
    )
    assert judged.high is not None
    assert (judged.high if confident else judged.value) <= budget.limit


def test_a_strict_budget_allows_no_more_than_a_lenient_one(planted: Case) -> None:
    budget = kl(1.05 * damage_without(planted))
    strict = budget.model_copy(update={"confident": True})
    few, many = find(planted, strict).profile, find(planted, budget).profile
    assert weight_bytes(few.ops, planted.spectrum) <= weight_bytes(many.ops, planted.spectrum)


def test_nothing_keeps_to_it_and_that_is_the_baseline(planted: Case) -> None:
    found = find(planted, kl(0.0))
    assert found.profile.ops == {}
    assert found.profile.share == 0
    assert found.trials
    assert not any(trial.meets for trial in found.trials)
    assert "this is the baseline" in found.profile.rule


def test_everything_keeps_to_it_after_one_trial(planted: Case) -> None:
    found = find(planted, kl(1e9))
    assert len(found.trials) == 1
    assert set(found.profile.ops) == {op.name for op in planted.report.ops}


def test_fixed_groups_stay_as_they_are(planted: Case) -> None:
    low = PLANTED.replace(".1.", ".0.")
    group = next(op.group for op in planted.report.ops if op.name == low)
    found = find(planted, kl(1e9), fixed={PLANTED: "bf16", group: "w8a8-static"})
    assert PLANTED not in found.profile.ops
    assert found.profile.ops[low] == "w8a8-static"
    assert all(PLANTED not in trial.quantized for trial in found.trials)
    assert "2 groups fixed by --keep" in found.profile.rule


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_search_that_was_killed_goes_on_where_it_was(
    planted: Case, stop: int, tmp_path: object
) -> None:
    case, budget = misranked(planted), kl(1.05 * damage_without(planted))
    whole = find(case, budget)
    path = tmp_path / "search.journal.jsonl"  # type: ignore[operator]
    calls = itertools.count(1)

    def step() -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    with Journal(path, {}) as journal, pytest.raises(KeyboardInterrupt):
        find(case, budget, journal=journal, step=step)
    with (
        Journal(path, {}) as journal,
        mock.patch.object(Meter, "measure", autospec=True, side_effect=Meter.measure) as measure,
    ):
        again = find(case, budget, journal=journal)
    assert measure.call_count == len(whole.trials) - stop
    assert again == whole


def test_a_budget_of_accuracy_needs_references(planted: Case) -> None:
    budget = QualityBudget(text="accuracy -1pt", quantity="accuracy", limit=0.01)
    with pytest.raises(UserError, match="references"):
        find(planted, budget)


def test_a_profile_finds_its_place_and_replaces_its_own_kind(planted: Case) -> None:
    profile = find(planted, kl(1.05 * damage_without(planted))).profile
    spectrum = with_profile(with_profile(planted.spectrum, profile), profile)
    names = [each.name for each in spectrum.profiles]
    assert names == ["baseline", "mild", "medium", "aggressive", "quality", "max"]
    sizes = [each.predicted_bytes for each in spectrum.profiles]
    assert sizes == sorted(sizes, key=lambda size: -(size or 0))
    assert spectrum.content_sha256 == spectrum.content_hash()


def test_readings_of_text_models_without_batches_of_pictures(llama: nn.Module) -> None:
    case = case_of(llama, metric="mse_v2")
    found = find(case, kl(1e-4))
    assert found.trials[-1].reading.nll is not None
