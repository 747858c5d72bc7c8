"""Quality budgets: what is understood, and intervals against resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quantspectrum.artifacts import Interval, QualityBudget
from quantspectrum.errors import UserError
from quantspectrum.spectrum.quality_budget import accuracy_lost, meets, parse_budget, ratio


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("kl 0.01", "kl", 0.01),
        ("KL 1e-3", "kl", 0.001),
        ("kl +.5", "kl", 0.5),
        ("nll +1%", "nll_relative", 0.01),
        ("nll 1 %", "nll_relative", 0.01),
        (" nll +0.02 ", "nll", 0.02),
        ("perplexity +1%", "nll", math.log(1.01)),
        ("accuracy -0.5pt", "accuracy", 0.005),
        ("accuracy 2 pt", "accuracy", 0.02),
        ("kl 0", "kl", 0.0),
    ],
)
def test_budgets_that_are_understood(text: str, quantity: str, limit: float) -> None:
    budget = parse_budget(text, confident=True)
    assert budget.text == text.strip()
    assert budget.quantity == quantity
    assert budget.limit == pytest.approx(limit, rel=1e-12)
    assert budget.confident


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not understood"),
        ("kl", "not understood"),
        ("bleu -1pt", "not understood"),
        ("kl nan", "not understood"),
        ("kl 1e999", "not finite"),
        ("nll -1%", "asks for a gain"),
        ("kl -0.1", "asks for a gain"),
        ("accuracy +1pt", "asks for a gain"),
        ("kl 1%", "kl has no budget in %"),
        ("accuracy -0.5%", "accuracy has no budget in %"),
        ("accuracy -0.5", "plain numbers"),
        ("perplexity +1", "plain numbers"),
        ("nll +1pt", "nll has no budget in pt"),
    ],
)
def test_others_are_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as told:
        parse_budget(text)
    assert "\n" not in str(told.value)


def test_the_estimate_decides_or_the_upper_end() -> None:
    plain = QualityBudget(text="kl 1", quantity="kl", limit=1.0)
    strict = plain.model_copy(update={"confident": True})
    wide = Interval(n=3, value=0.9, stderr=0.1, low=0.7, high=1.1)
    assert meets(plain, wide)
    assert not meets(strict, wide)
    assert meets(strict, wide.model_copy(update={"high": 1.0}))
    with pytest.raises(UserError, match="no interval"):
        meets(strict, Interval(n=1, value=0.1))


def test_ratios_leave_out_samples_that_have_nothing_to_score() -> None:
    found = ratio((1.0, 0.0, 3.0), (2.0, 0.0, 2.0))
    assert found is not None
    assert (found.n, found.value) == (2, 1.0)
    assert ratio((0.0,), (0.0,)) is None


def test_intervals_of_ratios_are_those_of_resampling() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 200, 60).astype(float)
    damage = sizes * rng.gamma(2.0, 0.01, 60)
    found = ratio(tuple(damage), tuple(sizes))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    picks = rng.integers(0, 60, (4000, 60))
    drawn = damage[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.1 * width)
    assert found.high == pytest.approx(high, abs=0.1 * width)


def answers(lost: int, won: int, n: int) -> tuple[dict[str, bool], dict[str, bool]]:
    before = {str(i): i < lost or i >= lost + won for i in range(n)}
    after = {str(i): i >= lost for i in range(n)}
    return before, after


def test_intervals_of_accuracy_are_those_of_resampling() -> None:
    before, after = answers(14, 6, 120)
    found = accuracy_lost(before, after)
    assert found.value == pytest.approx(8 / 120)
    assert found.low is not None
    assert found.high is not None
    change = np.array([before[k] * 1.0 - after[k] for k in before])
    picks = np.random.default_rng(0).integers(0, 120, (4000, 120))
    low, high = np.quantile(change[picks].mean(1), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def test_no_answer_changed_is_not_certainty() -> None:
    few, many = (accuracy_lost(*answers(0, 0, n)) for n in (16, 1600))
    assert few.value == many.value == 0
    assert few.high is not None
    assert many.high is not None
    assert few.high > 0.05 > 0.005 > many.high > 0


@pytest.mark.parametrize("lost", [0, 1, 3, 4])
def test_the_estimate_is_inside_its_interval(lost: int) -> None:
    found = accuracy_lost(*answers(lost, 0, 4))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
