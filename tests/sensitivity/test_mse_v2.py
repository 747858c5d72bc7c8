from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import scans
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.metric import NOT_FINITE, Summary
from quantspectrum.sensitivity.outputs import Difference

INF, NAN = float("inf"), float("nan")
# (2 samples, 3 tokens, 2 words); the last token of the second sample is padding.
REFERENCE = torch.tensor([[[1.0, 2], [3, 4], [5, 6]], [[1, 1], [2, 2], [9, 9]]])
PERTURBED = torch.tensor([[[1.0, 2], [3, 5], [5, 3]], [[0, 1], [2, 4], [0, 0]]])
MASK = torch.tensor([[True, True, True], [True, True, False]])

Base = Literal["isolate", "fallback"]


def measure(reference: Tensor, perturbed: Tensor, mask: Tensor) -> dict[str, list[float]]:
    found = mse_v2.measure(Difference(scans.reference_of(reference, mask), perturbed))
    return {key: values.tolist() for key, values in found.items()}


def signal(reference: Tensor, mask: Tensor) -> list[float]:
    found: list[float] = mse_v2.reference_values(scans.reference_of(reference, mask))[
        "signal"
    ].tolist()
    return found


def summarize(
    base: Base, op: Sequence[float], everything: Sequence[float] | None, signals: Sequence[float]
) -> Summary:
    assert (everything is not None) == (base == "fallback")
    total = None if everything is None else {"sse": everything}
    return mse_v2.summarize({"sse": op}, total, {"signal": signals})


def test_signal_is_the_sum_of_squares_over_tokens() -> None:
    assert signal(REFERENCE, MASK) == pytest.approx([91, 10], rel=1e-6)


def test_measure_is_the_sum_of_squared_differences_over_tokens() -> None:
    found = measure(REFERENCE, PERTURBED, MASK)
    assert found == {"sse": pytest.approx([10, 5], rel=1e-6)}


def test_equal_logits_measure_exactly_zero() -> None:
    assert measure(REFERENCE, REFERENCE.clone(), MASK) == {"sse": [0.0, 0.0]}


@pytest.mark.parametrize("value", [NAN, INF])
def test_padding_may_hold_anything(value: float) -> None:
    perturbed = PERTURBED.clone()
    perturbed[1, 2] = value
    assert measure(REFERENCE, perturbed, MASK) == measure(REFERENCE, PERTURBED, MASK)
    reference = REFERENCE.clone()
    reference[1, 2] = value
    assert measure(reference, PERTURBED, MASK) == measure(REFERENCE, PERTURBED, MASK)
    assert signal(reference, MASK) == signal(REFERENCE, MASK)


def test_a_sample_alone_measures_what_it_does_in_a_batch() -> None:
    together = measure(REFERENCE, PERTURBED, MASK)["sse"]
    alone = [
        measure(REFERENCE[i : i + 1], PERTURBED[i : i + 1], MASK[i : i + 1])["sse"][0]
        for i in range(2)
    ]
    assert together == alone


def test_bfloat16_logits_are_subtracted_in_float32() -> None:
    # In bfloat16 256 - 1.0078125 would be 255 or 256.
    reference = torch.tensor([[[256.0]]], dtype=torch.bfloat16)
    perturbed = torch.tensor([[[1.0078125]]], dtype=torch.bfloat16)
    (found,) = measure(reference, perturbed, torch.tensor([[True]]))["sse"]
    assert found == pytest.approx(254.9921875**2, rel=1e-6)


def test_isolate_is_the_mean_relative_squared_error() -> None:
    made = summarize("isolate", [10.0, 5.0], None, [91.0, 10.0])
    assert made.values == pytest.approx((10 / 91, 0.5))
    assert made.score == pytest.approx((10 / 91 + 0.5) / 2)
    assert made.stderr == pytest.approx(abs(10 / 91 - 0.5) / 2)
    assert made.raw == {"sse": 15.0, "signal": 101.0}


def test_fallback_is_what_goes_away() -> None:
    made = summarize("fallback", [4.0, 6.0], [10.0, 5.0], [100.0, 10.0])
    assert made.values == pytest.approx((0.06, -0.1))
    assert made.score == pytest.approx((0.06 - 0.1) / 2)
    assert made.stderr == pytest.approx(0.08)
    assert made.raw == {"residual_sse": 10.0, "total_sse": 15.0, "signal": 110.0}


@pytest.mark.parametrize("base", ["isolate", "fallback"])
def test_one_sample_has_no_standard_error(base: Base) -> None:
    made = summarize(base, [2.0], [5.0] if base == "fallback" else None, [10.0])
    assert made.score == pytest.approx(0.2 if base == "isolate" else 0.3)
    assert made.stderr is None


positive = st.floats(1e-3, 1e6)


@given(samples=st.lists(st.tuples(positive, positive, positive), min_size=2, max_size=8))
def test_summaries_do_not_depend_on_the_order_of_samples(
    samples: list[tuple[float, float, float]],
) -> None:
    op, everything, signals = (list(column) for column in zip(*samples, strict=True))
    made = summarize("fallback", op, everything, signals)
    turned = summarize(
        "fallback", *[list(column) for column in zip(*reversed(samples), strict=True)]
    )
    assert (made.score, made.stderr, made.raw) == (turned.score, turned.stderr, turned.raw)
    assert made.values == turned.values[::-1]


@given(samples=st.lists(st.tuples(positive, positive), min_size=2, max_size=8))
def test_the_standard_error_is_that_of_the_mean(samples: list[tuple[float, float]]) -> None:
    op, signals = (list(column) for column in zip(*samples, strict=True))
    stderr = summarize("isolate", op, None, signals).stderr
    values = torch.tensor(op, dtype=torch.float64) / torch.tensor(signals, dtype=torch.float64)
    expected = float(values.std()) / math.sqrt(len(samples))
    assert stderr == pytest.approx(expected, rel=1e-6, abs=1e-9 * float(values.max()))


@given(
    samples=st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=6),
    ops=st.lists(st.floats(0.5, 2), min_size=2, max_size=5),
)
def test_the_fallback_order_is_incs_order_when_samples_weigh_the_same(
    samples: list[tuple[float, float, float]], ops: list[float]
) -> None:
    everything = [total for _, total, _ in samples]
    signals = [7.0] * len(samples)
    found = [
        summarize("fallback", [rest * factor for rest, _, _ in samples], everything, signals)
        for factor in ops
    ]
    for one, other in itertools.combinations(found, 2):
        left, right = one.raw["residual_sse"], other.raw["residual_sse"]
        if not math.isclose(left, right, rel_tol=1e-6):
            assert (one.score > other.score) == (left < right)


# What is not finite. The sign of a NaN is an accident: on x86 inf - inf has its sign bit set.
NANS = [math.copysign(NAN, 1.0), math.copysign(NAN, -1.0)]


@pytest.mark.parametrize("sse", [INF, *NANS])
def test_isolate_of_an_output_that_is_not_finite_is_the_worst_there_is(sse: float) -> None:
    made = summarize("isolate", [sse, sse], None, [10.0, 20.0])
    assert made.score == NOT_FINITE
    assert made.raw == {"signal": 30.0, "samples_not_finite": 2.0}


@pytest.mark.parametrize("everything", [INF, *NANS])
def test_an_op_that_makes_everything_finite_again_is_the_most_sensitive(everything: float) -> None:
    made = summarize("fallback", [1.0], [everything], [10.0])
    assert made.score == pytest.approx(NOT_FINITE)
    assert made.raw["residual_sse"] == 1.0
    assert "total_sse" not in made.raw


@pytest.mark.parametrize("rest", [INF, *NANS])
def test_an_op_whose_restoring_breaks_everything_is_the_least_sensitive(rest: float) -> None:
    assert summarize("fallback", [rest], [1.0], [10.0]).score == pytest.approx(-NOT_FINITE)


@pytest.mark.parametrize("everything", [INF, *NANS])
@pytest.mark.parametrize("rest", [INF, *NANS])
def test_an_op_whose_restoring_changes_nothing_is_worth_nothing(
    rest: float, everything: float
) -> None:
    made = summarize("fallback", [rest, 1.0], [everything, 2.0], [10.0, 10.0])
    assert made.score == pytest.approx((0 + 0.1) / 2)
    assert made.raw["samples_not_finite"] == 1.0


def test_samples_that_are_finite_still_count_beside_one_that_is_not() -> None:
    made = summarize("isolate", [1.0, INF], None, [10.0, 10.0])
    assert made.score == pytest.approx(NOT_FINITE / 2)
    assert made.stderr is not None
    assert math.isfinite(made.stderr)
    assert made.raw["samples_not_finite"] == 1.0


@pytest.mark.parametrize("base", ["isolate", "fallback"])
def test_a_sample_of_size_zero_is_left_out(base: Base) -> None:
    total = [4.0, 5.0, 6.0] if base == "fallback" else None
    made = summarize(base, [1.0, 7.0, 3.0], total, [10.0, 0.0, 10.0])
    assert made.values == pytest.approx((0.1, 0.3) if total is None else (0.3, 0.3))
    assert summarize(base, [1.0], total and total[:1], [0.0]).values == ()
