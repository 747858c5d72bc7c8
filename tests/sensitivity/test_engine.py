from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Layout, Stack
from quantspectrum.models.ops import OP_TYPES, list_ops
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.simulation import OpPlan, Simulation

CPU = torch.device("cpu")
DYNAMIC = OpPlan(format=preset("w8a8"))


def vl_text() -> Batch:
    return models_tiny.text_batch(vision=True)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Batch]]] = {
    "llama": (lambda: models_tiny.causal_lm("llama"), models_tiny.text_batch),
    "qwen2": (lambda: models_tiny.causal_lm("qwen2"), models_tiny.text_batch),
    "qwen3": (lambda: models_tiny.causal_lm("qwen3"), models_tiny.text_batch),
    "vl text": (models_tiny.qwen2_5_vl, vl_text),
    "vl image": (models_tiny.qwen2_5_vl, models_tiny.image_batch),
}


class Case:
    """A model, a batch, all its ops (head and convolution too) and an engine for them."""

    def __init__(self, name: str) -> None:
        make_model, make_batch = CASES[name]
        self.model, self.batch = make_model(), make_batch()
        self.layout = adapter_for(self.model.config).layout(self.model)
        table = list_ops(self.model, self.layout, types=OP_TYPES)
        self.ops = [op.name for op in table.candidates] + ["lm_head"]
        self.engine = ReplayEngine(self.model, self.layout, self.ops, CPU)
        self.blocks = [
            f"{stack.path}.{index}" for stack in self.layout.stacks for index in range(2)
        ]

    @contextmanager
    def counting(self, names: Sequence[str]) -> Iterator[Counter[str]]:
        """Count how often modules inside each of the blocks really compute."""
        counts: Counter[str] = Counter()
        handles = [
            inner.register_forward_hook(lambda *_args, block=name: counts.update([block]))
            for name in names
            for inner in self.model.get_submodule(name).children()
        ]
        yield counts
        for handle in handles:
            handle.remove()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def reached(case: Case) -> list[str]:
    """Ops that the case's batch runs: no vision ones without a picture."""
    if "pixel_values" in case.batch.inputs:
        return case.ops
    return [name for name in case.ops if ".visual." not in name]


def test_capture_is_the_plain_forward_pass(case: Case) -> None:
    expected = models_tiny.logits(case.model, case.batch)
    capture = case.engine.capture(case.batch)
    assert torch.equal(capture.logits, expected)
    assert list(capture.before) != []
    assert set(capture.before) == set(reached(case))


def test_capture_knows_the_blocks_before_each_op(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    ran = [b for b in case.blocks if "pixel_values" in case.batch.inputs or "visual" not in b]
    assert set(capture.outputs) == set(ran)
    for op in reached(case):
        mine = [block for block in ran if op.startswith(f"{block}.")]
        if mine:
            expected = ran[: ran.index(mine[0])]
        elif op == "lm_head":
            expected = ran
        else:
            expected = [b for b in ran if "visual" in b] if "merger" in op else []
        assert capture.before[op] == set(expected), op


def test_an_unperturbed_replay_is_the_forward_pass_for_every_op(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    for op in reached(case):
        assert torch.equal(case.engine.replay(capture, op), capture.logits), op


def test_a_perturbed_replay_is_the_perturbed_forward_pass_for_every_op(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    plans = dict.fromkeys(case.ops, DYNAMIC)
    with Simulation(case.model, plans) as simulation:
        for op in reached(case):
            simulation.activate({op})
            found = case.engine.replay(capture, op)
            assert torch.equal(found, models_tiny.logits(case.model, case.batch)), op
            assert not torch.equal(found, capture.logits), op


def test_restoring_one_op_of_a_quantized_model(case: Case) -> None:
    plans = dict.fromkeys(case.ops, DYNAMIC)
    with Simulation(case.model, plans) as simulation:
        simulation.activate_all()
        capture = case.engine.capture(case.batch)
        for op in reached(case):
            simulation.activate(set(case.ops) - {op})
            found = case.engine.replay(capture, op)
            assert torch.equal(found, models_tiny.logits(case.model, case.batch)), op
            assert not torch.equal(found, capture.logits), op


def test_blocks_before_the_op_are_not_computed(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    for op in reached(case):
        with case.counting(case.blocks) as counts:
            case.engine.replay(capture, op)
        assert set(counts) == set(capture.outputs) - capture.before[op], op


def test_replays_do_not_wear_the_capture_out(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    logits = capture.logits.clone()
    for op in reversed(reached(case)):
        case.engine.replay(capture, op)
    assert torch.equal(capture.logits, logits)
    for op in reached(case):
        assert torch.equal(case.engine.replay(capture, op), logits)


def test_a_text_only_batch_does_not_reach_the_vision_tower() -> None:
    case = Case("vl text")
    capture = case.engine.capture(case.batch)
    assert not any(".visual." in op for op in capture.before)
    assert not any(".visual." in block for block in capture.outputs)


def test_a_batch_moves_to_the_device_it_is_asked_for(llama: nn.Module) -> None:
    moved: list[object] = []

    class Moving(Batch):
        def to(self, device: torch.device | str) -> Batch:
            moved.append(device)
            return self

    batch = Moving(**vars(models_tiny.text_batch()))
    ReplayEngine(llama, models_tiny.loaded(llama).layout, [], CPU).capture(batch)
    assert moved == [CPU]


def test_nothing_is_left_behind(case: Case) -> None:
    capture = case.engine.capture(case.batch)
    assert models_tiny.hooks(case.model) == 0
    case.engine.replay(capture, case.ops[-1])
    assert models_tiny.forwards(case.model) == {}
    assert models_tiny.hooks(case.model) == 0
    assert torch.equal(models_tiny.logits(case.model, case.batch), capture.logits)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_after_an_exception(case: Case, error: type[BaseException]) -> None:
    capture = case.engine.capture(case.batch)
    last = case.model.get_submodule("lm_head")

    def fail(_x: Tensor) -> Tensor:
        raise error("in the last op")

    last.forward = fail
    with pytest.raises(error):
        case.engine.capture(case.batch)
    assert models_tiny.hooks(case.model) == 0
    with pytest.raises(error):
        case.engine.replay(capture, "lm_head")
    assert models_tiny.forwards(case.model) == {"lm_head": fail}
    del last.forward
    assert torch.equal(models_tiny.logits(case.model, case.batch), capture.logits)


def test_a_forward_of_the_users_own_on_a_block_comes_back(llama: nn.Module) -> None:
    engine = ReplayEngine(llama, models_tiny.loaded(llama).layout, ["lm_head"], CPU)
    block = llama.get_submodule("model.layers.0")
    calls: list[str] = []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append("own")
        return type(block).forward(block, *args, **kwargs)

    block.forward = own
    capture = engine.capture(models_tiny.text_batch())
    assert calls == ["own"]
    assert torch.equal(engine.replay(capture, "lm_head"), capture.logits)
    assert calls == ["own"]
    assert models_tiny.forwards(llama) == {"model.layers.0": own}


class Looping(nn.Module):
    """Runs its blocks in a given order, and its first op again at the end."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)])
        self.first = nn.Linear(4, 4)
        self.order = order

    def forward(self, input_ids: Tensor, **_options: bool) -> Any:
        x = self.first(input_ids.float())
        for index in self.order:
            x = self.layers[index](x)
        return SimpleNamespace(logits=self.first(x))


LOOPING = Layout(components={}, stacks=(Stack(component="language", path="layers"),), head=None)
LOOPING_BATCH = Batch(
    inputs={"input_ids": torch.arange(8).reshape(1, 2, 4)},
    target=torch.ones(1, 2, dtype=torch.bool),
    sample_ids=("a",),
    kinds=("text",),
)


@pytest.mark.parametrize("order", [(0, 1, 1, 2), (0, 1, 1, 1, 2), (0, 1, 2, 1)])
def test_a_block_that_runs_again_is_never_answered_for(order: tuple[int, ...]) -> None:
    model = Looping(order)
    ops = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    engine = ReplayEngine(model, LOOPING, ops, CPU)
    capture = engine.capture(LOOPING_BATCH)
    assert capture.before["layers.2.0"] == {"layers.0"}
    with Simulation(model, dict.fromkeys(ops, DYNAMIC)) as simulation, torch.inference_mode():
        for op in ops:
            simulation.activate({op})
            expected = model(**LOOPING_BATCH.inputs).logits
            assert torch.equal(engine.replay(capture, op), expected), op


def test_an_op_that_runs_twice_is_replayed_from_its_first_run() -> None:
    engine = ReplayEngine(Looping((0, 1, 2)), LOOPING, ["first"], CPU)
    assert engine.capture(LOOPING_BATCH).before == {"first": frozenset()}
