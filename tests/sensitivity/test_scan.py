from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.capture import Capture
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.outputs import Difference, Reference, Rows
from quantspectrum.sensitivity.scan import (
    EVERYTHING,
    REFERENCE,
    UNREACHED,
    Base,
    Scan,
    journal_key,
)
from quantspectrum.simulation import OpPlan, Simulation

OPS = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
VISION, TEXT = "model.visual.blocks.1.attn.qkv", "model.language_model.layers.0.mlp.up_proj"
DYNAMIC = OpPlan(format=preset("w8a8"))
BATCHES = [models_tiny.text_batch(), models_tiny.text_batch((5, 9, 4), seed=1, name="more")]


def key(op: str) -> str:
    return journal_key(op, "w8a8")


def nothing() -> None:
    pass


def run(
    model: nn.Module,
    ops: Sequence[str],
    batches: Sequence[Batch],
    *,
    base: Base = "isolate",
    journal: Journal | None = None,
    step: Callable[[], None] = nothing,
) -> Journal:
    journal = Journal(None, {}) if journal is None else journal
    loaded = models_tiny.loaded(model)
    Scan(
        model=model,
        engine=ReplayEngine(model, loaded.layout, ops, loaded.device),
        layout=loaded.layout,
        plans={"w8a8": dict.fromkeys(ops, DYNAMIC)},
        ops=ops,
        base=base,
        metrics=[mse_v2],
        journal=journal,
        step=step,
    ).run(batches)
    return journal


def brute_force(
    model: nn.Module, ops: Sequence[str], active: set[str], batch: Batch
) -> dict[str, list[float]]:
    """Squared error of a whole forward pass with exactly these ops quantized."""
    layout = models_tiny.loaded(model).layout
    engine = ReplayEngine(model, replace(layout, stacks=()), ops, torch.device("cpu"))
    with torch.no_grad():
        values = engine.run(batch.inputs)
        rows = Rows.of(batch, batch.inputs, values, layout)
        reference = Reference(rows=rows, values=rows.pick(values), head=engine.head)
        with Simulation(model, dict.fromkeys(ops, DYNAMIC)) as simulation:
            simulation.activate(active)
            perturbed = engine.run(batch.inputs)
    measured = mse_v2.measure(Difference(reference, perturbed))
    return {name: tensor.tolist() for name, tensor in measured.items()}


def test_isolate_measures_each_op_alone(llama: nn.Module) -> None:
    journal = run(llama, OPS, BATCHES)
    for index, batch in enumerate(BATCHES):
        for op in OPS:
            assert journal[index, key(op)] == brute_force(llama, OPS, {op}, batch)
        assert (index, key(EVERYTHING)) not in journal


def test_fallback_measures_all_and_all_but_each(llama: nn.Module) -> None:
    journal = run(llama, OPS, BATCHES, base="fallback")
    for index, batch in enumerate(BATCHES):
        assert journal[index, key(EVERYTHING)] == brute_force(llama, OPS, set(OPS), batch)
        for op in OPS:
            assert journal[index, key(op)] == brute_force(llama, OPS, set(OPS) - {op}, batch)


@pytest.mark.parametrize("base", ["isolate", "fallback"])
def test_the_reference_is_the_model_itself(llama: nn.Module, base: Base) -> None:
    journal = run(llama, OPS, BATCHES, base=base)
    for index, batch in enumerate(BATCHES):
        logits, mask = models_tiny.logits(llama, batch), batch.inputs["attention_mask"].bool()
        expected = (logits.double() * mask[..., None]).square().sum((1, 2)).tolist()
        assert journal[index, REFERENCE]["signal"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("base", ["isolate", "fallback"])
def test_an_op_that_a_batch_does_not_run_is_marked(vl: nn.Module, base: Base) -> None:
    batches = [models_tiny.text_batch(vision=True), models_tiny.image_batch()]
    journal = run(vl, [VISION, TEXT], batches, base=base)
    assert journal[0, key(VISION)] == {UNREACHED: [1.0, 1.0]}
    measured = [journal[0, key(TEXT)], journal[1, key(VISION)], journal[1, key(TEXT)]]
    assert [set(values) for values in measured] == [{"sse"}] * 3


@pytest.mark.parametrize("base", ["isolate", "fallback"])
def test_what_the_journal_holds_is_not_measured_again(
    llama: nn.Module, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(llama, OPS, BATCHES, base=base)
    part = Journal(None, {})
    for entry in [(0, key(OPS[0])), (0, key(OPS[1])), (1, key(OPS[1]))]:
        part.add(*entry, whole[entry])
    replayed: list[str] = []
    replay = ReplayEngine.replay

    def counting(self: ReplayEngine, capture: Capture, op: str) -> Tensor:
        replayed.append(op)
        return replay(self, capture, op)

    monkeypatch.setattr(ReplayEngine, "replay", counting)
    monkeypatch.setattr(ReplayEngine, "check", lambda *_args: None)
    run(llama, OPS, BATCHES, base=base, journal=part)
    assert replayed == [OPS[0]]
    everything = [(1, key(EVERYTHING))] if base == "fallback" else []
    for entry in [(1, key(OPS[0])), (1, REFERENCE), *everything]:
        assert part[entry] == whole[entry]


@pytest.mark.parametrize("known", [0, 1, 2, 3, 4])
def test_a_step_is_reported_for_each_op_and_batch(llama: nn.Module, known: int) -> None:
    journal = Journal(None, {})
    for index, op in [(0, OPS[0]), (0, OPS[1]), (1, OPS[0]), (1, OPS[1])][:known]:
        journal.add(index, key(op), {"sse": [1.0]})
    steps: Counter[str] = Counter()
    run(llama, OPS, BATCHES, journal=journal, step=lambda: steps.update(["step"]))
    assert steps["step"] == 4


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_what_was_measured_before_a_stop_is_kept(llama: nn.Module, stop: int) -> None:
    journal = Journal(None, {})
    left = iter(range(stop - 1))

    def step() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(llama, OPS, BATCHES, journal=journal, step=step)
    measured = [(index, op) for index in (0, 1) for op in OPS if (index, key(op)) in journal]
    assert measured == [(0, OPS[0]), (0, OPS[1]), (1, OPS[0]), (1, OPS[1])][:stop]
    assert models_tiny.forwards(llama) == {}


def test_a_model_whose_output_is_not_finite_is_refused(llama: nn.Module) -> None:
    with torch.no_grad():
        llama.get_parameter("lm_head.weight")[3, 5] = float("nan")
    with pytest.raises(UserError, match=r"sample text:0 is not finite .*check the checkpoint"):
        run(llama, OPS, BATCHES)
    assert models_tiny.forwards(llama) == {}


def test_a_model_whose_output_is_all_zero_is_refused(llama: nn.Module) -> None:
    with torch.no_grad():
        llama.get_parameter("lm_head.weight").zero_()
    with pytest.raises(UserError, match="all zero"):
        run(llama, OPS, BATCHES)


def rows_of(**inputs: Tensor) -> Rows:
    ids = torch.arange(6).reshape(2, 3)
    batch = Batch(
        inputs={"input_ids": ids} | inputs,
        target=torch.ones(2, 3, dtype=torch.bool),
        sample_ids=("a", "b"),
        kinds=("text", "text"),
    )
    layout = models_tiny.loaded(models_tiny.causal_lm()).layout
    return Rows.of(batch, batch.inputs, torch.zeros(2, 3, 5), layout)


def test_without_a_mask_every_token_counts() -> None:
    rows = rows_of()
    assert len(rows.pick(torch.zeros(2, 3, 5))) == 6
    assert rows.per_sample(torch.ones(6)).tolist() == [3.0, 3.0]


def test_the_mask_is_the_attention_mask() -> None:
    rows = rows_of(attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]))
    values = torch.arange(6.0).reshape(2, 3, 1)
    assert rows.pick(values).flatten().tolist() == [0, 1, 3, 4, 5]
    assert rows.per_sample(torch.ones(5)).tolist() == [2.0, 3.0]
