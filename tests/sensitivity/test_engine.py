"""Capture and replay of models whose blocks are a chain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.simulation import Simulation
from sensitivity.engine_cases import CASES, CPU, DYNAMIC, Case


@pytest.fixture(params=[*CASES, *(f"{name}, logits" for name in CASES)])
def case(request: pytest.FixtureRequest) -> Case:
    name, _, logits = request.param.partition(", ")
    return Case(name, logits=bool(logits))


def test_capture_is_the_plain_forward_pass(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    assert (case.engine.head is None) == (case.head in case.ops)
    assert torch.equal(case.as_logits(capture.values), case.plain())
    assert set(capture.before) == set(case.reached)
    assert case.reached != []


def test_capture_knows_the_blocks_before_each_op(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    assert set(capture.calls) == set(case.ran)
    for op in case.reached:
        mine = [block for block in case.ran if op.startswith(f"{block}.")]
        if mine:
            expected = case.ran[: case.ran.index(mine[0])]
        elif "merger" in op:
            expected = [block for block in case.ran if "visual" in block]
        elif "patch_embed" in op:
            expected = []
        else:
            expected = case.ran
        before = capture.before[op]
        assert before & set(case.blocks) == set(expected), op
        assert not any(op.startswith(f"{name}.") for name in before), op


def test_an_unperturbed_replay_is_the_forward_pass_for_every_op(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    for op in case.reached:
        found = case.engine.replay(capture, op)
        assert torch.equal(found, capture.values), op
        assert torch.equal(case.as_logits(found), case.plain()), op
    assert case.engine.whole is None


def test_the_check_of_a_chain_passes(case: Case) -> None:
    case.engine.check(case.engine.capture(case.batch))
    assert case.engine.whole is None


def test_a_perturbed_replay_is_the_perturbed_forward_pass_for_every_op(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    with Simulation(case.model, dict.fromkeys(case.ops, DYNAMIC)) as simulation:
        for op in case.reached:
            simulation.activate({op})
            found = case.engine.replay(capture, op)
            assert torch.equal(case.as_logits(found), case.plain()), op
            assert not torch.equal(found, capture.values), op


def test_restoring_one_op_of_a_quantized_model(case: Case) -> None:
    with Simulation(case.model, dict.fromkeys(case.ops, DYNAMIC)) as simulation:
        simulation.activate_all()
        capture = case.engine.capture(case.batch)
        for op in case.reached:
            simulation.activate(set(case.ops) - {op})
            found = case.engine.replay(capture, op)
            assert torch.equal(case.as_logits(found), case.plain()), op
            assert not torch.equal(found, capture.values), op


def test_blocks_before_the_op_are_not_computed(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    for op in case.reached:
        with case.counting(case.blocks) as counts:
            case.engine.replay(capture, op)
        assert set(counts) == set(case.ran) - capture.before[op], op


def test_the_head_is_not_computed_unless_it_is_an_op(case: Case) -> None:
    assert case.head is not None
    capture = case.engine.capture(case.batch)
    head = case.model.get_submodule(case.head)
    ran: list[str] = []
    own = type(head).forward

    def counting(x: Tensor) -> Tensor:
        ran.append("head")
        return own(head, x)

    head.forward = counting
    for op in case.reached:
        case.engine.replay(capture, op)
    assert len(ran) == (len(case.reached) if case.head in case.ops else 0)


def test_replays_do_not_wear_the_capture_out(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    values = capture.values.clone()
    for op in reversed(case.reached):
        case.engine.replay(capture, op)
    assert torch.equal(capture.values, values)
    for op in case.reached:
        assert torch.equal(case.engine.replay(capture, op), values)


def test_captures_of_two_batches_live_side_by_side(case: Case) -> None:
    """A replay belongs to its capture, whatever was captured meanwhile."""
    first = case.engine.capture(case.batch)
    turned = Batch(
        inputs={name: values.flip(0) for name, values in case.batch.inputs.items()},
        target=case.batch.target.flip(0),
        sample_ids=case.batch.sample_ids[::-1],
        kinds=case.batch.kinds,
    )
    second = case.engine.capture(turned)
    assert not torch.equal(first.values, second.values)
    op = case.reached[-1]
    for capture in (first, second):
        assert torch.equal(case.engine.replay(capture, op), capture.values)


def test_a_text_only_batch_does_not_reach_the_vision_tower() -> None:
    case = Case("vl text")
    capture = case.engine.capture(case.batch)
    assert not any(".visual." in op for op in capture.before)
    assert not any(".visual" in name for name in (*capture.calls, *capture.outputs))


def test_a_batch_moves_to_the_device_it_is_asked_for(llama: nn.Module) -> None:
    moved: list[object] = []

    class Moving(Batch):
        def to(self, device: torch.device | str) -> Batch:
            moved.append(device)
            return self

    batch = Moving(**vars(models_tiny.text_batch()))
    ReplayEngine(llama, models_tiny.loaded(llama).layout, [], CPU).capture(batch)
    assert moved == [CPU]


def test_blocks_by_name() -> None:
    case = Case("vl image")
    assert case.engine.blocks() == case.blocks
    assert case.engine.block_of("model.visual.blocks.1.attn.qkv") == "model.visual.blocks.1"
    assert case.engine.block_of("model.visual.merger.mlp.0") is None
    assert case.engine.block_of("lm_head") is None
