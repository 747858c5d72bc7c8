"""Several ops of one block replayed together, each in a slot of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.models.ops import list_ops
from quantspectrum.sensitivity import slots
from quantspectrum.sensitivity.capture import hollow, joined, repeated
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.simulation import Simulation
from scans import BASES, MIXED, Base, score
from sensitivity.engine_cases import (
    CASES,
    CPU,
    DYNAMIC,
    TOY,
    TOY_BATCH,
    TOY_OPS,
    Case,
    Toy,
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def ops_of(case: Case, block: str) -> list[str]:
    return [op for op in case.reached if op.startswith(f"{block}.")]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("slot", [0, 1])
def test_ops_replayed_together_give_what_each_gives_alone(case: Case, slot: int) -> None:
    """Whatever is in the other slots, and with everything before in the captured state."""
    capture = case.engine.capture(case.batch)
    with Simulation(case.model, dict.fromkeys(case.ops, DYNAMIC)) as simulation:
        rest = partial(simulation.activate, ())
        for block in case.ran:
            ops = ops_of(case, block)
            assert len(ops) > 1
            together = case.engine.replay_together(
                capture, ops, [partial(simulation.activate, {op}) for op in ops], rest
            )
            for op, found in zip(ops, together, strict=True):
                simulation.activate({op})
                alone = case.engine.replay(capture, op)
                rest()
                # Of what the op changes, not of the output, which would hide a wrong slot.
                change = alone - capture.values
                assert float(change.norm()) > 0
                assert relative(found, alone) < 1e-5, op
                assert relative(found - capture.values, change) < 1e-3, op


def test_slots_in_any_order_and_number_stay_apart(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    ops = ops_of(case, case.ran[0])
    with Simulation(case.model, dict.fromkeys(case.ops, DYNAMIC)) as simulation:
        rest = partial(simulation.activate, ())
        activate = {op: partial(simulation.activate, {op}) for op in ops}
        every = case.engine.replay_together(capture, ops, [*activate.values()], rest)
        turned = case.engine.replay_together(
            capture, ops[::-1], [activate[op] for op in ops[::-1]], rest
        )
        (single,) = case.engine.replay_together(capture, ops[1:2], [activate[ops[1]]], rest)
    for one, other in zip(every, turned[::-1], strict=True):
        assert relative(one, other) < 1e-5
    assert relative(single, every[1]) < 1e-5


def test_an_unperturbed_slot_is_the_captured_pass(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    nothing = partial(lambda: None)
    for block in case.ran:
        ops = ops_of(case, block)[:1]
        (found,) = case.engine.replay_together(capture, ops, [nothing], nothing)
        assert relative(found, capture.values) < 1e-6


def test_what_the_size_of_the_batch_changes_cancels() -> None:
    """Slot 0 shows it, and it is taken off the others."""
    model = Toy(drift=0.1)
    engine = ReplayEngine(model, TOY, TOY_OPS, CPU)
    capture = engine.capture(TOY_BATCH)
    op = TOY_OPS[2]
    with Simulation(model, {op: DYNAMIC}) as simulation:
        rest = partial(simulation.activate, ())
        (found,) = engine.replay_together(capture, [op], [partial(simulation.activate, {op})], rest)
        simulation.activate({op})
        assert relative(found, engine.replay(capture, op)) < 1e-6


@pytest.mark.parametrize("base", BASES)
def test_a_scan_with_slots_scores_as_one_without(llama: nn.Module, base: Base) -> None:
    alone = {op.name: op.score for op in score(llama, base=base).ops}
    together = score(llama, base=base, slots=8)
    assert together.engine is not None
    assert together.engine.slots == 8
    # A difference of two sums has the digits of the sums.
    digits = 1e-6 * max(map(abs, alone.values()))
    for op in together.ops:
        assert op.score == pytest.approx(alone[op.name], rel=1e-3, abs=digits), op.name


def test_pictures_in_slots(vl: nn.Module) -> None:
    images = MIXED[1:]
    alone = {op.name: op.score for op in score(vl, selection=images).ops}
    for op in score(vl, selection=images, slots=4).ops:
        assert op.score == pytest.approx(alone[op.name], rel=1e-3), op.name


Bundles = list[list[str]]


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch) -> Bundles:
    """The ops of every joint replay from now on."""
    found: Bundles = []
    own = ReplayEngine.replay_together

    def noting(self, capture, ops, slots, rest):  # type: ignore[no-untyped-def]
        found.append(list(ops))
        return own(self, capture, ops, slots, rest)

    monkeypatch.setattr(ReplayEngine, "replay_together", noting)
    return found


def test_only_ops_of_one_block_share_a_replay(vl: nn.Module, bundles: Bundles) -> None:
    score(vl, selection=MIXED[1:], slots=8)
    case = Case("vl image")
    shared = [{case.engine.block_of(op) for op in ops} for ops in bundles]
    assert shared == [{block} for block in case.blocks]
    joint = {op for ops in bundles for op in ops}
    assert {op for op in case.ops if case.engine.block_of(op)} == joint


@pytest.mark.parametrize(("size", "expected"), [(1, []), (2, []), (4, [3, 3, 3, 3])])
def test_no_more_ops_share_a_replay_than_slots(
    llama: nn.Module, bundles: Bundles, size: int, expected: list[int]
) -> None:
    score(llama, slots=size, selection=[models_tiny.text_batch()])
    # The seventh op of a block is left over and replayed alone.
    assert [len(ops) for ops in bundles] == expected


def test_a_bundle_that_does_not_fit_is_halved(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {op.name: op.score for op in score(llama, slots=8).ops}
    own = ReplayEngine.replay_together
    tried: list[int] = []

    def small(self, capture, ops, slots, rest):  # type: ignore[no-untyped-def]
        tried.append(len(ops))
        if len(ops) > 2:
            raise torch.OutOfMemoryError
        return own(self, capture, ops, slots, rest)

    monkeypatch.setattr(ReplayEngine, "replay_together", small)
    report = score(llama, slots=8)
    assert tried[:6] == [7, 3, 1, 2, 4, 2]
    for op in report.ops:
        assert op.score == pytest.approx(expected[op.name], rel=1e-3), op.name


def test_repeating_and_joining() -> None:
    tree = {"x": torch.arange(4.0).reshape(2, 2), "flag": True, "n": torch.tensor(3)}
    twice = repeated(tree, 2)
    assert torch.equal(twice["x"], torch.cat([tree["x"], tree["x"]]))
    assert twice["flag"] is True
    assert twice["n"].item() == 3
    joint = joined([(tree["x"], None), (tree["x"] + 1, None)])
    assert torch.equal(joint[0], torch.cat([tree["x"], tree["x"] + 1]))
    assert joint[1] is None


class Timed:
    """An engine whose passes take what a clock says, by the size of the batch."""

    def __init__(self, seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole: str | None = None
        self.now = 0.0
        self.sizes: list[int] = []
        self.shareable: Batch | None = TOY_BATCH
        self._seconds = seconds
        monkeypatch.setattr(slots.time, "perf_counter", lambda: self.now)

    def run(self, inputs: dict[str, Tensor]) -> None:
        size = len(inputs["input_ids"]) // len(TOY_BATCH.inputs["input_ids"])
        self.sizes.append(size)
        found = self._seconds[size]
        if found == float("inf"):
            raise torch.OutOfMemoryError
        self.now += found

    def can_share(self, batch: Batch) -> bool:
        return batch is self.shareable


@pytest.mark.parametrize(
    ("alone", "together", "expected"),
    [
        (0.01, 0.02, slots.MOST_SLOTS),
        (0.01, 0.039, 1),
        (1.0, 1.0, 1),
        (0.01, float("inf"), 1),
    ],
    ids=["pays", "no gain", "busy already", "no memory"],
)
def test_slots_are_used_where_they_pay(
    monkeypatch: pytest.MonkeyPatch, alone: float, together: float, expected: int
) -> None:
    engine = Timed({1: alone, slots.TRIAL: together}, monkeypatch)
    assert slots.choose_slots(engine, TOY_BATCH, CPU, slots.FEWEST) == expected


def test_a_short_scan_is_not_kept_waiting_for_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Timed({1: 0.01, slots.TRIAL: 0.02}, monkeypatch)
    assert slots.choose_slots(engine, TOY_BATCH, CPU, slots.FEWEST - 1) == 1
    assert engine.sizes == []


def test_whole_passes_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Timed({1: 0.01, slots.TRIAL: 0.01}, monkeypatch)
    engine.whole = "the model's structure is not known"
    assert slots.choose_slots(engine, TOY_BATCH, CPU, slots.FEWEST) == 1
    assert engine.sizes == []


def test_every_family_can_share(case: Case) -> None:
    assert case.engine.can_share(case.batch)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(Toy(), True), (Toy(tokens_first=True), False), (Toy(drift=9.0), False)],
    ids=["chain", "tokens first", "another batch size, another result"],
)
def test_what_cannot_share_is_found_out(model: Toy, expected: bool) -> None:
    engine = ReplayEngine(model, TOY, TOY_OPS, CPU)
    assert engine.can_share(TOY_BATCH) is expected


def test_slots_that_do_not_give_the_captured_pass_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Timed({1: 0.01, slots.TRIAL: 0.02}, monkeypatch)
    engine.shareable = None
    assert slots.choose_slots(engine, TOY_BATCH, CPU, slots.FEWEST) == 1


@pytest.mark.parametrize(
    ("more", "expected"), [(0, slots.MOST_SLOTS), (1, 1)], ids=["just fits", "a byte too much"]
)
def test_slots_take_no_more_memory_than_promised(
    monkeypatch: pytest.MonkeyPatch, more: int, expected: int
) -> None:
    before = 7 * 2**30
    extra = slots.EXTRA_BYTES * slots.TRIAL // slots.MOST_SLOTS + more
    monkeypatch.setattr(Batch, "to", lambda self, _device: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: before)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: before + extra)
    engine = Timed({1: 0.01, slots.TRIAL: 0.02}, monkeypatch)
    assert slots.choose_slots(engine, TOY_BATCH, torch.device("cuda"), slots.FEWEST) == expected


def test_stand_ins_of_skipped_blocks_take_no_memory_in_slots() -> None:
    """With them a replay from the last block would take a tensor for each block before it."""
    hidden = hollow(torch.randn(3, 5, 7))
    (again,) = repeated((hidden,), 8)
    assert again.shape == (24, 5, 7)
    assert again.untyped_storage().nbytes() == hidden.element_size()
    assert torch.equal(again, hidden.repeat(8, 1, 1))
    assert repeated(hidden[:, :0], 2).shape == (6, 0, 7)


def peak_bytes(work: Callable[[], object]) -> int:
    """Most memory that tensors of the CPU take at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    kineto = profiler.profiler.kineto_results
    events = [event for event in kineto.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.parametrize("base", BASES)
def test_a_slot_takes_no_more_memory_than_a_batch_in_a_pass(base: Base) -> None:
    """From whichever block: the promise that :func:`choose_slots` keeps is made of passes."""
    model = models_tiny.causal_lm("llama", num_hidden_layers=12)
    loaded = models_tiny.loaded(model)
    ops = [op.name for op in list_ops(model, loaded.layout).candidates]
    engine = ReplayEngine(model, loaded.layout, ops, CPU)
    batch = models_tiny.text_batch((40, 40, 40, 40))
    with Simulation(model, dict.fromkeys(ops, DYNAMIC)) as simulation, torch.no_grad():
        rest = partial(simulation.activate, () if base == "isolate" else ops)
        rest()
        capture = engine.capture(batch)
        inputs = repeated(capture.inputs, slots.TRIAL)
        most = peak_bytes(lambda: engine.run(inputs)) * slots.MOST_SLOTS / slots.TRIAL
        for block in engine.blocks():
            some = [op for op in ops if engine.block_of(op) == block]
            each = [partial(simulation.activate, {op}) for op in some]
            taken = peak_bytes(partial(engine.replay_together, capture, some, each, rest))
            assert taken < 1.1 * most, block
