from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models_tiny
from quantspectrum.formats import PRESETS, Format, TensorScheme, preset
from quantspectrum.quantizer import input_qparams
from quantspectrum.simulation import InputQuantizer, OpPlan, Simulation, serving_input_quantizer

DYNAMIC = OpPlan(format=preset("w8a8"))
FIRST, SECOND = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


# Ranges of 255 steps of 1/64, a scale that every type holds exactly.
RANGES = {"w8a8-static": (-1.5, 255 / 128), "w8a8-static-affine": (-1.5, 255 / 64 - 1.5)}


def plan(name: str) -> OpPlan:
    return OpPlan(format=preset(name), input_range=RANGES.get(name))


def reference_fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | float, dtype: torch.dtype
) -> Tensor:
    codes = torch.clamp(torch.round(x.float() / scale + zero_point), -128, 127)
    return ((codes - zero_point) * scale).to(dtype)


def reference_weight(weight: Tensor) -> Tensor:
    """Symmetric, one scale an output channel, rounded to the weight's type."""
    flat = weight.float().flatten(1)
    scale = (flat.abs().amax(1, keepdim=True) * 2 / 255).to(weight.dtype).float()
    return reference_fake_quantize(flat, scale, 0.0, weight.dtype).reshape(weight.shape)


def reference_input(x: Tensor, name: str) -> Tensor:
    if name == "w8a8":
        scale = x.float().abs().amax(-1, keepdim=True) * 2 / 255
        return reference_fake_quantize(x, scale, 0.0, x.dtype)
    zero_point = 0.0 if name == "w8a8-static" else -128 + 1.5 * 64
    return reference_fake_quantize(x, torch.tensor(1 / 64), zero_point, x.dtype)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Holder(nn.Module):
    """A model of one op."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.op(x)
        return found


def simulated(op: nn.Module, how: OpPlan, x: Tensor) -> Tensor:
    with torch.inference_mode(), Simulation(Holder(op), {"op": how}) as simulation:
        simulation.activate_all()
        found: Tensor = op(x)
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", models_tiny.FORMATS)
def test_linear_equals_an_independent_reference(name: str, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    op = nn.Linear(24, 10, bias=bias).to(dtype)
    x = random(3, 5, 24).to(dtype)
    expected = functional.linear(reference_input(x, name), reference_weight(op.weight), op.bias)
    assert torch.equal(simulated(op, plan(name), x), expected)


@pytest.mark.parametrize("name", models_tiny.FORMATS)
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (2, 4, 9, 9)),
        (nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4), bias=False), (5, 3, 2, 4, 4)),
    ],
    ids=["Conv1d", "Conv2d", "Conv2d reflecting", "Conv3d"],
)
def test_convolutions_equal_an_independent_reference(
    op: nn.Module, shape: tuple[int, ...], name: str
) -> None:
    x = random(*shape)
    quantized: Any = type(op)(
        op.in_channels,
        op.out_channels,
        op.kernel_size,
        op.stride,
        op.padding,
        groups=op.groups,
        bias=op.bias is not None,
        padding_mode=op.padding_mode,
    )
    quantized.load_state_dict(op.state_dict())
    quantized.weight.data = reference_weight(op.get_parameter("weight").detach())
    with torch.inference_mode():
        expected = quantized(reference_input(x, name))
    assert torch.equal(simulated(op, plan(name), x), expected)


def test_weight_only_leaves_the_input_alone() -> None:
    op, x = nn.Linear(8, 4), random(2, 8)
    how = OpPlan(format=Format(name="w8", weight=TensorScheme(granularity="channel")))
    expected = functional.linear(x, reference_weight(op.weight), op.bias)
    assert torch.equal(simulated(op, how, x), expected)


@pytest.mark.parametrize("name", ["w8a8-static", "w8a8-static-affine"])
def test_a_missing_range_is_refused(llama: nn.Module, name: str) -> None:
    with pytest.raises(ValueError, match=f"{FIRST}.*{name} needs a calibrated range"):
        Simulation(llama, {FIRST: OpPlan(format=preset(name))})
    assert models_tiny.forwards(llama) == {}


def test_an_op_that_is_not_there_is_refused(llama: nn.Module) -> None:
    with pytest.raises(AttributeError, match="absent"):
        Simulation(llama, {"model.absent": DYNAMIC})


def test_inactive_ops_change_nothing(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    before = models_tiny.logits(llama, batch)
    with Simulation(llama, {FIRST: DYNAMIC, SECOND: DYNAMIC}) as simulation:
        assert torch.equal(models_tiny.logits(llama, batch), before)
        simulation.activate_all()
        assert not torch.equal(models_tiny.logits(llama, batch), before)
        simulation.activate(())
        assert torch.equal(models_tiny.logits(llama, batch), before)


def test_activate_means_exactly_these(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    alone = {}
    for name in (FIRST, SECOND):
        with Simulation(llama, {name: DYNAMIC}) as simulation:
            simulation.activate_all()
            alone[name] = models_tiny.logits(llama, batch)
    with Simulation(llama, {FIRST: DYNAMIC, SECOND: DYNAMIC}) as simulation:
        for name in (FIRST, SECOND, FIRST):
            simulation.activate({name})
            assert torch.equal(models_tiny.logits(llama, batch), alone[name])


def test_the_order_of_activation_changes_nothing(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    plans = {FIRST: DYNAMIC, SECOND: DYNAMIC}
    with Simulation(llama, plans) as simulation:
        simulation.activate_all()
        expected = models_tiny.logits(llama, batch)
        simulation.activate({SECOND})
        simulation.activate({SECOND, FIRST})
        assert torch.equal(models_tiny.logits(llama, batch), expected)


def test_everything_is_as_before_afterwards(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    before, weights = models_tiny.logits(llama, batch), models_tiny.weights(llama)
    with Simulation(llama, {FIRST: DYNAMIC, SECOND: DYNAMIC}) as simulation:
        assert set(models_tiny.forwards(llama)) == {FIRST, SECOND}
        simulation.activate_all()
        models_tiny.logits(llama, batch)
    assert models_tiny.forwards(llama) == {}
    assert torch.equal(models_tiny.logits(llama, batch), before)
    for name, parameter in llama.named_parameters():
        assert parameter.data_ptr() == weights[name][0]
        assert torch.equal(parameter, weights[name][1])


def test_weights_are_not_touched_while_active(llama: nn.Module) -> None:
    weights = models_tiny.weights(llama)
    with Simulation(llama, {FIRST: DYNAMIC}) as simulation:
        simulation.activate_all()
        models_tiny.logits(llama, models_tiny.text_batch())
        for name, parameter in llama.named_parameters():
            assert parameter.data_ptr() == weights[name][0]
            assert torch.equal(parameter, weights[name][1])


def test_an_exception_inside_puts_the_forwards_back(llama: nn.Module) -> None:
    def interrupt(how: OpPlan) -> InputQuantizer:
        def raising(x: Tensor) -> Tensor:
            raise KeyboardInterrupt

        return raising

    def run() -> None:
        with Simulation(llama, {FIRST: DYNAMIC, SECOND: DYNAMIC}, interrupt) as simulation:
            simulation.activate_all()
            models_tiny.logits(llama, models_tiny.text_batch())

    with pytest.raises(KeyboardInterrupt):
        run()
    assert models_tiny.forwards(llama) == {}


def test_an_exception_while_entering_puts_the_forwards_back(llama: nn.Module) -> None:
    made: list[OpPlan] = []

    def failing(how: OpPlan) -> InputQuantizer:
        if made:
            raise RuntimeError("cannot make the second one")
        made.append(how)
        return lambda x: x

    with (
        pytest.raises(RuntimeError, match="the second one"),
        Simulation(llama, {FIRST: DYNAMIC, SECOND: DYNAMIC}, failing),
    ):
        pass
    assert models_tiny.forwards(llama) == {}


def test_a_simulation_can_be_entered_again(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    before = models_tiny.logits(llama, batch)
    simulation = Simulation(llama, {FIRST: DYNAMIC})
    with simulation:
        simulation.activate_all()
        active = models_tiny.logits(llama, batch)
    with simulation:
        assert torch.equal(models_tiny.logits(llama, batch), before)
        simulation.activate_all()
        assert torch.equal(models_tiny.logits(llama, batch), active)
    assert models_tiny.forwards(llama) == {}


def test_nested_simulations_of_one_op(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    static = OpPlan(format=preset("w8a8-static"), input_range=(-0.1, 0.1))
    before = models_tiny.logits(llama, batch)
    with Simulation(llama, {FIRST: static}) as only_inner:
        only_inner.activate_all()
        expected_inner = models_tiny.logits(llama, batch)
    with Simulation(llama, {FIRST: DYNAMIC}) as outer:
        outer.activate_all()
        expected_outer = models_tiny.logits(llama, batch)
        outside = models_tiny.forwards(llama)
        with Simulation(llama, {FIRST: static}) as inner:
            # Inactive in the inner one: as the outer one says.
            assert torch.equal(models_tiny.logits(llama, batch), expected_outer)
            inner.activate_all()
            assert torch.equal(models_tiny.logits(llama, batch), expected_inner)
        assert models_tiny.forwards(llama) == outside
        assert torch.equal(models_tiny.logits(llama, batch), expected_outer)
    assert models_tiny.forwards(llama) == {}
    assert torch.equal(models_tiny.logits(llama, batch), before)


def test_an_exception_in_the_inner_one_leaves_the_outer_one_working(llama: nn.Module) -> None:
    batch = models_tiny.text_batch()
    with Simulation(llama, {FIRST: DYNAMIC}) as outer:
        outer.activate_all()
        expected = models_tiny.logits(llama, batch)
        with pytest.raises(RuntimeError), Simulation(llama, {FIRST: DYNAMIC, SECOND: DYNAMIC}):
            raise RuntimeError
        assert torch.equal(models_tiny.logits(llama, batch), expected)
    assert models_tiny.forwards(llama) == {}


def test_a_forward_of_the_users_own_comes_back(llama: nn.Module) -> None:
    op = llama.get_submodule(FIRST)

    def own(x: Tensor) -> Tensor:
        return type(op).forward(op, x) * 2

    op.forward = own
    with Simulation(llama, {FIRST: DYNAMIC}) as simulation:
        simulation.activate_all()
    assert models_tiny.forwards(llama) == {FIRST: own}


def test_an_op_called_twice_is_quantized_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.op = nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.op(self.op(x))
            return found

    model, x = Twice(), random(3, 8)
    weight = reference_weight(model.op.weight)
    with torch.inference_mode(), Simulation(model, {"op": DYNAMIC}) as simulation:
        simulation.activate_all()
        found = model(x)
    once = functional.linear(reference_input(x, "w8a8"), weight)
    assert torch.equal(found, functional.linear(reference_input(once, "w8a8"), weight))


def test_input_quantizers_can_be_exchanged() -> None:
    op, x = nn.Linear(8, 4), random(2, 8)
    asked: list[OpPlan] = []

    def zeros(how: OpPlan) -> InputQuantizer:
        asked.append(how)
        return torch.zeros_like

    with torch.inference_mode(), Simulation(Holder(op), {"op": DYNAMIC}, zeros) as simulation:
        simulation.activate_all()
        assert torch.equal(op(x), op.bias.expand(2, 4))
    assert asked == [DYNAMIC.for_weight(op.weight)]


def test_the_serving_quantizer_of_a_dynamic_plan_measures_each_token() -> None:
    x = random(4, 8) * torch.tensor([[1.0], [100.0], [0.01], [0.0]])
    scheme = DYNAMIC.format.activation
    assert scheme is not None
    error = (serving_input_quantizer(DYNAMIC)(x) - x).abs()
    assert (error <= 0.5001 * input_qparams(x, scheme)[0]).all()


def test_a_static_range_clips_what_is_beyond_it() -> None:
    how = OpPlan(format=preset("w8a8-static"), input_range=(-1.0, 1.0))
    found = serving_input_quantizer(how)(torch.tensor([-50.0, 50.0]))
    assert found.tolist() == pytest.approx([-128 * 2 / 255, 127 * 2 / 255])


def test_ops_with_one_input_quantize_it_each_in_its_own_way(llama: nn.Module) -> None:
    """What was made last of an input serves the next op only where it asks for the same."""
    names = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
    ops = [llama.get_submodule(name) for name in names]
    plans = [
        OpPlan(format=preset("w8a8-static"), input_range=(-0.1, 0.1)),
        OpPlan(format=preset("w8a8-static"), input_range=(-2.0, 2.0)),
        DYNAMIC,
    ]
    x = random(2, 64)
    alone = []
    with torch.inference_mode():
        for name, op, plan in zip(names, ops, plans, strict=True):
            with Simulation(llama, {name: plan}) as simulation:
                simulation.activate_all()
                alone.append(op(x))
        with Simulation(llama, dict(zip(names, plans, strict=True))) as simulation:
            simulation.activate_all()
            together = [op(x) for op in ops]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", [n for n in PRESETS if not preset(n).needs_calibration])
@pytest.mark.parametrize("inputs", [256, 200])
def test_kept_codes_give_the_same_numbers(name: str, inputs: int) -> None:
    """Also with several groups a channel, and a smaller last one."""
    op, x = nn.Linear(inputs, 8), random(3, inputs)
    model = Holder(op)
    found = []
    for room in (0, op.weight.numel()):
        with torch.no_grad(), Simulation(model, {"op": plan(name)}, cache_bytes=room) as simulation:
            simulation.activate_all()
            found += [op(x), op(x)]
    assert all(torch.equal(y, found[0]) for y in found)


def test_a_loaders_arithmetic_multiplies_with_torchs_own_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padding a product for the matrix units moves last digits, which a model of many blocks amplifies."""
    from quantspectrum.simulation import context

    def padded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight, bias) + 1

    model = nn.Sequential(nn.Linear(6, 5))
    x = torch.randn(2, 6)
    plans = {"0": OpPlan(format=preset("w8a16"))}
    monkeypatch.setattr(context, "linear", padded)
    with Simulation(model, plans, lambda _plan: lambda x: x) as loader:
        loader.activate_all()
        as_loaded = model(x)
    with Simulation(model, plans) as serving:
        serving.activate_all()
        torch.testing.assert_close(model(x), as_loaded + 1)
