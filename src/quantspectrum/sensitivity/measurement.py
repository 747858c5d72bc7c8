"""The phases of a native scoring: calibrate, cheap passes, the scan, the second ranking."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from quantspectrum.artifacts import EngineNote, Rescored
from quantspectrum.data.encode import Batch
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity import MEASURED, measured_metric, pass_metric
from quantspectrum.sensitivity.anytime import measuring_order
from quantspectrum.sensitivity.calibration import Ranges, observe_op_ranges
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.metric import MeasuredMetric, PassContext, PassMetric
from quantspectrum.sensitivity.ranking import (
    Collected,
    collect_measured,
    collect_pass,
    rank,
    whole_batches,
)
from quantspectrum.sensitivity.request import ESTIMATOR, NativeRequest
from quantspectrum.sensitivity.rescore import most_sensitive, rescored
from quantspectrum.sensitivity.scan import UNREACHED, OutOfTime, Scan, journal_key
from quantspectrum.sensitivity.slots import choose_slots
from quantspectrum.sensitivity.store import default_limit
from quantspectrum.simulation import OpPlan, Part, Simulation

__all__ = ["Measurement"]

RESCORED = "rescored/"
"""Journal prefix of the second ranking."""

SLOTS = (0, "<slots>")
"""Journal entry of how many ops are replayed together, where timing said so."""


class Measurement:
    """One call of the lens: its phases, and what they hand to one another.

    Attributes:
        ops: Candidates that can be scored: static formats need the calibration data to reach them.
    """

    def __init__(
        self,
        loaded: Loaded,
        table: OpTable,
        request: NativeRequest,
        step: Callable[[], None],
    ) -> None:
        self._loaded = loaded
        self._table = table
        self._request = request
        self._step = step
        self._start = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._ranges, self._output_ranges = self._calibrate()
        self._plans = {fmt.name: self._plans_of(fmt) for fmt in request.formats}
        # Ops that the calibration data reaches in every format.
        self.ops = [
            op for op in table.candidates if all(op.name in plans for plans in self._plans.values())
        ]
        self._names = [op.name for op in self.ops]
        self._engine = ReplayEngine(
            loaded.model,
            loaded.layout,
            self._names,
            loaded.device,
            memory_limit=request.memory_limit,
        )
        self._order = self._names
        self._slots = request.slots or 1
        self._journal = Journal(None, {})
        self._restored: tuple[str, ...] = ()

    def run(self) -> str | None:
        """Measure; returns what stopped it early, if anything did."""
        request = self._request
        with Journal(request.journal, self._journal_key()) as self._journal:
            try:
                self._run_passes()
                self._run_scan()
                self._run_rescore()
            except KeyboardInterrupt:
                return "interrupted"
            except OutOfTime:
                return "time budget"
        return None

    @property
    def _deadline(self) -> float | None:
        budget = self._request.time_budget
        return None if budget is None else self._start + budget

    def _calibrate(self) -> tuple[dict[str, Ranges], dict[str, Ranges]]:
        start = time.monotonic()
        names = [op.name for op in self._table.candidates]
        inputs: dict[str, Ranges] = {}
        outputs: dict[str, Ranges] = {}
        for fmt in self._request.formats:
            observed = observe_op_ranges(
                self._loaded.model, names, self._request.calibration, self._loaded.device, fmt
            )
            inputs[fmt.name], outputs[fmt.name] = observed.inputs, observed.outputs
        self._seconds["calibration"] = time.monotonic() - start
        return inputs, outputs

    def _plans_of(self, fmt: Format) -> dict[str, OpPlan]:
        """A plan for every op that can have one: static formats need ranges."""
        inputs = self._ranges.get(fmt.name, {})
        outputs = self._output_ranges.get(fmt.name, {})
        observed = inputs.keys() | outputs.keys()
        return {
            op.name: OpPlan(
                format=fmt,
                input_range=inputs.get(op.name),
                output_range=outputs.get(op.name),
                scale_dtype=self._loaded.storage_dtype,
            )
            for op in self._table.candidates
            if not fmt.needs_calibration or op.name in observed
        }

    def _run_passes(self) -> None:
        start = time.monotonic()
        request = self._request
        for metric in request.passes():
            for fmt, plans in self._plans.items():
                context = PassContext(
                    model=self._loaded.model,
                    engine=self._engine,
                    layout=self._loaded.layout,
                    plans={name: plans[name] for name in self._names},
                    device=self._loaded.device,
                    seed=request.seed,
                    probes=request.probes,
                    loss=request.loss,
                )
                self._run_pass(metric, fmt, context)
        self._seconds["passes"] = time.monotonic() - start

    def _run_pass(self, metric: PassMetric, fmt: str, context: PassContext) -> None:
        estimating = metric.NAME not in self._request.metrics
        for index, batch in enumerate(self._request.selection):
            if (index, journal_key(self._names[-1], fmt, metric.NAME)) in self._journal:
                continue
            if estimating and index and self._deadline and time.monotonic() > self._deadline:
                break
            found = metric.collect(context, batch, index)
            for op in self._names:
                samples = len(batch.sample_ids)
                missing = {UNREACHED: [1.0] * samples} | metric.absent(samples)
                values = found.get(op, missing)
                self._journal.add(index, journal_key(op, fmt, metric.NAME), values)

    def _run_scan(self) -> None:
        start = time.monotonic()
        request = self._request
        if not request.measured():
            return
        try:
            if request.limited:
                self._order = self._chosen()
            if request.slots is None:
                # Kept, so that a scan that goes on replays ops in the same company.
                if SLOTS not in self._journal:
                    self._journal.add(*SLOTS, {"slots": [float(self._timed_slots())]})
                self._slots = int(self._journal[SLOTS]["slots"][0])
            parts: tuple[Part, ...] = ("both",)
            if request.attribute:
                parts = ("both", "weight", "activation")
            self._scan(self._order, self._plans, parts=parts).run(request.selection)
        finally:
            self._seconds["scan"] = time.monotonic() - start

    def _timed_slots(self) -> int:
        """Slots that pay, with the model computing as it will around the ops under test."""
        plans = next(iter(self._plans.values()))
        with Simulation(self._loaded.model, plans, cache_bytes=self._cache_bytes()) as simulation:
            if self._request.base == "fallback":
                simulation.activate_all()
            batches = self._request.selection
            replays = self._request.steps(len(self._order))
            return choose_slots(self._engine, batches[0], self._loaded.device, replays)

    def _chosen(self) -> list[str]:
        """Names of the ops to measure, nearest to the cut points first."""
        fmt = self._request.formats[0].name
        order = measuring_order(self.ops, self.cheap(fmt), self._request.cuts)
        return [op.name for op in order][: self._request.max_ops]

    def _scan(
        self,
        ops: Sequence[str],
        plans: Mapping[str, Mapping[str, OpPlan]],
        *,
        parts: tuple[Part, ...] = ("both",),
        prefix: str = "",
    ) -> Scan:
        return Scan(
            model=self._loaded.model,
            engine=self._engine,
            layout=self._loaded.layout,
            plans=plans,
            ops=ops,
            base=self._request.base,
            metrics=self._request.measured(),
            journal=self._journal,
            step=self._step,
            parts=parts,
            slots=self._slots,
            deadline=self._deadline,
            cache_bytes=self._cache_bytes(),
            prefix=prefix,
        )

    def _cache_bytes(self) -> int:
        """Room for weight codes: on a GPU a weight is quantized faster than codes are read."""
        if self._request.base == "isolate" or self._loaded.device.type == "cuda":
            return 0
        return default_limit(self._loaded.device)

    def _run_rescore(self) -> None:
        request = self._request
        if not request.rescore:
            return
        start = time.monotonic()
        fmt = request.formats[0].name
        ranked = rank(self.ops, self._collected(request.measured()[0], fmt, None).summaries)
        self._restored = most_sensitive(ranked, request.rescore)
        rest = [name for name in self._names if name not in self._restored]
        again = self._ranked_again()
        for _ in range((len(self._order) - len(again)) * len(request.selection)):
            self._step()  # What is restored is done.
        if again:
            # All but the restored ops stay quantized, those too that a limit leaves unmeasured.
            plans = {fmt: {name: self._plans[fmt][name] for name in rest}}
            self._scan(again, plans, prefix=RESCORED).run(request.selection)
        self._seconds["rescore"] = time.monotonic() - start

    def _ranked_again(self) -> list[str]:
        """Ops of the second ranking: what was measured, less what is restored."""
        measured = set(self._order) - set(self._restored)
        return [name for name in self._names if name in measured]

    def _collected(
        self, metric: MeasuredMetric, fmt: str, stopped_by: str | None, part: str = "both"
    ) -> Collected:
        """Scores of a measured metric over the batches that are complete for what was wanted."""
        count = len(self._request.selection)
        whole = whole_batches(
            self._order, self._journal, count, lambda op: journal_key(op, fmt, part)
        )
        return collect_measured(
            metric,
            self._names,
            self._journal,
            self._request.base,
            fmt,
            batches=whole,
            unfinished=stopped_by if len(whole) < count else None,
            part=part,
        )

    def collected(self, metric: str, fmt: str, stopped_by: str | None) -> Collected:
        """Scores of any metric that was asked for."""
        if metric in MEASURED:
            return self._collected(measured_metric(metric), fmt, stopped_by)
        count = len(self._request.selection)
        return collect_pass(pass_metric(metric), self._names, self._journal, fmt, count)

    def parts(self, metric: str, fmt: str) -> dict[str, Collected]:
        """Scores of each part of the ops, where they were measured."""
        if not self._request.attribute or metric not in MEASURED:
            return {}
        return {
            part: self._collected(measured_metric(metric), fmt, None, part)
            for part in ("weight", "activation")
        }

    def cheap(self, fmt: str) -> dict[str, float]:
        """The estimator's scores, by name."""
        count = len(self._request.selection)
        found = collect_pass(pass_metric(ESTIMATOR), self._names, self._journal, fmt, count)
        return {name: made.score for name, made in found.summaries.items()}

    def ranges(self, fmt: str) -> Ranges:
        """Calibrated input ranges in a format."""
        return self._ranges.get(fmt, {})

    def rescored(self, metric: str, fmt: str) -> Rescored | None:
        """The second ranking, where it is of that metric and format and complete."""
        request = self._request
        first = request.measured()[:1]
        wanted = [made.NAME for made in first] == [metric] and fmt == request.formats[0].name
        if not self._restored or not wanted:
            return None
        rest = self._ranked_again()
        count = len(request.selection)
        keys = [journal_key(op, fmt, "both", RESCORED) for op in rest]
        if not all((i, key) in self._journal for i in range(count) for key in keys):
            return None
        before = rank(self.ops, self._collected(first[0], fmt, None).summaries)
        after = collect_measured(
            first[0],
            rest,
            self._journal,
            request.base,
            fmt,
            batches=range(count),
            unfinished=None,
            prefix=RESCORED,
        )
        return rescored(before, self._restored, after.summaries)

    def note(self) -> EngineNote:
        """How it ran."""
        batches = self._request.selection
        return EngineNote(
            replay=self._engine.whole is None,
            whole_because=self._engine.whole,
            head_read=self._engine.head is not None,
            slots=self._slots if self._engine.whole is None else 1,
            batches=len(batches),
            batch_size=max(len(batch.sample_ids) for batch in batches),
            captured_bytes=self._engine.captured,
            seconds=self._seconds,
        )

    def _journal_key(self) -> dict[str, Any]:
        """What must be the same for measurements to be taken over."""
        request, loaded = self._request, self._loaded
        static = any(fmt.needs_calibration for fmt in request.formats)
        return {
            "lens": "native",
            "metrics": list(request.metrics),
            "base": request.base,
            "formats": [fmt.model_dump(mode="json") for fmt in request.formats],
            "model": loaded.identity.model_dump(mode="json"),
            "device": loaded.device.type,
            "data": [identity.model_dump(mode="json") for identity in request.data],
            "ops": self._names,
            "seed": request.seed,
            "probes": request.probes,
            "calibration": [_digest(batch) for batch in request.calibration if static],
            "batches": [_digest(batch) for batch in request.selection],
        }


def _digest(batch: Batch) -> str:
    """Hash of a batch's inputs, as cut and padded."""
    sha = hashlib.sha256()
    for name, values in sorted(batch.inputs.items()):
        sha.update(f"{name}{tuple(values.shape)}{values.dtype}".encode())
        sha.update(values.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
