"""Float codes, weights in groups, and the one-step fake-quantization of weights and inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantspectrum.formats import PRESETS, TensorScheme
from quantspectrum.quantizer import (
    dequantize,
    fake_quantize,
    fake_quantize_input,
    fake_quantize_weight,
    input_qparams,
    quantize,
    weight_qparams,
)

FLOAT8 = TensorScheme(kind="float")
FLOAT8_CHANNEL = TensorScheme(kind="float", granularity="channel")
FLOAT8_TOKEN = TensorScheme(kind="float", granularity="token", dynamic=True)
HALF_STEP = 0.5 + 2**-15

numbers = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@st.composite
def matrices(draw: st.DrawFn, width: int | None = None) -> Tensor:
    width = width or draw(st.integers(1, 9))
    row = st.lists(numbers, min_size=width, max_size=width)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=4)))


@st.composite
def grouped_schemes(draw: st.DrawFn) -> TensorScheme:
    kind = draw(st.sampled_from(["int", "float"]))
    return TensorScheme(
        kind=kind,
        bits=draw(st.integers(2, 8)) if kind == "int" else 8,
        granularity="group",
        group_size=draw(st.integers(1, 10)),
        symmetric=kind == "float" or draw(st.booleans()),
    )


def all_float8() -> Tensor:
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(torch.float8_e4m3fn)
    values = codes.float()
    return values[~values.isnan()]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values whose rows differ in size and lie off centre."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn((*shape[:-1], 1), generator=rng)
    return (torch.randn(shape, generator=rng) * (2 * rows).exp() + rows).to(dtype)


# --- FP8 ---------------------------------------------------------------------------------


@given(x=matrices(), scheme=st.sampled_from([FLOAT8, FLOAT8_TOKEN]))
def test_float_error_is_at_most_half_a_unit_in_the_last_place(
    x: Tensor, scheme: TensorScheme
) -> None:
    scale, zero_point = input_qparams(x, scheme)
    exact = x.double()
    error = (fake_quantize(x, scale, zero_point, scheme).double() - exact).abs()
    # Three bits of mantissa; below 2**-6 steps are 2**-9.
    bound = torch.maximum(exact.abs() / 16, scale.double() * 2**-10)
    assert (error <= bound * (1 + 2**-20)).all()


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
def test_float_values_on_the_grid_survive_exactly(scale: float) -> None:
    x, parameters = all_float8() * scale, (torch.tensor(scale), torch.tensor(0.0))
    assert x.numel() == 254
    assert torch.equal(fake_quantize(x, *parameters, FLOAT8), x)
    assert torch.equal(quantize(x, *parameters, FLOAT8).float() * scale, x)


def test_float_codes_saturate() -> None:
    x = torch.tensor([1e6, 449.0, 464.0, 480.0, -1e6, -465.0, float("inf")])
    codes = quantize(x, torch.tensor(1.0), torch.tensor(0.0), FLOAT8)
    assert codes.dtype == torch.float8_e4m3fn
    assert codes.float().tolist() == [448, 448, 448, 448, -448, -448, 448]


def test_float_ties_go_to_even() -> None:
    x = torch.tensor([17.0, 19.0, 21.0, -17.0, -19.0, 3 * 2**-10])
    found = fake_quantize(x, torch.tensor(1.0), torch.tensor(0.0), FLOAT8)
    assert found.tolist() == [16, 20, 20, -16, -20, 2 * 2**-9]


def test_the_largest_float_code_is_the_largest_value() -> None:
    x = torch.tensor([[-7.0, 0.5], [0.25, 896.0]])
    assert weight_qparams(x, FLOAT8_CHANNEL)[0].flatten().tolist() == [7 / 448, 2.0]


@given(x=matrices())
def test_float_fake_quantization_is_a_round_trip_and_idempotent(x: Tensor) -> None:
    parameters = weight_qparams(x, FLOAT8_CHANNEL)
    once = fake_quantize(x, *parameters, FLOAT8_CHANNEL)
    codes = quantize(x, *parameters, FLOAT8_CHANNEL)
    assert codes.element_size() == 1
    assert torch.equal(dequantize(codes, *parameters, FLOAT8_CHANNEL, torch.float32), once)
    assert torch.equal(fake_quantize(once, *parameters, FLOAT8_CHANNEL), once)


# --- groups ------------------------------------------------------------------------------


def group_slices(weight: Tensor, size: int) -> list[Tensor]:
    return list(weight.flatten(1).split(size, 1))


@given(x=matrices(), scheme=grouped_schemes())
def test_a_group_is_a_channel_of_its_own(x: Tensor, scheme: TensorScheme) -> None:
    """Whatever the number of inputs: the last group may be smaller."""
    fields = scheme.model_dump() | {"granularity": "channel", "group_size": None}
    channel = TensorScheme.model_validate(fields)
    scale, zero_point = weight_qparams(x, scheme)
    assert scheme.group_size is not None
    slices = group_slices(x, scheme.group_size)
    parameters = [weight_qparams(part, channel) for part in slices]
    assert torch.equal(scale, torch.cat([p[0] for p in parameters], 1))
    assert torch.equal(zero_point, torch.cat([p[1] for p in parameters], 1))
    assert scale.shape == (x.shape[0], len(slices))
    alone = [fake_quantize(*both, channel) for both in zip_flat(slices, parameters)]
    assert torch.equal(fake_quantize(x, scale, zero_point, scheme), torch.cat(alone, 1))


def zip_flat(slices: list[Tensor], parameters: list[tuple[Tensor, Tensor]]) -> Any:
    return [(part, *both) for part, both in zip(slices, parameters, strict=True)]


@given(x=matrices(), scheme=grouped_schemes())
def test_fake_quantization_in_groups_is_a_round_trip_and_idempotent(
    x: Tensor, scheme: TensorScheme
) -> None:
    parameters = weight_qparams(x, scheme)
    once = fake_quantize(x, *parameters, scheme)
    codes = quantize(x, *parameters, scheme)
    assert codes.shape == once.shape == x.shape
    assert codes.element_size() == 1
    assert torch.equal(dequantize(codes, *parameters, scheme, torch.float32) + 0, once + 0)
    assert torch.equal(fake_quantize(once, *parameters, scheme), once)


@given(x=matrices(width=8), bits=st.integers(2, 8), symmetric=st.booleans())
def test_error_in_a_group_is_at_most_half_its_step(x: Tensor, bits: int, symmetric: bool) -> None:
    scheme = TensorScheme(bits=bits, granularity="group", group_size=4, symmetric=symmetric)
    scale, zero_point = weight_qparams(x, scheme)
    error = (fake_quantize(x, scale, zero_point, scheme).double() - x.double()).abs()
    assert (error <= HALF_STEP * scale.double().repeat_interleave(4, 1)).all()


def test_groups_of_a_convolution_run_along_its_flattened_inputs() -> None:
    weight = random(5, 3, 2, 4, 4)
    scheme = TensorScheme(bits=4, granularity="group", group_size=32)
    scale, zero_point = weight_qparams(weight, scheme)
    assert scale.shape == (5, 3)
    found = fake_quantize(weight, scale, zero_point, scheme)
    flat = fake_quantize(weight.flatten(1), scale, zero_point, scheme)
    assert torch.equal(found, flat.reshape(weight.shape))
    codes = quantize(weight, scale, zero_point, scheme)
    assert torch.equal(dequantize(codes, scale, zero_point, scheme, torch.float32) + 0, found + 0)


def test_a_group_as_long_as_the_row_is_the_channel() -> None:
    weight = random(6, 11)
    grouped = TensorScheme(granularity="group", group_size=11)
    channel = TensorScheme(granularity="channel")
    assert torch.equal(fake_quantize_weight(weight, grouped), fake_quantize_weight(weight, channel))


# --- in one step -------------------------------------------------------------------------


@pytest.mark.parametrize("scale_dtype", [None, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", PRESETS.values(), ids=PRESETS)
def test_a_fake_quantized_weight_is_what_its_codes_stand_for(
    fmt: Any, dtype: torch.dtype, scale_dtype: torch.dtype | None
) -> None:
    weight = random(6, 300, dtype=dtype)
    before = weight.clone()
    parameters = weight_qparams(weight, fmt.weight, scale_dtype)
    codes = quantize(weight, *parameters, fmt.weight)
    expected = dequantize(codes, *parameters, fmt.weight, dtype)
    found = fake_quantize_weight(weight, fmt.weight, scale_dtype)
    assert found.dtype == dtype
    assert torch.equal(found + 0, expected + 0)
    assert torch.equal(weight, before)
    kept = scale_dtype or dtype
    assert torch.equal(parameters[0].to(kept).float(), parameters[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "scheme",
    [FLOAT8_TOKEN, TensorScheme(granularity="token", dynamic=True), TensorScheme(dynamic=True)],
)
def test_a_fake_quantized_input_has_its_own_scales(
    scheme: TensorScheme, dtype: torch.dtype
) -> None:
    x = random(2, 7, 33, dtype=dtype)
    expected = fake_quantize(x, *input_qparams(x, scheme), scheme)
    found = fake_quantize_input(x, scheme)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert not torch.equal(found, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", PRESETS.values(), ids=PRESETS)
def test_zero_weights_stay_zeros(fmt: Any, dtype: torch.dtype) -> None:
    weight = torch.zeros(3, 130, dtype=dtype)
    assert torch.equal(fake_quantize_weight(weight, fmt.weight), weight)
