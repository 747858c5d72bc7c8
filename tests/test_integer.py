"""Integer ops against PyTorch's own quantized kernels, which nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

from quantspectrum.formats import PRESETS, Format, preset
from quantspectrum.integer import IntegerKernel, activation_qparams, weight_codes
from quantspectrum.simulation import OpPlan, Part, Simulation, op_error

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

INTEGER = ("inc", "inc-reduce-range")
SEEDS = st.integers(0, 2**31)


@pytest.fixture(autouse=True)
def qnnpack() -> Iterator[None]:
    """The engine whose sums are exact on every processor."""
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no QNNPACK")
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    yield
    torch.backends.quantized.engine = engine


def random(seed: int, *shape: int) -> Tensor:
    """Values whose rows differ in size and lie off centre."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn((*shape[:-1], 1), generator=rng)
    return torch.randn(shape, generator=rng) * rows.exp() + rows


def observed(x: Tensor, reduce_range: bool) -> tuple[float, int]:
    """Scale and zero point by torch.ao's observer, as INC makes it."""
    observer = MinMaxObserver(torch.quint8, reduce_range=reduce_range)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    return scale.item(), int(zero_point)


def quantized_weight(weight: Tensor) -> Tensor:
    observer = PerChannelMinMaxObserver(0, torch.qint8, torch.per_channel_symmetric)
    observer(weight)
    scale, zero_point = observer.calculate_qparams()
    return torch.quantize_per_channel(weight, scale, zero_point, 0, torch.qint8)


def torch_output(module: nn.Module, x: Tensor, calibration: Tensor, reduce_range: bool) -> Tensor:
    """The module's output from PyTorch's quantized kernel, with ranges of the calibration input."""
    quantized = torch.quantize_per_tensor(x, *observed(calibration, reduce_range), torch.quint8)
    scale, zero_point = observed(module(calibration), reduce_range)
    weight = quantized_weight(module.weight.detach())
    if isinstance(module, nn.Linear):
        packed = torch.ops.quantized.linear_prepack(weight, module.bias)
        return torch.ops.quantized.linear(quantized, packed, scale, zero_point).dequantize()
    packed = torch.ops.quantized.conv2d_prepack(weight, module.bias, [1, 1], [1, 1], [1, 1], 1)
    return torch.ops.quantized.conv2d(quantized, packed, scale, zero_point).dequantize()


def bounds(x: Tensor) -> tuple[float, float]:
    return x.min().item(), x.max().item()


def plan(module: nn.Module, name: str, calibration: Tensor) -> OpPlan:
    output = module(calibration)
    return OpPlan(format=preset(name), input_range=bounds(calibration), output_range=bounds(output))


def simulated(module: nn.Module, x: Tensor, made: OpPlan, part: Part = "both") -> Tensor:
    model = nn.Sequential(module)
    with Simulation(model, {"0": made}) as simulation:
        simulation.activate(["0"], {"0": part})
        return model(x)


def linear(seed: int, bias: bool, width: int = 24) -> nn.Linear:
    module = nn.Linear(width, 16, bias=bias)
    module.weight.data = random(seed, 16, width)
    if bias:
        module.bias.data = random(seed + 1, 16) * 3
    return module.requires_grad_(False)


def assert_same_codes(ours: Tensor, theirs: Tensor, scale: Tensor) -> None:
    """Equal but for one code in 10,000: versions of PyTorch differ in ties."""
    apart = ((ours - theirs) / scale).round().abs()
    assert apart.max() <= 1
    assert apart.count_nonzero() <= max(1, ours.numel() // 10_000)


def test_which_presets_compute_in_integers() -> None:
    assert {name for name, fmt in PRESETS.items() if fmt.integer} == set(INTEGER)


@pytest.mark.parametrize("part", ["weight", "activation", "output"])
def test_a_scheme_without_a_kernel_is_no_integer_one(part: str) -> None:
    fields = preset("inc").model_dump()
    fields[part]["symmetric"] = part != "weight"
    assert not Format.model_validate(fields).integer


@pytest.mark.parametrize("name", INTEGER)
@given(seed=SEEDS)
def test_scales_and_input_codes_are_torchs(name: str, seed: int) -> None:
    calibration, x = random(seed, 6, 11), random(seed + 1, 40, 50)
    scheme = preset(name).activation
    assert scheme is not None
    scale, zero_point = observed(calibration, name == "inc-reduce-range")
    ours = activation_qparams(bounds(calibration), scheme)
    assert (ours[0].item(), ours[1].item()) == (scale, zero_point)
    theirs = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
    codes = IntegerKernel(ours, ours).codes(x) + zero_point
    assert_same_codes(codes, theirs.int_repr().float(), torch.tensor(1.0))


@given(seed=SEEDS, shape=st.sampled_from([(6, 11), (5, 3, 2, 2)]))
def test_weight_codes_are_torchs(seed: int, shape: tuple[int, ...]) -> None:
    weight = random(seed, *shape)
    codes, scale = weight_codes(weight, preset("inc").weight)
    theirs = quantized_weight(weight)
    assert torch.equal(scale.flatten(), theirs.q_per_channel_scales().float())
    assert torch.equal(codes, theirs.int_repr())


def test_weights_too_small_for_a_scale_get_the_epsilon() -> None:
    weight = torch.tensor([[1e-6, -5e-7], [0.0, 0.0]])
    codes, scale = weight_codes(weight, preset("inc").weight)
    assert scale.flatten().tolist() == [torch.finfo(torch.float32).eps] * 2
    assert torch.equal(codes, quantized_weight(weight).int_repr())


@pytest.mark.parametrize("name", INTEGER)
@given(seed=SEEDS, bias=st.booleans(), rank=st.sampled_from([2, 3]))
def test_a_linear_is_torchs_quantized_linear(name: str, seed: int, bias: bool, rank: int) -> None:
    module = linear(seed, bias)
    shape = (2, 30, 24)[-rank:]
    # Other data than the calibration's: some of it lies outside the range.
    calibration, x = random(seed + 2, *shape), 1.5 * random(seed + 3, *shape)
    made = plan(module, name, calibration)
    theirs = torch_output(module, x, calibration, name == "inc-reduce-range")
    ours = simulated(module, x, made)
    assert_same_codes(ours, theirs, made.integer_kernel().output[0])


@given(seed=SEEDS)
def test_engine_x86_keeps_the_bias_as_it_is(seed: int) -> None:
    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no x86 engine")
    module = linear(seed, bias=True)
    # Within the range, where 7 bits overflow on no processor.
    x = random(seed + 2, 30, 24)
    made = replace(plan(module, "inc-reduce-range", x), rounds_bias=False)
    torch.backends.quantized.engine = "x86"
    try:
        theirs = torch_output(module, x, x, reduce_range=True)
    finally:
        torch.backends.quantized.engine = "qnnpack"
    assert_same_codes(simulated(module, x, made), theirs, made.integer_kernel().output[0])


def test_a_bias_between_two_integers_tells_the_engines_apart() -> None:
    calibration = torch.linspace(0, 1.27, 30).view(-1, 1)
    module = nn.Linear(1, 1).requires_grad_(False)
    module.weight.data, module.bias.data = torch.tensor([[0.01]]), torch.tensor([3.7e-7])
    made = plan(module, "inc-reduce-range", calibration)
    both = [simulated(module, calibration, replace(made, rounds_bias=r)) for r in (True, False)]
    assert made.integer_kernel().rounds_bias
    assert not torch.equal(*both)


@given(seed=SEEDS, bias=st.booleans())
def test_a_convolution_is_torchs_quantized_convolution(seed: int, bias: bool) -> None:
    module = nn.Conv2d(3, 5, 3, padding=1, bias=bias).requires_grad_(False)
    module.weight.data = random(seed, 5, 3, 3, 3)
    calibration, x = random(seed + 2, 2, 3, 6, 6), random(seed + 3, 2, 3, 6, 6)
    made = plan(module, "inc", calibration)
    theirs = torch_output(module, x, calibration, reduce_range=False)
    assert_same_codes(simulated(module, x, made), theirs, made.integer_kernel().output[0])


def test_sums_of_wide_layers_are_those_of_integers() -> None:
    """4,096 inputs: sums pass the integers that float32 holds exactly only where all agree."""
    module = linear(0, bias=True, width=4096)
    x = random(1, 64, 4096)
    made = plan(module, "inc", x)
    theirs = torch_output(module, x, x, reduce_range=False)
    assert_same_codes(simulated(module, x, made), theirs, made.integer_kernel().output[0])


@given(seed=SEEDS, bias=st.booleans())
def test_parts_leave_the_rest_in_high_precision(seed: int, bias: bool) -> None:
    module = linear(seed, bias)
    x = random(seed + 2, 30, 24)
    made = plan(module, "inc", x)
    weight = quantized_weight(module.weight).dequantize()
    only_weight = nn.functional.linear(x, weight, module.bias)
    torch.testing.assert_close(simulated(module, x, made, "weight"), only_weight)
    kernel = made.integer_kernel()
    received = torch.quantize_per_tensor(x, *observed(x, False), torch.quint8).dequantize()
    only_activations = torch.quantize_per_tensor(
        nn.functional.linear(received, module.weight, module.bias),
        *observed(module(x), False),
        torch.quint8,
    ).dequantize()
    ours = simulated(module, x, made, "activation")
    assert_same_codes(ours, only_activations, kernel.output[0])


@given(seed=SEEDS, bias=st.booleans())
def test_the_error_of_an_op_is_what_the_simulation_changes(seed: int, bias: bool) -> None:
    module = linear(seed, bias)
    x = random(seed + 2, 30, 24)
    made = plan(module, "inc", x)
    torch.testing.assert_close(
        op_error(module, made, x), simulated(module, x, made) - module(x), rtol=0, atol=0
    )


def test_siblings_of_another_kind_of_format_get_their_own_input() -> None:
    """Inputs are remembered for ops that quantize them alike; codes are no values."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = linear(0, bias=False), linear(1, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x)

    model, x = Pair(), random(2, 30, 24)
    plans = {
        "first": plan(model.first, "inc", x),
        "second": OpPlan(format=preset("w8a8-static-affine"), input_range=bounds(x)),
    }
    with Simulation(model, plans) as simulation:
        simulation.activate_all()
        first, second = model(x)
    assert torch.equal(first, simulated(model.first, x, plans["first"]))
    assert torch.equal(second, simulated(model.second, x, plans["second"]))


def test_kept_codes_change_nothing() -> None:
    module, x = linear(0, bias=True), random(2, 30, 24)
    made, model = plan(module, "inc", x), nn.Sequential(module)
    outputs = []
    for room in (0, 10**6):
        with Simulation(model, {"0": made}, cache_bytes=room) as simulation:
            simulation.activate_all()
            outputs += [model(x), model(x)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert not torch.equal(outputs[0], module(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_get_their_own_type_back(dtype: torch.dtype) -> None:
    module, x = linear(0, bias=True), random(2, 30, 24)
    made = plan(module, "inc", x)
    half = linear(0, bias=True).to(dtype)
    output = simulated(half, x.to(dtype), made)
    assert output.dtype == dtype
    full = simulated(module, x, made)
    assert torch.linalg.vector_norm(output.float() - full) < 0.02 * torch.linalg.vector_norm(full)
