"""Measuring every op on every batch, from either base, through a journal.

Batches are the outer loop: after the first one every op has a score, and each further one makes
all of them more certain together. Memory holds one batch's capture at a time. Results are fetched
from the device in bursts, so that it never waits for the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.models.adapter import Layout
from quantspectrum.sensitivity.capture import Capture
from quantspectrum.sensitivity.engine import Activate, ReplayEngine
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.metric import MeasuredMetric
from quantspectrum.sensitivity.outputs import Difference, Reference, Rows, output_error
from quantspectrum.simulation import OpPlan, Part, Simulation

__all__ = ["EVERYTHING", "REFERENCE", "UNREACHED", "Base", "OutOfTime", "Scan", "journal_key"]

Base = Literal["isolate", "fallback"]

REFERENCE = "<reference>"
"""Journal entry of a batch's unperturbed output."""
EVERYTHING = "<everything quantized>"
"""Stands for an op in the journal entry of a batch with every candidate quantized."""
UNREACHED = "unreached"
"""Key of the values of an op that a batch does not run."""

FETCH_SECONDS = 0.25
"""Results wait on the device no longer than this; a killed process loses no more."""

Task = tuple[str, Part]
"""An op and what of it is under test."""

OTHER_PART: Mapping[Part, Part] = {"weight": "activation", "activation": "weight"}


class OutOfTime(Exception):  # noqa: N818 - not an error: what was measured is kept
    """The time budget is spent."""


def journal_key(op: str, fmt: str, part: str = "both", prefix: str = "") -> str:
    """Name of an op's measurement in one format in the journal."""
    return f"{prefix}{fmt}/{part}/{op}"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan: what is measured, from which base, and where it is written.

    Attributes:
        model: The model, unperturbed.
        engine: Captures and replays it.
        layout: Where its parts are.
        plans: For each format, by its name, the plan of every candidate.
        ops: Candidates to measure, in the order they are wanted.
        base: What surrounds the op under test.
        metrics: What is measured of each output.
        parts: Parts of each op that are measured apart, besides ``both``.
        journal: Where measurements go; those already there are not repeated.
        step: Called after each op and batch; may raise to stop the scan.
        slots: Ops of one block replayed together, at most.
        deadline: ``time.monotonic()`` after which no further op is begun.
        cache_bytes: Room for weight codes, see :class:`Simulation`.
        prefix: Sets the journal entries of this scan apart.
    """

    model: nn.Module
    engine: ReplayEngine
    layout: Layout
    plans: Mapping[str, Mapping[str, OpPlan]]
    ops: Sequence[str]
    base: Base
    metrics: Sequence[MeasuredMetric]
    journal: Journal
    step: Callable[[], None]
    parts: tuple[Part, ...] = ("both",)
    slots: int = 1
    deadline: float | None = None
    cache_bytes: int = 0
    prefix: str = ""
    _pending: list[tuple[int, str, dict[str, Tensor]]] = field(default_factory=list)
    _fetched: list[float] = field(default_factory=lambda: [time.monotonic()])

    def run(self, batches: Sequence[Batch]) -> None:
        """Measure every op on every batch that the journal does not hold yet.

        Raises:
            OutOfTime: The deadline passed; what was measured is in the journal.
        """
        tasks = self._tasks()
        for index, batch in enumerate(batches):
            missing = {
                fmt: {
                    (op, part)
                    for op, part in tasks
                    if (index, self._key(op, fmt, part)) not in self.journal
                }
                for fmt in self.plans
            }
            for _ in range(len(self.plans) * len(tasks) - sum(map(len, missing.values()))):
                self.step()
            if any(missing.values()):
                self._run_batch(index, batch, missing)

    def _tasks(self) -> list[Task]:
        return [(op, part) for op in self.ops for part in self.parts]

    def _key(self, op: str, fmt: str, part: str = "both") -> str:
        return journal_key(op, fmt, part, self.prefix)

    @torch.no_grad()
    def _run_batch(self, index: int, batch: Batch, missing: Mapping[str, Set[Task]]) -> None:
        capture = self.engine.capture(batch)
        self.engine.check(capture)
        rows = Rows.of(batch, capture.inputs, capture.values, self.layout)
        reference = Reference(rows=rows, values=rows.pick(capture.values), head=self.engine.head)
        self.journal.add(index, REFERENCE, self._reference_values(reference, batch))
        for fmt, tasks in missing.items():
            if not tasks:
                continue
            simulation = Simulation(self.model, self.plans[fmt], cache_bytes=self.cache_bytes)
            with simulation, self._fetching():
                if self.base == "fallback":
                    capture.close()
                    simulation.activate_all()
                    capture = self.engine.capture(batch)
                    self.engine.check(capture)
                    self._keep(index, self._key(EVERYTHING, fmt), reference, capture.values)
                self._measure(index, fmt, tasks, simulation, capture, reference)
        capture.close()

    def _measure(
        self,
        index: int,
        fmt: str,
        missing: Set[Task],
        simulation: Simulation,
        capture: Capture,
        reference: Reference,
    ) -> None:
        rest = self._rest(simulation)
        for together in self._bundles(capture):
            # A bundle of which only a part is missing is replayed whole: in other company the last
            # digits may be others, and a scan that goes on must end like one that never stopped.
            if missing.isdisjoint(together):
                continue
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise OutOfTime
            slots = [self._slot(simulation, op, part) for op, part in together]
            names = [op for op, _ in together]
            if names[0] not in capture.before:
                values: list[Tensor | None] = [None]
            elif len(together) > 1:
                values = [*self._replayed(capture, names, slots, rest)]
            else:
                slots[0]()
                values = [self.engine.replay(capture, names[0])]
            for task, value in zip(together, values, strict=True):
                if task in missing:
                    self._keep(index, self._key(task[0], fmt, task[1]), reference, value)
                    self.step()

    def _replayed(
        self, capture: Capture, ops: Sequence[str], slots: Sequence[Activate], rest: Activate
    ) -> list[Tensor]:
        """Replay ops together, in halves where memory does not allow all."""
        try:
            return self.engine.replay_together(capture, ops, slots, rest)
        except torch.OutOfMemoryError:
            if len(ops) == 1:
                raise
            torch.cuda.empty_cache()
        half = len(ops) // 2
        return [
            *self._replayed(capture, ops[:half], slots[:half], rest),
            *self._replayed(capture, ops[half:], slots[half:], rest),
        ]

    def _bundles(self, capture: Capture) -> Iterator[list[Task]]:
        """Tasks replayed together: neighbours in one block, where replays share a batch."""
        for block, some in groupby(self._tasks(), key=lambda task: self.engine.block_of(task[0])):
            run = list(some)
            alone = (
                block is None
                or self.engine.whole is not None
                or any(op not in capture.before for op, _ in run)
            )
            size = 1 if alone else max(1, self.slots - 1)
            for start in range(0, len(run), size):
                yield run[start : start + size]

    def _rest(self, simulation: Simulation) -> Activate:
        if self.base == "isolate":
            return partial(simulation.activate, ())
        return simulation.activate_all

    def _slot(self, simulation: Simulation, op: str, part: Part) -> Activate:
        """How the model computes with one op, or a part of it, under test."""
        if self.base == "isolate":
            return partial(simulation.activate, (), {op: part})
        others = [name for name in simulation.names if name != op]
        # Restoring a part leaves the other one quantized.
        left: dict[str, Part] = {} if part == "both" else {op: OTHER_PART[part]}
        return partial(simulation.activate, others, left)

    def _reference_values(self, reference: Reference, batch: Batch) -> dict[str, list[float]]:
        finite = reference.rows.per_sample(reference.squared_norm()).tolist()
        for sample, value in zip(batch.sample_ids, finite, strict=True):
            if not 0 < value < float("inf"):
                raise output_error(sample)
        values: dict[str, list[float]] = {}
        for metric in self.metrics:
            for key, tensor in metric.reference_values(reference).items():
                values[key] = tensor.tolist()
        return values

    def _keep(self, index: int, key: str, reference: Reference, perturbed: Tensor | None) -> None:
        """Compare, and queue the results to be fetched; ``None`` is an op the batch never runs."""
        if perturbed is None:
            samples = reference.rows.shape[0]
            self._pending.append((index, key, {UNREACHED: torch.ones(samples)}))
        else:
            difference = Difference(reference, perturbed)
            values: dict[str, Tensor] = {}
            for metric in self.metrics:
                values |= metric.measure(difference)
            self._pending.append((index, key, values))
        if time.monotonic() - self._fetched[0] > FETCH_SECONDS:
            self._fetch()

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._fetch()

    def _fetch(self) -> None:
        """Write what is pending to the journal."""
        if not self._pending:
            return
        tensors = [tensor for _, _, values in self._pending for tensor in values.values()]
        device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
        lists = iter(torch.stack([t.to(device) for t in tensors]).double().tolist())
        for index, key, values in self._pending:
            self.journal.add(index, key, {name: next(lists) for name in values})
        self._pending.clear()
        self._fetched[0] = time.monotonic()
