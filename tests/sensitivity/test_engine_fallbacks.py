"""Models that are no chain, hooks and forwards that must go, and heads that do more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.patching import replaced_forward
from quantspectrum.sensitivity.capture import Capture
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.simulation import Simulation
from scans import BASES, Base
from sensitivity.engine_cases import (
    CASES,
    CPU,
    DYNAMIC,
    TOY,
    TOY_BATCH,
    TOY_OPS,
    Case,
    Toy,
    scanned,
)

WHOLE = replace(TOY, stacks=())


def toy_logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found = model(**TOY_BATCH.inputs).logits
    assert isinstance(found, Tensor)
    return found


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_the_toy_is_replayed() -> None:
    """Otherwise the tests below would show nothing."""
    _, engine = scanned(Toy(), TOY)
    assert engine.whole is None
    assert engine.head is not None


def test_of_an_unknown_structure_nothing_is_assumed() -> None:
    found, engine = scanned(Toy(), WHOLE)
    assert engine.whole == "the model's structure is not known"
    assert found == scanned(Toy(), TOY)[0]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("order", [(0, 1, 1, 2), (0, 1, 1, 1, 5), (0, 1, 2, 1)])
def test_a_block_that_runs_again_is_never_answered_for(order: tuple[int, ...], base: Base) -> None:
    model = Toy(order)
    found, engine = scanned(model, TOY, base=base)
    assert engine.whole == "layers.1 runs more than once in a forward pass"
    assert found == scanned(model, WHOLE, base=base)[0]


@pytest.mark.parametrize("order", [(0, 1, 1, 2), (0, 1, 2, 1)])
def test_replays_of_a_block_that_runs_again_are_whole_passes(order: tuple[int, ...]) -> None:
    model = Toy(order)
    engine = ReplayEngine(model, TOY, TOY_OPS, CPU)
    capture = engine.capture(TOY_BATCH)
    assert engine.head is not None
    with Simulation(model, dict.fromkeys(TOY_OPS, DYNAMIC)) as simulation:
        for op in TOY_OPS:
            simulation.activate({op})
            found = engine.head.module(engine.replay(capture, op))
            assert torch.equal(found, toy_logits(model)), op


@pytest.mark.parametrize("base", BASES)
def test_an_op_that_runs_twice_is_replayed_from_its_first_run(base: Base) -> None:
    model = Toy(again=True)
    engine = ReplayEngine(model, TOY, ["first"], CPU)
    before = engine.capture(TOY_BATCH).before["first"]
    assert before & set(engine.blocks()) == frozenset()
    assert scanned(model, TOY, base=base)[0] == scanned(model, WHOLE, base=base)[0]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("skip", [(0, 5), (0, 2), (3, 5), (1, 4)])
def test_what_is_no_chain_is_found_out(skip: tuple[int, int], base: Base, slots: int) -> None:
    """A block also reads what an earlier one left behind, which a replay does not keep."""
    model = Toy(skip=skip)
    found, engine = scanned(model, TOY, base=base, slots=slots)
    assert engine.whole == "a replay with nothing perturbed differed from the forward pass"
    assert found == scanned(model, WHOLE, base=base)[0]


def test_the_check_is_what_finds_it() -> None:
    engine = ReplayEngine(Toy(skip=(0, 2)), TOY, TOY_OPS, CPU)
    capture = engine.capture(TOY_BATCH)
    assert engine.whole is None
    wrong = [op for op in TOY_OPS if not torch.equal(engine.replay(capture, op), capture.values)]
    assert wrong == ["layers.1.0"]
    engine.check(capture)
    assert engine.whole is not None
    assert torch.equal(engine.replay(capture, "layers.1.0"), capture.values)


@pytest.mark.parametrize(
    ("chain", "first"), [(False, ["layers.5.0", "layers.3.0"]), (True, ["layers.3.0"])]
)
def test_every_block_is_tried_once_unless_the_family_is_known(
    monkeypatch: pytest.MonkeyPatch, chain: bool, first: list[str]
) -> None:
    tried: list[str] = []
    own = ReplayEngine.replay

    def noting(self: ReplayEngine, capture: Capture, op: str) -> Tensor:
        tried.append(op)
        return own(self, capture, op)

    monkeypatch.setattr(ReplayEngine, "replay", noting)
    engine = ReplayEngine(Toy(), replace(TOY, chain=chain), TOY_OPS, CPU)
    capture = engine.capture(TOY_BATCH)
    engine.check(capture)
    assert tried == first
    engine.check(capture)
    assert tried[len(first) :] == ["layers.3.0"]
    assert engine.whole is None


@pytest.mark.parametrize(
    "skip", [(a, b) for b in range(2, 6) for a in range(b - 1)], ids=lambda skip: f"{skip}"
)
@pytest.mark.parametrize("ops", [TOY_OPS, TOY_OPS[::2], TOY_OPS[1:3]], ids=len)
def test_the_check_finds_what_replays_get_wrong(skip: tuple[int, int], ops: list[str]) -> None:
    """Whichever two blocks are connected, and where only some hold ops under test."""
    engine = ReplayEngine(Toy(skip=skip), TOY, ops, CPU)
    capture = engine.capture(TOY_BATCH)
    wrong = [op for op in ops if not torch.equal(engine.replay(capture, op), capture.values)]
    engine.check(capture)
    assert (engine.whole is not None) is bool(wrong)


def test_a_check_costs_about_two_passes() -> None:
    """And not one for every two blocks."""
    model = Toy()
    engine = ReplayEngine(model, TOY, TOY_OPS, CPU)
    capture = engine.capture(TOY_BATCH)
    calls: list[str] = []
    for name, block in model.layers.named_children():
        block[0].register_forward_hook(lambda *_args, name=name: calls.append(name))
    engine.check(capture)
    assert calls == ["0", "1", "2", "3", "4", "5", "3", "4", "5"]


@pytest.mark.parametrize("model", [Toy(scale=3.0), Toy(cap=0.5)], ids=["multiplied", "soft-capped"])
def test_logits_are_read_where_the_model_does_more_to_them(model: Toy) -> None:
    engine = ReplayEngine(model, TOY, TOY_OPS, CPU)
    assert engine.head is not None
    capture = engine.capture(TOY_BATCH)
    assert engine.head is None
    assert torch.equal(capture.values, toy_logits(model))
    for op in TOY_OPS:
        assert torch.equal(engine.replay(capture, op), capture.values)
    assert scanned(model, TOY)[0] == scanned(model, replace(TOY, head=None))[0]


def test_a_capping_too_weak_to_matter_leaves_the_head_in_use() -> None:
    engine = ReplayEngine(Toy(cap=1e4), TOY, TOY_OPS, CPU)
    engine.capture(TOY_BATCH)
    assert engine.head is not None


def test_a_head_with_a_forward_of_its_own_is_not_taken_for_linear() -> None:
    class Doubling(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = Toy()
    model.head = Doubling(8, 16)
    assert ReplayEngine(model, TOY, TOY_OPS, CPU).head is None


def test_nothing_is_left_behind(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    assert models_tiny.hooks(case.model) == 0
    assert models_tiny.forwards(case.model) == {}
    case.engine.check(capture)
    case.engine.replay(capture, case.reached[-1])
    block = case.engine.block_of(case.reached[-2])
    together = [op for op in case.reached if block and op.startswith(f"{block}.")]
    rest: Callable[[], None] = lambda: None  # noqa: E731
    case.engine.replay_together(capture, together, [rest] * len(together), rest)
    assert models_tiny.forwards(case.model) == {}
    assert models_tiny.hooks(case.model) == 0
    assert torch.equal(case.as_logits(capture.values), case.plain())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_after_an_exception(case: Case, error: type[BaseException]) -> None:
    capture = case.engine.capture(case.batch)
    name = [op for op in case.reached if case.engine.block_of(op)][-1]
    op = case.model.get_submodule(name)

    def fail(_x: Tensor) -> Tensor:
        raise error("in the last op of a block")

    op.forward = fail
    with pytest.raises(error):
        case.engine.capture(case.batch)
    assert models_tiny.hooks(case.model) == 0
    assert models_tiny.forwards(case.model) == {name: fail}
    with pytest.raises(error):
        case.engine.replay(capture, name)
    with pytest.raises(error):
        case.engine.replay_together(capture, [name], [lambda: None], lambda: None)
    assert models_tiny.forwards(case.model) == {name: fail}
    assert models_tiny.hooks(case.model) == 0
    del op.forward
    assert torch.equal(case.engine.replay(capture, name), capture.values)
    assert torch.equal(case.as_logits(capture.values), case.plain())


@pytest.mark.parametrize("op", ["lm_head", "model.layers.0.mlp.up_proj"])
def test_a_forward_of_the_users_own_on_a_block_comes_back(llama: nn.Module, op: str) -> None:
    engine = ReplayEngine(llama, models_tiny.loaded(llama).layout, [op, "lm_head"], CPU)
    block = llama.get_submodule("model.layers.0")
    calls: list[str] = []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append("own")
        return type(block).forward(block, *args, **kwargs)

    block.forward = own
    capture = engine.capture(models_tiny.text_batch())
    assert calls == ["own"]
    assert torch.equal(engine.replay(capture, op), capture.values)
    assert calls == ["own"] * (1 if op == "lm_head" else 2)
    assert models_tiny.forwards(llama) == {"model.layers.0": own}


def test_nested_in_other_replacements_each_level_is_put_back(llama: nn.Module) -> None:
    """A simulation around, a replaced head around that, and an exception inside."""
    op, head = "model.layers.1.mlp.up_proj", llama.get_submodule("lm_head")
    engine = ReplayEngine(llama, models_tiny.loaded(llama).layout, [op], CPU)
    batch = models_tiny.text_batch()
    capture = engine.capture(batch)

    def outer(x: Tensor) -> Tensor:
        return type(head).forward(head, x)

    with replaced_forward(head, outer):
        with Simulation(llama, {op: DYNAMIC}) as simulation:
            simulation.activate({op})
            level = models_tiny.forwards(llama)
            perturbed = engine.replay(capture, op)
            assert models_tiny.forwards(llama) == level
            with (
                pytest.raises(ZeroDivisionError),
                replaced_forward(llama.get_submodule("model.norm"), lambda _x: 1 / 0),
            ):
                engine.replay(capture, op)
            assert models_tiny.forwards(llama) == level
            assert torch.equal(engine.replay(capture, op), perturbed)
        assert models_tiny.forwards(llama) == {"lm_head": outer}
        assert torch.equal(engine.replay(capture, op), capture.values)
    assert models_tiny.forwards(llama) == {}
    assert not torch.equal(perturbed, capture.values)
