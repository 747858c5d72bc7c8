"""Noise to signal of each op's own output, against the arithmetic written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.quantizer import fake_quantize_weight
from quantspectrum.sensitivity import sqnr
from quantspectrum.sensitivity.metric import NOT_FINITE, mean_and_stderr
from quantspectrum.sensitivity.samples import SampleSums
from quantspectrum.simulation import OpPlan, Simulation, op_error, serving_input_quantizer
from scans import MIXED, TEXT, UNSEEN, plans_of, score

FORMATS = ("w8a8", "w8a8-static-affine", "w8a16", "w4a8", "fp8")


def inputs_of(model: nn.Module, ops: list[str], batch: Batch) -> dict[str, Tensor]:
    """What each op receives in a plain forward pass."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, name=name: found.__setitem__(name, args[0])
        )
        for name in ops
    ]
    models_tiny.logits(model, batch)
    for handle in handles:
        handle.remove()
    return found


def direct(module: nn.Module, plan: OpPlan, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and squared output of every row, float64."""
    weight = module.get_parameter("weight").detach()
    quantized = fake_quantize_weight(weight, plan.format.weight, plan.scale_dtype).double()
    bias = None if module.bias is None else module.get_parameter("bias").detach().double()
    y = functional.linear(x.double(), weight.double(), bias)
    noisy = functional.linear(serving_input_quantizer(plan)(x).double(), quantized, bias)
    return (noisy - y).square().sum(-1), y.square().sum(-1)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_scores_are_the_noise_written_out(family: str, fmt: str) -> None:
    model = models_tiny.causal_lm(family)
    loaded = models_tiny.loaded(model)
    plans = plans_of(loaded, preset(fmt), UNSEEN)
    ratios: dict[str, list[float]] = {op: [] for op in plans}
    sums = {op: [0.0, 0.0] for op in plans}
    for batch in TEXT:
        mask = batch.inputs["attention_mask"]
        for op, x in inputs_of(model, [*plans], batch).items():
            noise, signal = direct(model.get_submodule(op), plans[op], x)
            noise, signal = (noise * mask).sum(1), (signal * mask).sum(1)
            ratios[op] += (noise / signal).tolist()
            sums[op] = [a + float(b.sum()) for a, b in zip(sums[op], (noise, signal), strict=True)]
    report = score(model, fmt, metrics=("sqnr",))
    assert len(report.ops) == 14
    for op in report.ops:
        mean, stderr = mean_and_stderr(ratios[op.name])
        assert op.score == pytest.approx(mean, rel=1e-4), op.name
        assert op.stderr == pytest.approx(stderr, rel=1e-3), op.name
        noise, signal = sums[op.name]
        assert op.raw["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)


def test_each_picture_is_a_sample_of_the_vision_tower(vl: nn.Module) -> None:
    """Two pictures in a row, and after the merger four rows fewer each."""
    batch = models_tiny.image_batch()
    loaded = models_tiny.loaded(vl)
    plans = plans_of(loaded, preset("w8a8"), UNSEEN)
    vision = [op for op in plans if ".visual." in op]
    with loaded.layout.faster():
        inputs = inputs_of(vl, vision, batch)
    report = score(vl, metrics=("sqnr",), selection=[batch])
    found = {op.name: op for op in report.ops}
    for op in vision:
        noise, signal = direct(vl.get_submodule(op), plans[op], inputs[op])
        half = len(noise) // 2
        ratios = [
            float(noise[part].sum() / signal[part].sum())
            for part in (slice(None, half), slice(half, None))
        ]
        assert found[op].score == pytest.approx(sum(ratios) / 2, rel=1e-4), op
        assert found[op].n == 2


def test_an_op_has_the_samples_that_reach_it(vl: nn.Module) -> None:
    report = score(vl, metrics=("sqnr",), selection=MIXED)
    counts = {op.component: op.n for op in report.ops}
    assert counts == {"vision": 2, "merger": 2, "language": 4}
    assert report.complete


def test_ops_without_an_input_are_skipped(vl: nn.Module) -> None:
    report = score(vl, metrics=("sqnr",), selection=MIXED[:1])
    assert {op.component for op in report.ops} == {"language"}
    assert {note.reason for note in report.coverage.skipped} == {
        "the selection data never reaches it"
    }
    assert not report.complete


def test_nothing_is_left_behind(vl: nn.Module) -> None:
    before = models_tiny.logits(vl, MIXED[1])
    score(vl, metrics=("sqnr",), selection=MIXED)
    assert models_tiny.forwards(vl) == {}
    assert models_tiny.hooks(vl) == 0
    assert torch.equal(models_tiny.logits(vl, MIXED[1]), before)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_error_of_an_op_is_its_quantized_output_less_its_own(fmt: str) -> None:
    """In float64, so that nothing hides what the form without cancellation wins."""
    torch.manual_seed(0)
    op = nn.Linear(32, 16).double()
    x = torch.randn(3, 5, 32).double()
    plan = OpPlan(format=preset(fmt), input_range=(-3.0, 3.5)).for_weight(op.weight)
    weight = fake_quantize_weight(op.weight.detach(), plan.format.weight, plan.scale_dtype)
    with torch.no_grad():
        expected = functional.linear(serving_input_quantizer(plan)(x), weight, op.bias)
        error = op_error(op, plan, x)
        assert torch.allclose(error, expected - op(x), rtol=1e-4, atol=1e-6)
        assert float(error.norm()) > 0


@pytest.mark.parametrize("fmt", [*FORMATS, "inc", "inc-reduce-range"])
def test_the_error_of_an_op_is_what_the_simulation_changes(fmt: str) -> None:
    torch.manual_seed(0)
    model, x = nn.ModuleDict({"op": nn.Linear(32, 16)}), torch.randn(3, 5, 32)
    plan = OpPlan(format=preset(fmt), input_range=(-3.0, 3.5), output_range=(-2.0, 2.0))
    with torch.no_grad():
        y = model["op"](x)
        with Simulation(model, {"op": plan}) as simulation:
            simulation.activate_all()
            changed = model["op"](x) - y
        error = op_error(model["op"], plan.for_weight(model["op"].weight), x)
    assert torch.allclose(error, changed, rtol=1e-4, atol=1e-6)
    assert float(error.norm()) > 1e-3


def test_small_errors_keep_their_digits() -> None:
    """The difference of two float32 outputs would be mostly rounding."""
    torch.manual_seed(0)
    op, x = nn.Linear(64, 8), torch.randn(4, 64)
    with torch.no_grad():
        op.bias.fill_(1e5)
    plan = OpPlan(format=preset("w8a8")).for_weight(op.weight)
    with torch.no_grad():
        found = op_error(op, plan, x).square().sum(-1)
    expected, _ = direct(op, plan, x)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_convolutions_have_an_error_too(vl: nn.Module) -> None:
    conv = vl.get_submodule("model.visual.patch_embed.proj")
    assert isinstance(conv, nn.Conv3d)
    x = torch.randn(2, 3, 2, 14, 14)
    weight_only = OpPlan(format=preset("w8a16")).for_weight(conv.weight)
    with torch.no_grad():
        moved = fake_quantize_weight(conv.weight, weight_only.format.weight, torch.float32)
        expected = nn.functional.conv3d(x, moved - conv.weight, stride=conv.stride)
        assert torch.allclose(op_error(conv, weight_only, x), expected, atol=1e-6)


def batch_of(size: int, **inputs: Tensor) -> Batch:
    return Batch(
        inputs=inputs,
        target=torch.zeros(size, 1, dtype=torch.bool),
        sample_ids=tuple(map(str, range(size))),
        kinds=("text",) * size,
    )


CPU = torch.device("cpu")


def test_sums_of_samples_know_the_layouts_of_rows() -> None:
    text = SampleSums(batch_of(2, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]])), CPU)
    rows = torch.tensor([[1.0, 2, float("nan")], [4, 5, 6]])
    assert text.sum("op", rows).tolist() == [3, 15]
    assert text.sum("op", rows[..., None].expand(2, 3, 2)).tolist() == [6, 30]
    assert text.sum("op", torch.tensor([7.0, 8])).tolist() == [7, 8]
    # As OPT has it: tokens of all samples in a row, padding among them.
    assert text.sum("op", rows.flatten()).tolist() == [3, 15]
    grid = torch.tensor([[1, 4, 4], [1, 2, 4]])
    pictures = SampleSums(batch_of(2, image_grid_thw=grid), CPU)
    assert pictures.sum("op", torch.ones(24)).tolist() == [16, 8]
    assert pictures.sum("op", torch.ones(6)).tolist() == [4, 2]
    alone = SampleSums(batch_of(1), CPU)
    assert alone.sum("op", torch.ones(5, 4, 3)).tolist() == [60]


def test_rows_that_belong_to_no_sample_are_refused() -> None:
    sums = SampleSums(batch_of(2), CPU)
    with pytest.raises(UserError, match=r"op mlp\.up mixes the samples .*--batch-size 1"):
        sums.sum("mlp.up", torch.ones(7))


@pytest.mark.parametrize(
    ("noise", "signal", "score", "decibels"),
    [
        ([1.0, 3.0], [100.0, 100.0], 0.02, 10 * math.log10(50)),
        ([0.0, 0.0], [1.0, 2.0], 0.0, None),
        ([0.0, 2.0], [0.0, 20.0], 0.1, 10.0),
        ([0.0], [0.0], 0.0, None),
    ],
    ids=["known", "no noise", "a sample without signal", "no signal"],
)
def test_known_scores(
    noise: list[float], signal: list[float], score: float, decibels: float | None
) -> None:
    found = sqnr.score({"noise": noise, "signal": signal})
    assert found.score == pytest.approx(score)
    assert found.raw.get("sqnr_db") == (None if decibels is None else pytest.approx(decibels))


def test_noise_that_is_not_finite_is_the_worst_there_is() -> None:
    found = sqnr.score({"noise": [float("inf")], "signal": [1.0]})
    assert found.score == NOT_FINITE
    assert "sqnr_db" not in found.raw
