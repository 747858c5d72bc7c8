"""First-order damage of each op: against plain autograd, and against the KL it estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.models.adapter import Layout, Stack
from quantspectrum.models.ops import list_ops
from quantspectrum.quantizer import fake_quantize_weight
from quantspectrum.sensitivity import visibility
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.metric import PassContext
from quantspectrum.simulation import OpPlan, serving_input_quantizer
from scans import BASES, MIXED, TEXT, UNSEEN, plans_of, score, scores
from sensitivity.engine_cases import CPU, TOY, TOY_BATCH, TOY_OPS, Toy

SEED = 7


@pytest.fixture(autouse=True, params=[0, 2**40], ids=["computed again", "kept"])
def free_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Without free memory blocks are computed again in the backward pass, with it they are not."""
    monkeypatch.setattr(visibility, "default_limit", lambda _device: request.param)
    found: int = request.param
    return found


def test_blocks_are_computed_again_where_memory_is_short(free_memory: int) -> None:
    model, runs = models_tiny.causal_lm("llama"), [0]
    handle = model.model.layers[0].self_attn.register_forward_hook(
        lambda *_args: runs.__setitem__(0, runs[0] + 1)
    )
    loaded = models_tiny.loaded(model)
    ops = [op.name for op in list_ops(model, loaded.layout).candidates]
    engine = ReplayEngine(model, loaded.layout, ops, CPU)
    context = PassContext(
        model=model,
        engine=engine,
        layout=loaded.layout,
        plans=dict.fromkeys(ops, OpPlan(format=preset("w8a8"))),
        device=CPU,
        seed=SEED,
    )
    engine.check_head(TEXT[0].inputs)
    runs[0] = 0
    visibility.collect(context, TEXT[0], 0)
    handle.remove()
    assert runs[0] == (2 if free_memory == 0 else 1)


class Watched:
    """Inputs and outputs of ops in one forward pass, part of the graph."""

    def __init__(self, model: nn.Module, ops: list[str]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name)) for name in ops
        ]

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self.inputs[name] = args[0].detach()
            # A leaf of the graph even where nothing before it has a gradient.
            anchor = torch.zeros_like(output, requires_grad=True)
            self.outputs[name] = anchor
            return output + anchor

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def error_of(module: nn.Module, plan: OpPlan, x: Tensor) -> Tensor:
    weight = module.get_parameter("weight").detach()
    quantized = fake_quantize_weight(weight, plan.format.weight, weight.dtype).double()
    noisy = functional.linear(serving_input_quantizer(plan)(x).double(), quantized)
    return noisy - functional.linear(x.double(), weight.double())


def direct(
    model: nn.Module, plans: dict[str, OpPlan], batch: Batch, index: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Both sums of every op that runs, per sample and token, by plain autograd of all logits."""
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    watched = Watched(model, [*plans])
    logits = model(**batch.inputs, use_cache=False).logits
    watched.close()
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + index)
    rows = logits[mask]
    label = torch.multinomial(torch.softmax(rows.detach().float(), -1), 1, generator=generator)
    losses = functional.cross_entropy(rows.float(), label.squeeze(-1), reduction="none")
    text = (ids != models_tiny.IMAGE)[mask]
    reached = [name for name in plans if name in watched.outputs]
    gradients = torch.autograd.grad(losses[text].sum(), [watched.outputs[n] for n in reached])
    counts = (mask & (ids != models_tiny.IMAGE)).sum(1)
    found = {}
    for name, gradient in zip(reached, gradients, strict=True):
        error = error_of(model.get_submodule(name), plans[name], watched.inputs[name])
        products = error * gradient.double()
        per_token = products.sum(-1).square() / 2, products.square().sum(-1) / 2
        sums = []
        for values in per_token:
            if values.ndim == 1:  # A vision tower: the pictures in a row.
                sums.append(torch.stack([part.sum() for part in values.chunk(len(counts))]))
            else:
                sums.append((values * mask).sum(1))
        found[name] = tuple((values / counts).tolist() for values in sums)
    return found


@pytest.mark.parametrize("fmt", ["w8a8", "w4a16"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_scores_are_those_of_plain_autograd(family: str, fmt: str) -> None:
    model = models_tiny.causal_lm(family)
    plans = plans_of(models_tiny.loaded(model), preset(fmt), UNSEEN)
    parts = [direct(model, plans, batch, index) for index, batch in enumerate(TEXT)]
    report = score(model, fmt, metrics=("visibility",))
    assert len(report.ops) == 14
    for op in report.ops:
        values = [value for part in parts for value in part[op.name][0]]
        assert op.score == pytest.approx(sum(values) / len(values), rel=1e-3), op.name
        assert op.n == len(values) == 5
        lengths = [7, 12, 5, 9, 4]
        squares = [value for part in parts for value in part[op.name][1]]
        weighed = sum(v * n for v, n in zip(squares, lengths, strict=True)) / sum(lengths)
        assert op.raw["elementwise"] == pytest.approx(weighed, rel=1e-3), op.name


def test_scores_of_pictures_are_those_of_plain_autograd(vl: nn.Module) -> None:
    batch = MIXED[1]
    loaded = models_tiny.loaded(vl)
    plans = plans_of(loaded, preset("w8a8"), UNSEEN)
    with loaded.layout.faster():
        expected = direct(vl, plans, batch, 0)
    report = score(vl, metrics=("visibility",), selection=[batch])
    assert {op.name for op in report.ops} == set(expected)
    for op in report.ops:
        values = expected[op.name][0]
        assert op.score == pytest.approx(sum(values) / 2, rel=1e-3), op.name


def test_texts_that_run_no_vision_op_count_as_no_damage(vl: nn.Module) -> None:
    images = scores(score(vl, metrics=("visibility",), selection=MIXED[1:]))
    mixed = score(vl, metrics=("visibility",), selection=MIXED[::-1])
    for op in mixed.ops:
        assert op.n == 4
        if op.component != "language":
            assert op.score == pytest.approx(images[op.name] / 2, rel=1e-6), op.name


def test_a_batch_that_runs_none_of_the_ops_says_nothing(vl: nn.Module) -> None:
    layout = models_tiny.loaded(vl).layout
    table = list_ops(vl, layout, include=["*.visual.*"])
    report = score(vl, metrics=("visibility",), selection=MIXED, table=table)
    assert {op.n for op in report.ops} == {4}
    assert {op.component for op in report.ops} == {"vision", "merger"}


def repeated_rows(count: int) -> Batch:
    """The same text many times: as many draws of labels in one pass."""
    batch = models_tiny.text_batch((12,))
    return Batch(
        inputs={key: value.repeat(count, 1) for key, value in batch.inputs.items()},
        target=batch.target.repeat(count, 1),
        sample_ids=tuple(f"copy:{row}" for row in range(count)),
        kinds=("text",) * count,
    )


def test_over_many_draws_it_is_the_kl_of_small_perturbations(llama: nn.Module) -> None:
    """Exactly so where an op's output at a token moves the prediction at that token alone."""
    batch = repeated_rows(400)
    divergence = scores(score(llama, metrics=("kl",), selection=[repeated_rows(1)]))
    report = score(llama, metrics=("visibility",), selection=[batch])
    last = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    apart = 0
    for op in report.ops:
        assert op.stderr is not None
        kl = divergence[op.name]
        if op.block == 1 and op.name.endswith(last):
            # Labels are independent from row to row, so that the standard error is an honest one;
            # 3 % for what is beyond second order.
            assert abs(op.score - kl) < 3 * op.stderr + 0.03 * kl, op.name
            assert op.stderr < 0.2 * kl
            apart += 1
        else:
            assert kl / 2 < op.score < kl * 2, op.name
    assert apart == len(last)


def test_every_seed_and_batch_draws_labels_of_its_own(llama: nn.Module) -> None:
    batch = models_tiny.text_batch((10,))
    alike = [
        Batch(inputs=batch.inputs, target=batch.target, sample_ids=(name,), kinds=batch.kinds)
        for name in "ab"
    ]
    more: dict[str, Any] = {"metrics": ("visibility",)}
    first = scores(score(llama, selection=alike[:1], **more))
    both = score(llama, selection=alike, **more)
    assert all(op.stderr is not None and op.stderr > 0 for op in both.ops)
    assert scores(score(llama, selection=alike[:1], **more)) == first
    assert scores(score(llama, selection=alike[:1], seed=8, **more)) != first


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(
    vl: nn.Module, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    trainable = {"model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"}
    for name, parameter in vl.named_parameters():
        parameter.requires_grad_(name in trainable)
    before, places = models_tiny.logits(vl, MIXED[1]), models_tiny.weights(vl)
    if fails:
        monkeypatch.setattr(visibility, "op_error", lambda *_args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(vl, metrics=("visibility",), selection=MIXED)
    else:
        score(vl, metrics=("visibility",), selection=MIXED)
    assert models_tiny.forwards(vl) == {}
    assert models_tiny.hooks(vl) == 0
    for name, parameter in vl.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == (name in trainable)
        assert torch.equal(parameter, places[name][1])
    assert torch.is_grad_enabled()
    assert torch.equal(models_tiny.logits(vl, MIXED[1]), before)


def test_weights_that_train_get_no_gradients(llama: nn.Module) -> None:
    llama.requires_grad_(True)
    score(llama, metrics=("visibility",))
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_calibration_and_selection_may_be_the_same_batches(vl: nn.Module) -> None:
    """What calibration leaves behind must not keep gradients from passing."""
    more: dict[str, Any] = {"metrics": ("visibility",), "selection": MIXED}
    report = score(vl, "w8a8-static", calibration=MIXED, **more)
    assert report.complete


@pytest.mark.parametrize("model", [Toy(scale=3.0), Toy(cap=0.5)], ids=["scaled", "capped"])
def test_where_the_model_does_more_than_its_head_logits_are_used(model: Toy) -> None:
    def collected(layout: Layout) -> dict[str, dict[str, list[float]]]:
        plan = OpPlan(format=preset("w4a8"))
        context = PassContext(
            model=model,
            engine=ReplayEngine(model, layout, TOY_OPS, CPU),
            layout=layout,
            plans=dict.fromkeys(TOY_OPS, plan),
            device=CPU,
            seed=SEED,
        )
        return visibility.collect(context, TOY_BATCH, 0)

    expected, found = collected(replace(TOY, head=None)), collected(TOY)
    for op in TOY_OPS:
        assert found[op]["squared"] == pytest.approx(expected[op]["squared"], rel=1e-4)


def test_an_op_that_runs_twice_adds_up() -> None:
    once, twice = Toy(), Toy(again=True)
    layout = replace(TOY, stacks=(Stack(component="language", path="layers"),))
    sums = []
    for model in (once, twice):
        context = PassContext(
            model=model,
            engine=ReplayEngine(model, layout, ["first"], CPU),
            layout=layout,
            plans={"first": OpPlan(format=preset("w4a8"))},
            device=CPU,
            seed=SEED,
        )
        sums.append(sum(visibility.collect(context, TOY_BATCH, 0)["first"]["squared"]))
    assert sums[1] > sums[0] > 0


def test_bases_other_than_isolate_are_refused(llama: nn.Module) -> None:
    assert BASES == ("isolate", "fallback")
    with pytest.raises(Exception, match="looks at each op by itself; use --base isolate"):
        score(llama, base="fallback", metrics=("visibility",))
