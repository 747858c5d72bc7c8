from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantspectrum.formats import TensorScheme
from quantspectrum.sensitivity import observers
from quantspectrum.sensitivity.observers import (
    MinMaxObserver,
    Observer,
    PercentileObserver,
    observer_of,
)

numbers = st.floats(-(2.0**100), 2.0**100, width=32)
PERCENTILES = st.sampled_from([50.5, 75.0, 90.0, 99.0, 99.9, 99.99])


@st.composite
def values(draw: st.DrawFn) -> Tensor:
    """Numbers of bfloat16."""
    return torch.tensor(draw(st.lists(numbers, min_size=1, max_size=60))).bfloat16()


def observed(observer: Observer, *parts: Tensor) -> tuple[float, float]:
    for part in parts:
        observer.observe(part)
    return observer.range()


def percentile_range(x: Tensor, percentile: float, symmetric: bool) -> tuple[float, float]:
    return observed(PercentileObserver(percentile, symmetric=symmetric), x)


@given(x=values(), percentile=PERCENTILES)
def test_symmetric_bound_is_the_exact_order_statistic(x: Tensor, percentile: float) -> None:
    exact = x.double().numpy()
    bound = np.percentile(np.abs(exact), percentile, method="inverted_cdf")
    expected = max(-bound, exact.min()), min(bound, exact.max())
    assert percentile_range(x, percentile, True) == expected


@given(x=values(), percentile=PERCENTILES)
def test_affine_bounds_are_the_exact_order_statistics(x: Tensor, percentile: float) -> None:
    in_order = x.double().sort().values.tolist()
    left_out = math.floor(round(len(in_order) * (100 - percentile) / 200, 9))
    expected = in_order[left_out], in_order[-1 - left_out]
    assert percentile_range(x, percentile, False) == expected


@given(x=values(), percentile=PERCENTILES, symmetric=st.booleans())
def test_the_range_of_the_negative_is_the_negative(
    x: Tensor, percentile: float, symmetric: bool
) -> None:
    low, high = percentile_range(x, percentile, symmetric)
    assert percentile_range(-x, percentile, symmetric) == (-high, -low)


@given(x=values(), cut=st.integers(1, 59), percentile=PERCENTILES, symmetric=st.booleans())
def test_batches_do_not_matter(x: Tensor, cut: int, percentile: float, symmetric: bool) -> None:
    parts = [part for part in (x[cut:], x[:cut]) if part.numel()]
    found = observed(PercentileObserver(percentile, symmetric=symmetric), *parts)
    assert found == percentile_range(x, percentile, symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_finer_types_are_within_half_a_step_of_bfloat16(
    percentile: float, dtype: torch.dtype, symmetric: bool
) -> None:
    x = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = x.double().numpy()
    if symmetric:
        bound = np.percentile(np.abs(exact), percentile, method="inverted_cdf")
        expected = -bound, bound
    else:
        tail = (100 - percentile) / 2
        expected = tuple(np.percentile(exact, [tail, 100 - tail], method="linear"))
    found = percentile_range(x, percentile, symmetric)
    # "linear" interpolates between neighbours, which lie close together here.
    assert found == pytest.approx(expected, rel=2**-8 if symmetric else 2**-7, abs=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_outlier_in_ten_thousand_is_left_out(symmetric: bool) -> None:
    x = torch.linspace(-1, 1, 20_000)
    x[123] = 1000.0
    low, high = percentile_range(x, 99.99, symmetric)
    assert (low, high) == pytest.approx((-1, 1), rel=2**-8)
    assert observed(MinMaxObserver(), x) == (-1.0, 1000.0)


def test_zeros_of_either_sign_are_one_value() -> None:
    x = torch.tensor([-0.0] * 50 + [0.0] * 49 + [3.0])
    assert percentile_range(x, 99.0, True) == (0.0, 0.0)
    assert percentile_range(x, 99.9, True) == (0.0, 3.0)


def test_the_bound_stays_inside_what_was_seen() -> None:
    """The number of bfloat16 next to 1.005 is larger."""
    x = torch.tensor([1.005, -1.005])
    assert x.bfloat16()[0].item() > x[0].item()
    assert percentile_range(x, 99.0, True) == (x[1].item(), x[0].item())


def test_tensors_are_counted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(7, 13, generator=torch.Generator().manual_seed(0))
    whole = percentile_range(x, 90.0, True)
    monkeypatch.setattr(observers, "CHUNK", 10)
    assert percentile_range(x, 90.0, True) == whole


@given(x=values(), y=values())
def test_minmax_keeps_the_extremes(x: Tensor, y: Tensor) -> None:
    both = torch.cat([x, y])
    assert observed(MinMaxObserver(), x, y) == (both.min().item(), both.max().item())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_extremes_tell_what_is_not_finite(value: float) -> None:
    for observer in (MinMaxObserver(), PercentileObserver(99.0, symmetric=True)):
        observer.observe(torch.tensor([1.0, value, 2.0]))
        observer.observe(torch.tensor([3.0]))
        assert not all(map(math.isfinite, observer.extremes()))


def test_the_scheme_names_the_observer() -> None:
    x = torch.linspace(-1, 3, 1000)
    scheme = TensorScheme(observer="percentile", percentile=90.0)
    affine = TensorScheme(observer="percentile", percentile=90.0, symmetric=False)
    assert observed(observer_of(scheme), x) == percentile_range(x, 90.0, True)
    assert observed(observer_of(affine), x) == percentile_range(x, 90.0, False)
    assert observed(observer_of(TensorScheme()), x) == (-1.0, 3.0)
