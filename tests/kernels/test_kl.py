"""The divergence against its definition, with fifty digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch
from kernel_cases import predictions
from torch import Tensor

from quantspectrum.kernels import kl
from quantspectrum.kernels.kl import centred_exponential_excess


def divergence(log_p: Tensor, delta: Tensor, mean: Tensor) -> list[float]:
    return torch.log1p(centred_exponential_excess(log_p, delta, mean)).tolist()


def definition(log_p: Tensor, delta: Tensor) -> list[float]:
    """The sum of p * log(p / q) for each row, q proportional to p * exp(delta)."""
    with localcontext() as context:
        context.prec = 50
        return [_row(*map(Tensor.tolist, row)) for row in zip(log_p, delta, strict=True)]


def _row(log_p: list[float], delta: list[float]) -> float:
    p = [Decimal(value).exp() for value in log_p]
    total = sum(p)
    q = [v * Decimal(change).exp() for v, change in zip(p, delta, strict=True)]
    norm = sum(q)
    return float(sum(a / total * (a / total / (b / norm)).ln() for a, b in zip(p, q, strict=True)))


SIZES = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("size", SIZES)
def test_the_divergence_is_that_of_its_definition(size: float) -> None:
    log_p, delta, mean = predictions(3, 60, size)
    found = divergence(log_p.float(), delta.float(), mean)
    assert found == pytest.approx(definition(log_p, delta), rel=1e-5, abs=0)
    assert all(0 < value < 20 * size**2 for value in found) or size > 1


@pytest.mark.parametrize("size", SIZES)
def test_half_precision_probabilities_cost_no_more_than_their_rounding(size: float) -> None:
    """Probabilities are off by up to 2**-9 of themselves times their logarithm's size."""
    log_p, delta, mean = predictions(3, 60, size)
    found = divergence(log_p.half(), delta.float(), mean)
    assert found == pytest.approx(definition(log_p, delta), rel=1e-3, abs=0)


@pytest.mark.parametrize("size", [1e-4, 0.1])
def test_changes_may_be_bfloat16(size: float) -> None:
    log_p, delta, _ = predictions(3, 60, size)
    delta = delta.bfloat16()
    mean = (log_p.exp() * delta.double()).sum(1).float()
    found = divergence(log_p.float(), delta, mean)
    assert found == pytest.approx(definition(log_p, delta), rel=1e-5, abs=0)


def test_what_is_common_to_a_row_does_not_matter() -> None:
    log_p, delta, mean = predictions(3, 60, 0.1)
    moved = divergence(log_p.float(), (delta + 7).float(), mean + 7)
    assert moved == pytest.approx(divergence(log_p.float(), delta.float(), mean), rel=1e-4, abs=0)


def test_nothing_changed_gives_exactly_zero() -> None:
    log_p, delta, mean = predictions(3, 60, 1.0)
    assert divergence(log_p.half(), 0 * delta.float(), 0 * mean) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("change", [float("nan"), float("inf"), float("-inf"), 1e6])
def test_what_has_no_probability_does_not_count(change: float) -> None:
    log_p, delta, mean = predictions(2, 60, 0.1)
    log_p[:, 3] = float("-inf")
    expected = divergence(log_p.float(), delta.float(), mean)
    delta[:, 3] = change
    assert divergence(log_p.float(), delta.float(), mean) == expected


def test_a_change_that_is_no_number_is_not_hidden() -> None:
    log_p, delta, mean = predictions(2, 60, 0.1)
    delta[1, 5] = float("nan")
    found = centred_exponential_excess(log_p.float(), delta.float(), mean)
    assert found.isnan().tolist() == [False, True]


def test_rows_in_chunks_are_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    log_p, delta, mean = predictions(7, 60, 0.1)
    whole = centred_exponential_excess(log_p.float(), delta.float(), mean)
    sizes: list[int] = []
    eager = kl._eager

    def spy(*part: Tensor) -> Tensor:
        sizes.append(part[0].numel())
        return eager(*part)

    monkeypatch.setattr(kl, "_eager", spy)
    monkeypatch.setattr(kl, "CACHED", 130)
    assert torch.equal(centred_exponential_excess(log_p.float(), delta.float(), mean), whole)
    assert sizes == [120, 120, 120, 60]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Small changes alone take a short cut, which must give the same digits."""
    log_p, delta, mean = (value.float() for value in predictions(4, 60, 0.05))
    alone = centred_exponential_excess(log_p, delta, mean)
    delta[2, 7] += 9.0
    among = centred_exponential_excess(log_p, delta, mean)
    assert torch.equal(among[[0, 1, 3]], alone[[0, 1, 3]])
    assert among[2] > alone[2]


@pytest.mark.parametrize("shape", [(0, 60), (3, 0)])
def test_nothing_has_no_divergence(shape: tuple[int, int]) -> None:
    log_p, mean = torch.zeros(shape), torch.zeros(shape[0])
    found = centred_exponential_excess(log_p, torch.zeros(shape), mean)
    assert found.tolist() == [0.0] * shape[0]


def test_the_arguments_are_left_as_they_were() -> None:
    log_p, delta, mean = (value.float() for value in predictions(3, 60, 0.1))
    before = log_p.clone(), delta.clone(), mean.clone()
    centred_exponential_excess(log_p, delta, mean)
    assert all(map(torch.equal, before, (log_p, delta, mean)))
