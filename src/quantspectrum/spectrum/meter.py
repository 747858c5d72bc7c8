"""Measuring profiles of a loaded model, without writing a checkpoint.

A profile is simulated (:mod:`quantspectrum.simulation`): exactly its ops compute as if quantized in
their formats. Batches are the outer loop and profiles the inner one, so that the unquantized model's
output is computed once a batch, and a profile costs one forward pass of it. Everything is kept sample
by sample: profiles are compared on the same samples, in pairs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from quantspectrum.artifacts import Spectrum
from quantspectrum.data.encode import Batch, encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.generation import answer, asked, judge
from quantspectrum.evaluate.latency import forget_pictures
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded, check_unquantized
from quantspectrum.sensitivity import measured_metric
from quantspectrum.sensitivity.calibration import OpRanges, observe_op_ranges
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.metric import NOT_FINITE
from quantspectrum.sensitivity.outputs import Difference, Reference, Rows, output_error
from quantspectrum.sensitivity.store import default_limit
from quantspectrum.simulation import OpPlan, Simulation

__all__ = ["Meter", "Ops", "Plans", "Reading", "ops_sha256", "plans_for", "plans_in"]

Ops = Mapping[str, str]
"""Op name to format name."""

Plans = Mapping[str, Mapping[str, OpPlan]]
"""For each format, by its name, how it quantizes each op."""


def ops_sha256(ops: Ops) -> str:
    """SHA-256 of ops and formats as canonical JSON."""
    return hashlib.sha256(json.dumps(dict(ops), sort_keys=True).encode()).hexdigest()


def plans_in(
    loaded: Loaded, names: Sequence[str], fmt: Format, ranges: OpRanges
) -> dict[str, OpPlan]:
    """A plan for each op in one format.

    Raises:
        UserError: An op lacks a range that the format needs.
    """
    plans = {
        name: OpPlan(
            format=fmt,
            input_range=ranges.inputs.get(name),
            output_range=ranges.outputs.get(name),
            scale_dtype=loaded.storage_dtype,
        )
        for name in names
    }
    for name, plan in plans.items():
        try:
            plan.check(name)
        except ValueError as error:
            raise UserError(f"{error}; give more --calibration samples") from None
    return plans


def plans_for(
    loaded: Loaded, spectrum: Spectrum, calibration: Callable[[], Sequence[Batch]]
) -> dict[str, dict[str, OpPlan]]:
    """A plan for every candidate in every format of a spectrum.

    Input ranges are the spectrum's own. Where one is lacking, or a format quantizes outputs, whose
    ranges no spectrum holds, both are observed on the calibration batches, which are made only then.

    Raises:
        UserError: The spectrum is of other weights, the model lacks one of its ops, or the
            calibration data never reaches one.
    """
    check_unquantized(loaded)
    if spectrum.model.weights_fingerprint != loaded.identity.weights_fingerprint:
        raise UserError(
            f"the spectrum was made for {spectrum.model.id} in {spectrum.model.dtype}; the weights "
            f"of {loaded.identity.id} in {loaded.identity.dtype} differ: give that model"
        )
    names = [op.name for op in spectrum.candidates]
    modules = dict(loaded.model.named_modules())
    if lacking := [name for name in names if name not in modules]:
        raise UserError(f"the model has no op {lacking[0]!r}, which the spectrum names")
    plans: dict[str, dict[str, OpPlan]] = {}
    for key, fmt in spectrum.formats.items():
        held = {name: spectrum.input_range(name, key) for name in names}
        known = all(held.values())
        ranges = OpRanges(inputs={name: found for name, found in held.items() if found})
        if fmt.output is not None or (fmt.needs_calibration and not known):
            ranges = observe_op_ranges(loaded.model, names, calibration(), loaded.device, fmt)
        plans[key] = plans_in(loaded, names, fmt, ranges)
    return plans


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What each sample says of one profile, or of the unquantized model.

    Attributes:
        values: Named values, one number a sample, in the order of the meter's samples; what was not
            finite is 1e30.
        not_finite: Samples with a value that was not finite.
    """

    values: Mapping[str, tuple[float, ...]]
    not_finite: int = 0


@dataclass
class Meter:
    """Measures profiles on the same batches, against the unquantized model.

    Args:
        loaded: The model.
        plans: How each op is quantized in each format.
        batches: What to measure on.
        metrics: Measured metrics whose values are taken, by name.
        asked: Samples with prompts and references, for exact match.
        batch_size: Prompts answered together.
        max_new_tokens: Longest answer.
        memory_limit: Bytes for what spares computing again: outputs of the unquantized model, and
            quantized weights, half each. By default half of what is free.
    """

    loaded: Loaded
    plans: Plans
    batches: Sequence[Batch]
    metrics: Sequence[str] = ("kl", "nll")
    asked: Sequence[Sample] = ()
    batch_size: int = 8
    max_new_tokens: int = 48
    memory_limit: int | None = None
    _kept: dict[int, Reference] = field(default_factory=dict, repr=False)
    _simulations: list[tuple[str, Simulation]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        """Look up the model's head, and how much room there is."""
        names = sorted({name for plans in self.plans.values() for name in plans})
        self._engine = ReplayEngine(
            self.loaded.model, self.loaded.layout, names, self.loaded.device
        )
        self._metrics = [measured_metric(name) for name in self.metrics]
        limit = self.memory_limit
        self._room = (default_limit(self.loaded.device) if limit is None else limit) // 2

    @property
    def samples(self) -> tuple[str, ...]:
        """Ids of the samples, in the order of all values."""
        return tuple(sample for batch in self.batches for sample in batch.sample_ids)

    @contextmanager
    def simulating(self) -> Iterator[None]:
        """Keep quantized weights from one call of :meth:`measure` to the next while entered."""
        if self._simulations:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(self.loaded.layout.faster())
            room = self._room // max(1, len(self.plans))
            for name, plans in self.plans.items():
                codes = 0 if self.loaded.device.type == "cuda" else room // 4
                simulation = Simulation(
                    self.loaded.model, plans, cache_bytes=codes, weight_bytes=room - codes
                )
                self._simulations.append((name, stack.enter_context(simulation)))
            try:
                yield
            finally:
                self._simulations.clear()

    @torch.no_grad()
    def measure(
        self, profiles: Sequence[Ops], *, step: Callable[[], None] = lambda: None
    ) -> list[Reading]:
        """One reading for each profile; ``step`` is called after each profile and batch.

        Raises:
            UserError: The unquantized model's output is not finite, or memory does not suffice.
        """
        found: list[dict[str, list[float]]] = [{} for _ in profiles]
        try:
            with self.simulating():
                for index in range(len(self.batches)):
                    for values, made in zip(found, self._batch(index, profiles, step), strict=True):
                        for key, numbers in made.items():
                            values.setdefault(key, []).extend(numbers)
        except torch.OutOfMemoryError:
            raise UserError(
                f"a batch does not fit on {self.loaded.device}; give a smaller --batch-size or "
                "--max-length"
            ) from None
        return [_reading(values) for values in found]

    @cached_property
    def baseline(self) -> Reading:
        """The unquantized model: each metric's reference values, and its ``nll`` sums per sample."""
        values: dict[str, list[float]] = {}
        with torch.no_grad(), self.simulating():
            for index in range(len(self.batches)):
                reference = self._reference(index)
                made = {"nll": reference.rows.per_sample(_nll(reference))}
                for metric in self._metrics:
                    made |= metric.reference_values(reference)
                for key, tensor in made.items():
                    values.setdefault(key, []).extend(tensor.double().tolist())
        return _reading(values)

    def correct(self, ops: Ops) -> dict[str, bool]:
        """Whether the greedy answer to each prompt equals a reference, by sample id.

        Raises:
            UserError: No sample has references.
        """
        samples = asked(self.asked)
        with self.simulating():
            self._activate(ops)
            try:
                prompts = encode_prompts(samples, self.loaded.processor, batch_size=self.batch_size)
                said = answer(self.loaded, prompts, max_new_tokens=self.max_new_tokens)
            finally:
                self._activate({})
                forget_pictures(self.loaded)
        made = judge(samples, said)
        if made is None:
            raise UserError(
                "no sample has a prompt with references to compare answers with; give such "
                "--data, or a budget of nll or kl"
            )
        return dict(made.correct)

    def _activate(self, ops: Ops) -> None:
        for name, simulation in self._simulations:
            simulation.activate(op for op, fmt in ops.items() if fmt == name)

    def _batch(
        self, index: int, profiles: Sequence[Ops], step: Callable[[], None]
    ) -> list[dict[str, list[float]]]:
        reference = self._reference(index)
        inputs = self.batches[index].to(self.loaded.device).inputs
        pending: list[dict[str, Tensor]] = []
        try:
            for ops in profiles:
                self._activate(ops)
                difference = Difference(reference, self._engine.run(inputs))
                values: dict[str, Tensor] = {}
                for metric in self._metrics:
                    values |= metric.measure(difference)
                pending.append(values)
                step()
        finally:
            self._activate({})
        # Fetched together, so that the device never waits for the host between two profiles.
        tensors = [tensor for values in pending for tensor in values.values()]
        lists = iter(torch.stack(tensors).double().tolist() if tensors else [])
        return [{key: next(lists) for key in values} for values in pending]

    def _reference(self, index: int) -> Reference:
        if index in self._kept:
            return self._kept[index]
        batch = self.batches[index]
        inputs = batch.to(self.loaded.device).inputs
        self._activate({})
        self._engine.check_head(inputs)
        values = self._engine.run(inputs)
        rows = Rows.of(batch, inputs, values, self.loaded.layout)
        reference = Reference(rows=rows, values=rows.pick(values), head=self._engine.head)
        norms = rows.per_sample(reference.squared_norm()).tolist()
        for sample, norm in zip(batch.sample_ids, norms, strict=True):
            if not 0 < norm < math.inf:
                raise output_error(sample)
        size = _kept_bytes(reference)
        if size + sum(map(_kept_bytes, self._kept.values())) <= self._room:
            self._kept[index] = reference
        return reference


def _kept_bytes(reference: Reference) -> int:
    """What a reference takes with all that is derived from it."""
    values, head = reference.values, reference.head
    width = values.shape[-1] if head is None else head.module.out_features
    row = values.shape[-1] * (values.element_size() + 4) + 2 * width
    return len(values) * row


def _nll(reference: Reference) -> Tensor:
    """Negative log-likelihood at each row's label, float32; 0 where there is none."""
    parts = []
    for s in reference.chunks():
        some = reference.values[s]
        logits = some.float() if reference.head is None else reference.head.logits(some)
        label = reference.rows.label[s]
        place = label.clamp(0, logits.shape[-1] - 1)
        at = torch.log_softmax(logits, dim=-1).gather(-1, place[:, None]).squeeze(-1)
        parts.append(torch.where(label >= 0, -at, 0.0))
    return torch.cat(parts)


def _reading(values: Mapping[str, Sequence[float]]) -> Reading:
    lost = {
        place
        for numbers in values.values()
        for place, number in enumerate(numbers)
        if not math.isfinite(number)
    }
    kept = {
        key: tuple(number if math.isfinite(number) else NOT_FINITE for number in numbers)
        for key, numbers in values.items()
    }
    return Reading(values=kept, not_finite=len(lost))
