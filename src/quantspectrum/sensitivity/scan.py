"""Measuring every op on every batch, from either base, through a journal.

Batches are the outer loop: after the first one every op has a score, and each further one makes
all of them more certain together. Memory holds one batch's capture at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.engine import Capture, ReplayEngine
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.simulation import Simulation

__all__ = ["EVERYTHING", "REFERENCE", "UNREACHED", "Base", "Scan", "token_mask"]

Base = Literal["isolate", "fallback"]

REFERENCE = "<reference>"
"""Journal entry of a batch's own signal."""
EVERYTHING = "<everything quantized>"
"""Journal entry of a batch with every candidate quantized."""
UNREACHED = "unreached"
"""Key of the values of an op that a batch does not run."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan: what is measured, from which base, and where it is written.

    Attributes:
        engine: Captures and replays the model.
        simulation: An entered simulation with a plan for every op.
        ops: Names of the candidates.
        base: What surrounds the op under test.
        journal: Where measurements go; those already there are not repeated.
        step: Called after each op and batch; may raise to stop the scan.
    """

    engine: ReplayEngine
    simulation: Simulation
    ops: Sequence[str]
    base: Base
    journal: Journal
    step: Callable[[], None]

    def run(self, batches: Sequence[Batch]) -> None:
        """Measure every op on every batch that the journal does not hold yet."""
        for index, batch in enumerate(batches):
            missing = [op for op in self.ops if (index, op) not in self.journal]
            for _ in range(len(self.ops) - len(missing)):
                self.step()
            if missing:
                self._run_batch(index, batch, missing)

    def _run_batch(self, index: int, batch: Batch, missing: Sequence[str]) -> None:
        self.simulation.activate(())
        capture = self.engine.capture(batch)
        reference, mask = capture.logits, token_mask(capture)
        self.journal.add(index, REFERENCE, {"signal": _checked_signal(reference, mask, batch)})
        if self.base == "fallback":
            self.simulation.activate(self.ops)
            capture = self.engine.capture(batch)
            self.journal.add(index, EVERYTHING, mse_v2.measure(reference, capture.logits, mask))
        for op in missing:
            if op in capture.before:
                self.simulation.activate({op} if self.base == "isolate" else self._without(op))
                logits = self.engine.replay(capture, op)
                self.journal.add(index, op, mse_v2.measure(reference, logits, mask))
            else:
                self.journal.add(index, op, {UNREACHED: [1.0] * len(batch.sample_ids)})
            self.step()

    def _without(self, left_out: str) -> set[str]:
        return set(self.ops) - {left_out}


def token_mask(capture: Capture) -> Tensor:
    """Which positions are tokens and not padding, ``(batch, tokens)``."""
    mask = capture.inputs.get("attention_mask")
    if mask is None:
        return torch.ones(capture.logits.shape[:2], dtype=torch.bool, device=capture.logits.device)
    return mask.bool()


def _checked_signal(reference: Tensor, mask: Tensor, batch: Batch) -> list[float]:
    signals = mse_v2.signal(reference, mask)
    for sample, value in zip(batch.sample_ids, signals, strict=True):
        if not 0 < value < float("inf"):
            raise UserError(
                f"the model's own output on sample {sample} is not finite or all zero, so no "
                "op can be scored; check the checkpoint for NaN, or load it in another --dtype"
            )
    return signals
