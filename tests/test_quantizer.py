"""Properties of the quantization arithmetic; what others compute is in test_quantizer_oracles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantspectrum.formats import TensorScheme
from quantspectrum.quantizer import (
    dequantize,
    fake_quantize,
    input_qparams,
    qparams,
    quantize,
    weight_qparams,
)

# Half a step, and the rounding of x / scale at up to 128 in float32.
HALF_STEP = 0.5 + 2**-15

numbers = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@st.composite
def tensors(draw: st.DrawFn, rows: int = 4) -> Tensor:
    """A float32 matrix whose rows may differ by many orders of magnitude."""
    width = draw(st.integers(1, 9))
    row = st.lists(numbers, min_size=width, max_size=width)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=rows)))


@st.composite
def schemes(draw: st.DrawFn, *granularities: Any) -> TensorScheme:
    granularity = draw(st.sampled_from(granularities or ("tensor", "token")))
    return TensorScheme(
        bits=draw(st.integers(2, 8)),
        granularity=granularity,
        symmetric=draw(st.booleans()),
        dynamic=granularity == "token",
    )


def measured(x: Tensor, scheme: TensorScheme) -> tuple[Tensor, Tensor]:
    return (
        weight_qparams(x, scheme) if scheme.granularity == "channel" else input_qparams(x, scheme)
    )


@given(x=tensors(), scheme=schemes("tensor", "token", "channel"))
def test_error_is_at_most_half_a_step(x: Tensor, scheme: TensorScheme) -> None:
    scale, zero_point = measured(x, scheme)
    error = (fake_quantize(x, scale, zero_point, scheme).double() - x.double()).abs()
    assert (error <= HALF_STEP * scale.double()).all()


@given(
    x=tensors(),
    scheme=schemes("tensor"),
    scale=st.floats(2**-20, 2**20, width=32),
    zero_point=st.integers(-128, 127),
)
def test_error_is_at_most_half_a_step_where_nothing_clips(
    x: Tensor, scheme: TensorScheme, scale: float, zero_point: int
) -> None:
    zero = 0 if scheme.symmetric else max(scheme.qmin, min(scheme.qmax, zero_point))
    steps = x.double() / scale + zero
    inside = (steps >= scheme.qmin) & (steps <= scheme.qmax)
    found = fake_quantize(x, torch.tensor(scale), torch.tensor(float(zero)), scheme)
    error = (found.double() - x.double()).abs()
    assert (error[inside] <= HALF_STEP * scale).all()


@given(x=tensors(), scheme=schemes("tensor"))
def test_what_is_beyond_the_range_becomes_its_end(x: Tensor, scheme: TensorScheme) -> None:
    zero_point = torch.tensor(0.0 if scheme.symmetric else 1.0)
    codes = quantize(x, torch.tensor(0.5), zero_point, scheme)
    assert (codes[x >= 100] == scheme.qmax).all()
    assert (codes[x <= -100] == scheme.qmin).all()


@given(
    scheme=schemes("tensor"),
    scale=st.floats(2**-20, 2**20, width=32),
    zero_point=st.integers(-128, 127),
)
def test_values_on_the_grid_survive_exactly(
    scheme: TensorScheme, scale: float, zero_point: int
) -> None:
    zero = 0 if scheme.symmetric else max(scheme.qmin, min(scheme.qmax, zero_point))
    codes = torch.arange(scheme.qmin, scheme.qmax + 1, dtype=torch.int8)
    parameters = torch.tensor(scale), torch.tensor(float(zero))
    x = dequantize(codes, *parameters, scheme, torch.float32)
    assert torch.equal(quantize(x, *parameters, scheme), codes)
    assert torch.equal(fake_quantize(x, *parameters, scheme), x)


@pytest.mark.parametrize("shift", [0, -100, 128])
def test_integers_survive_with_the_affine_range_measured_on_them(shift: int) -> None:
    scheme = TensorScheme(symmetric=False)
    x = torch.arange(-128.0, 128.0) + shift
    scale, zero_point = input_qparams(x, scheme)
    assert (scale.item(), zero_point.item()) == (1.0, -shift)
    assert torch.equal(fake_quantize(x, scale, zero_point, scheme), x)


def test_integers_survive_with_the_symmetric_range_measured_on_them() -> None:
    scheme = TensorScheme()
    # 255 steps from -127.5 to 127.5: a step is 1.
    x = torch.cat([torch.arange(-127.0, 128.0), torch.tensor([-127.5])])
    scale, zero_point = input_qparams(x, scheme)
    assert scale.item() == 1.0
    assert torch.equal(fake_quantize(x, scale, zero_point, scheme)[:-1], x[:-1])


@given(x=tensors(), scheme=schemes("tensor", "token", "channel"))
def test_quantizing_again_changes_nothing(x: Tensor, scheme: TensorScheme) -> None:
    parameters = measured(x, scheme)
    once = fake_quantize(x, *parameters, scheme)
    assert torch.equal(fake_quantize(once, *parameters, scheme), once)


@given(x=tensors(), scheme=schemes("tensor", "token", "channel"))
def test_fake_quantization_is_a_round_trip(x: Tensor, scheme: TensorScheme) -> None:
    parameters = measured(x, scheme)
    codes = quantize(x, *parameters, scheme)
    assert codes.dtype == torch.int8
    assert scheme.qmin <= int(codes.min()) <= int(codes.max()) <= scheme.qmax
    # Adding 0 makes -0 and 0 the same.
    found = dequantize(codes, *parameters, scheme, torch.float32)
    assert torch.equal(found + 0, fake_quantize(x, *parameters, scheme) + 0)


@given(x=tensors(), granularity=st.sampled_from(["tensor", "token"]))
def test_symmetric_codes_of_the_negative_are_the_negative(x: Tensor, granularity: Any) -> None:
    scheme = TensorScheme(granularity=granularity, dynamic=granularity == "token")
    scale, zero_point = input_qparams(x, scheme)
    negative_scale, _ = input_qparams(-x, scheme)
    assert torch.equal(scale, negative_scale)
    assert not zero_point.any()
    codes = quantize(x, scale, zero_point, scheme).int()
    negative = quantize(-x, scale, zero_point, scheme).int()
    # The largest magnitude lies at 127.5 steps, between the codes there are on its two sides.
    edge = (x / scale).abs() >= scheme.qmax
    assert torch.equal(negative[~edge], -codes[~edge])
    assert ((negative + codes)[edge].abs() <= 1).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "token", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_stay_zeros(granularity: Any, symmetric: bool, dtype: torch.dtype) -> None:
    scheme = TensorScheme(
        granularity=granularity, symmetric=symmetric, dynamic=granularity == "token"
    )
    x = torch.zeros(3, 5, dtype=dtype)
    parameters = measured(x, scheme)
    assert torch.isfinite(parameters[0]).all()
    assert torch.equal(fake_quantize(x, *parameters, scheme), x)


@given(x=tensors(), scheme=schemes("tensor", "token", "channel"))
def test_zero_is_always_on_the_grid(x: Tensor, scheme: TensorScheme) -> None:
    parameters = measured(x, scheme)
    assert not fake_quantize(torch.zeros_like(x), *parameters, scheme).any()


@given(x=tensors(), symmetric=st.booleans())
def test_a_token_has_its_own_scale(x: Tensor, symmetric: bool) -> None:
    scheme = TensorScheme(granularity="token", dynamic=True, symmetric=symmetric)
    together = fake_quantize(x, *input_qparams(x, scheme), scheme)
    alone = [fake_quantize(row, *input_qparams(row, scheme), scheme) for row in x]
    assert torch.equal(together, torch.stack(alone))


@given(x=tensors(), symmetric=st.booleans())
def test_a_channel_has_its_own_scale(x: Tensor, symmetric: bool) -> None:
    scheme = TensorScheme(granularity="channel", symmetric=symmetric)
    whole = TensorScheme(granularity="tensor", symmetric=symmetric)
    together = fake_quantize(x, *weight_qparams(x, scheme), scheme)
    alone = [fake_quantize(row, *weight_qparams(row, whole), whole) for row in x]
    assert torch.equal(together, torch.stack(alone))


def test_channel_scales_of_a_convolution_broadcast_over_its_kernels() -> None:
    weight = torch.randn(5, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    scheme = TensorScheme(granularity="channel")
    scale, _ = weight_qparams(weight, scheme)
    assert scale.shape == (5, 1, 1, 1, 1)
    assert torch.equal(scale.flatten(), 2 * weight.flatten(1).abs().amax(1) / 255)


def test_token_scales_are_one_for_each_vector() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    scale, zero_point = input_qparams(x, TensorScheme(granularity="token", dynamic=True))
    assert scale.shape == zero_point.shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "scale", "zero_point"),
    [
        (-1.0, 1.0, True, 2 / 255, 0),
        (-0.5, 1.0, True, 2 / 255, 0),
        (-2.0, 1.0, True, 4 / 255, 0),
        (0.0, 255.0, False, 1.0, -128),
        (-255.0, 0.0, False, 1.0, 127),
        (-55.0, 200.0, False, 1.0, -73),
        # 0 is put inside the range.
        (51.0, 255.0, False, 1.0, -128),
        (-255.0, -51.0, False, 1.0, 127),
        (3.0, 5.0, True, 10 / 255, 0),
    ],
)
def test_known_parameters(
    low: float, high: float, symmetric: bool, scale: float, zero_point: int
) -> None:
    found = qparams(torch.tensor(low), torch.tensor(high), TensorScheme(symmetric=symmetric))
    assert found[0].item() == torch.tensor(scale).item()
    assert found[1].item() == zero_point


def test_ties_go_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    codes = quantize(x, torch.tensor(1.0), torch.tensor(0.0), TensorScheme())
    assert codes.tolist() == [-2, -2, 0, 0, 2, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    scheme = TensorScheme(granularity="token", dynamic=True)
    found = fake_quantize(x, *input_qparams(x, scheme), scheme)
    wide = fake_quantize(x.float(), *input_qparams(x.float(), scheme), scheme)
    assert found.dtype == dtype
    assert torch.equal(found, wide.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weight_scales_are_numbers_of_the_weights_type(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    scale, _ = weight_qparams(weight, TensorScheme(granularity="channel"))
    assert scale.dtype == torch.float32
    assert torch.equal(scale.to(dtype).float(), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_scale_is_never_zero(dtype: torch.dtype) -> None:
    # In float16 the scale of such a channel is smaller than the smallest number.
    weight = torch.tensor([[1e-6, 0.0, -5e-7], [1.0, 0.0, -1.0]]).to(dtype)
    scheme = TensorScheme(granularity="channel")
    scale, zero_point = weight_qparams(weight, scheme)
    assert (scale > 0).all()
    assert torch.isfinite(fake_quantize(weight, scale, zero_point, scheme)).all()


def test_a_value_that_is_no_number_is_not_hidden() -> None:
    scheme = TensorScheme(granularity="token", dynamic=True)
    x = torch.tensor([[1.0, float("nan"), 2.0], [1.0, -3.0, 2.0]])
    found = fake_quantize(x, *input_qparams(x, scheme), scheme)
    assert found[0].isnan().any()
    assert torch.isfinite(found[1]).all()


@given(x=tensors(), scheme=schemes("tensor", "token"))
def test_the_input_is_left_as_it_was(x: Tensor, scheme: TensorScheme) -> None:
    before = x.clone()
    parameters = input_qparams(x, scheme)
    fake_quantize(x, *parameters, scheme)
    quantize(x, *parameters, scheme)
    assert torch.equal(x, before)
