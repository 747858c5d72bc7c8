"""The arithmetic of others, which ours must equal bit for bit in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization import dequantize as their_dequantize
from compressed_tensors.quantization import fake_quantize as their_fake_quantize
from compressed_tensors.quantization import quantize as their_quantize
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

from quantspectrum.formats import TensorScheme, preset
from quantspectrum.quantizer import (
    dequantize,
    fake_quantize,
    fake_quantize_input,
    fake_quantize_weight,
    input_qparams,
    qparams,
    quantize,
    weight_qparams,
)


def random(seed: int, *shape: int) -> Tensor:
    """Values whose rows differ in size and lie off centre."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn((*shape[:-1], 1), generator=rng)
    return torch.randn(shape, generator=rng) * (4 * rows).exp() + rows


def arguments(scheme: TensorScheme) -> QuantizationArgs:
    return QuantizationArgs(
        num_bits=scheme.bits,
        type=scheme.kind,
        symmetric=scheme.symmetric,
        strategy=scheme.granularity,
        group_size=scheme.group_size,
        dynamic=scheme.dynamic,
    )


@given(
    seed=st.integers(0, 2**31),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    data=st.data(),
)
def test_compressed_tensors_per_tensor(
    seed: int, bits: int, symmetric: bool, data: st.DataObject
) -> None:
    shape = data.draw(st.sampled_from([(3, 7), (2, 5, 8)]))
    x = random(seed, *shape)
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    args = arguments(scheme)
    scale, zero_point = calculate_qparams(x.amin(), x.amax(), args)
    ours = qparams(x.amin(), x.amax(), scheme)
    assert torch.equal(ours[0], scale[0])
    assert torch.equal(ours[1], zero_point[0].float())
    theirs = their_fake_quantize(x, scale, zero_point, args)
    assert torch.equal(fake_quantize(x, *ours, scheme), theirs)


@given(seed=st.integers(0, 2**31), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
def test_compressed_tensors_per_channel(seed: int, bits: int, symmetric: bool) -> None:
    x = random(seed, 6, 11)
    scheme = TensorScheme(bits=bits, granularity="channel", symmetric=symmetric)
    args = arguments(scheme)
    scale, zero_point = calculate_qparams(x.amin(1, keepdim=True), x.amax(1, keepdim=True), args)
    ours = weight_qparams(x, scheme)
    assert torch.equal(ours[0], scale)
    assert torch.equal(ours[1], zero_point.float())
    theirs = their_fake_quantize(x, scale, zero_point, args)
    assert torch.equal(fake_quantize(x, *ours, scheme), theirs)


@given(seed=st.integers(0, 2**31), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
def test_compressed_tensors_per_token(seed: int, bits: int, symmetric: bool) -> None:
    # With three dimensions: with two, the library takes one scale for all tokens.
    x = random(seed, 2, 5, 11)
    scheme = TensorScheme(bits=bits, granularity="token", symmetric=symmetric, dynamic=True)
    args = arguments(scheme)
    scale, zero_point = compute_dynamic_scales_and_zp(x, args, torch.nn.Identity())
    ours = input_qparams(x, scheme)
    assert torch.equal(ours[0], scale)
    assert torch.equal(ours[1], zero_point.float())
    theirs = their_fake_quantize(x, scale, zero_point, args)
    assert torch.equal(fake_quantize(x, *ours, scheme), theirs)


@given(seed=st.integers(0, 2**31))
def test_compressed_tensors_fp8_per_channel(seed: int) -> None:
    x = random(seed, 6, 11)
    scheme = preset("fp8").weight
    args = arguments(scheme)
    scale, zero_point = calculate_qparams(x.amin(1, keepdim=True), x.amax(1, keepdim=True), args)
    ours = weight_qparams(x, scheme)
    assert torch.equal(ours[0], scale)
    assert torch.equal(fake_quantize(x, *ours, scheme), their_fake_quantize(x, scale, None, args))
    theirs = their_quantize(x, scale, zero_point, args, dtype=torch.float8_e4m3fn)
    codes = quantize(x, *ours, scheme)
    assert torch.equal(codes.view(torch.uint8), theirs.view(torch.uint8))


@given(seed=st.integers(0, 2**31))
def test_compressed_tensors_fp8_per_token(seed: int) -> None:
    x = random(seed, 2, 5, 11)
    scheme = preset("fp8").activation
    assert scheme is not None
    args = arguments(scheme)
    scale, _ = compute_dynamic_scales_and_zp(x, args, torch.nn.Identity())
    assert torch.equal(input_qparams(x, scheme)[0], scale)
    assert torch.equal(fake_quantize_input(x, scheme), their_fake_quantize(x, scale, None, args))


@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8), symmetric=st.booleans())
def test_compressed_tensors_in_groups(seed: int, bits: int, symmetric: bool) -> None:
    x = random(seed, 6, 12)
    scheme = TensorScheme(bits=bits, granularity="group", group_size=4, symmetric=symmetric)
    args = arguments(scheme)
    groups = x.unflatten(1, (3, 4))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    ours = weight_qparams(x, scheme)
    assert torch.equal(ours[0], scale)
    assert torch.equal(ours[1], zero_point.float())
    theirs = their_fake_quantize(x, scale, zero_point, args)
    assert torch.equal(fake_quantize_weight(x, scheme), theirs)
    codes = their_quantize(x, scale, zero_point, args, dtype=torch.int8)
    assert torch.equal(quantize(x, *ours, scheme), codes)


def observed(x: Tensor, observer: Any) -> tuple[Tensor, Tensor]:
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    return scale, zero_point


@pytest.mark.parametrize(("name", "reduce_range"), [("inc", False), ("inc-reduce-range", True)])
@given(seed=st.integers(0, 2**31))
@pytest.mark.filterwarnings("ignore:Please use quant_min")
def test_torch_ao_observer_of_incs_activations(name: str, reduce_range: bool, seed: int) -> None:
    """Theirs is uint8, ours int8: the same grid, the zero point moved by half the codes."""
    x = random(seed, 6, 11)
    scheme = preset(name).activation
    assert scheme == preset(name).output
    assert scheme is not None
    scale, zero_point = observed(x, MinMaxObserver(torch.quint8, reduce_range=reduce_range))
    ours = qparams(x.amin(), x.amax(), scheme)
    assert torch.equal(ours[0], scale[0])
    assert ours[1].item() - scheme.qmin == zero_point.item()
    theirs = torch.quantize_per_tensor(x, scale.item(), int(zero_point), torch.quint8).int_repr()
    assert_codes_equal(quantize(x, *ours, scheme).int() - scheme.qmin, theirs, x, scale)


@given(seed=st.integers(0, 2**31))
def test_torch_ao_observer_of_incs_weights(seed: int) -> None:
    x = random(seed, 6, 11)
    scheme = preset("inc").weight
    observer = PerChannelMinMaxObserver(0, torch.qint8, torch.per_channel_symmetric)
    scale, zero_point = observed(x, observer)
    ours = weight_qparams(x, scheme)
    assert torch.equal(ours[0].flatten(), scale)
    assert not zero_point.any()
    theirs = torch.quantize_per_channel(x, scale, zero_point, 0, torch.qint8).int_repr()
    assert_codes_equal(quantize(x, *ours, scheme).int(), theirs, x, scale[:, None])


def test_torch_ao_raises_scales_below_the_epsilon_and_we_do_not() -> None:
    weight = torch.tensor([[1e-6, -5e-7], [1e-4, 0.0]])
    observer = PerChannelMinMaxObserver(0, torch.qint8, torch.per_channel_symmetric)
    scale, _ = observed(weight, observer)
    ours = weight_qparams(weight, preset("inc").weight)[0].flatten()
    epsilon = torch.finfo(torch.float32).eps
    assert ours[0] < epsilon
    assert scale.tolist() == [epsilon, ours[1].item()]


def assert_codes_equal(ours: Tensor, theirs: Tensor, x: Tensor, scale: Tensor) -> None:
    """Equal, but for ties: torch multiplies by the rounded inverse of the scale."""
    assert ((ours - theirs.int()).abs() <= 1).all()
    steps = x.double() / scale.double()
    tie = ((steps - steps.floor()) - 0.5).abs() < 1e-4
    assert torch.equal(ours[~tie], theirs.int()[~tie])


def powers_of_two(seed: int, count: int) -> Tensor:
    """Scales whose inverse is exact, for kernels that multiply where we divide."""
    exponents = torch.randint(-6, 3, (count,), generator=torch.Generator().manual_seed(seed))
    return 2.0**exponents


@given(seed=st.integers(0, 2**31))
def test_torch_per_channel(seed: int) -> None:
    x, scale = random(seed, 6, 11), powers_of_two(seed, 6)
    # Even zero points: torch rounds before adding them, we after, and then ties fall alike.
    zero_point = 2 * torch.randint(-64, 64, (6,), generator=torch.Generator().manual_seed(seed))
    theirs = torch.fake_quantize_per_channel_affine(x, scale, zero_point.int(), 0, -128, 127)
    scheme = TensorScheme(granularity="channel", symmetric=False)
    ours = fake_quantize(x, scale[:, None], zero_point.float()[:, None], scheme)
    assert torch.equal(ours, theirs)


@given(seed=st.integers(0, 2**31), half=st.integers(-64, 63))
def test_torch_per_tensor(seed: int, half: int) -> None:
    x, scale, zero_point = random(seed, 6, 11), powers_of_two(seed, 1)[0], 2 * half
    theirs = torch.fake_quantize_per_tensor_affine(x, float(scale), zero_point, -128, 127)
    scheme = TensorScheme(symmetric=False)
    assert torch.equal(fake_quantize(x, scale, torch.tensor(float(zero_point)), scheme), theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compressed_tensors_reads_our_codes_as_the_same_weight(dtype: torch.dtype) -> None:
    weight = random(0, 16, 32).to(dtype)
    scheme = TensorScheme(granularity="channel")
    scale, zero_point = weight_qparams(weight, scheme)
    codes = quantize(weight, scale, zero_point, scheme)
    theirs: Any = their_dequantize(codes, scale.to(dtype), args=arguments(scheme))
    assert torch.equal(dequantize(codes, scale, zero_point, scheme, dtype), theirs)
