"""What the native lens is asked: metrics, formats, base, data and limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from quantspectrum.artifacts import DataIdentity
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import Format
from quantspectrum.models.tasks import Task
from quantspectrum.sensitivity import (
    MEASURED,
    PASSES,
    check_metrics,
    measured_metric,
    pass_metric,
)
from quantspectrum.sensitivity.metric import MeasuredMetric, PassMetric
from quantspectrum.sensitivity.scan import Base

__all__ = ["ESTIMATOR", "NativeRequest"]

ESTIMATOR = "visibility"
"""Metric that ranks everything first when not everything will be measured."""


TELLS_TOKENS: tuple[Task, ...] = ("causal-lm", "image-text-to-text", "masked-lm")
"""Tasks whose models have a loss on tokens."""

GIVES_FEATURES: tuple[Task, ...] = ("text", "image")
"""Tasks whose models' output is not known to be logits."""


@dataclass(frozen=True, kw_only=True)
class NativeRequest:
    """What to score and on what.

    Attributes:
        formats: Formats tried on every op; one report each.
        metrics: Metrics; one report each. The first one orders what is measured first.
        base: What surrounds the op under test.
        calibration: Batches that set static ranges.
        selection: Batches the scores are measured on.
        data: Identities of both sets.
        seed: Seed the data was drawn with; random probes use it too.
        journal: File that makes the scan resumable.
        attribute: Measure the weight's and the activations' parts too.
        max_ops: Measure no more ops than this; the others are estimated.
        time_budget: Seconds after which no more is measured; what is left is estimated.
        cuts: Shares of groups where profiles end: measuring begins there under a limit.
        rescore: Groups to restore for a second ``fallback`` ranking; 0 makes none.
        memory_limit: Bytes of captured tensors on the device; ``None`` is half of what is free.
        slots: Ops replayed together, slot 0 counted; ``None`` finds out by timing.
        probes: Random probes of ``hawq_v2`` a batch.
        loss: Loss of logits and batch for ``hawq_v2`` instead of the model's.
    """

    formats: tuple[Format, ...]
    base: Base
    calibration: Sequence[Batch]
    selection: Sequence[Batch]
    data: tuple[DataIdentity, ...]
    seed: int
    metrics: tuple[str, ...] = ("mse_v2",)
    journal: Path | None = None
    attribute: bool = False
    max_ops: int | None = None
    time_budget: float | None = None
    cuts: tuple[float, ...] = (0.15, 0.45, 0.75)
    rescore: int = 0
    memory_limit: int | None = None
    slots: int | None = None
    probes: int = 8
    loss: Callable[[Tensor, Batch], Tensor] | None = None

    def check(self, task: Task) -> None:
        """Refuse what contradicts itself, or has no meaning for a model of that task.

        Raises:
            UserError: Naming the contradiction and what to ask instead.
        """
        check_metrics(self.metrics, self.base)
        if self.rescore and (self.base != "fallback" or self.measured() == []):
            raise UserError("--rescore ranks again from base fallback; give --base fallback")
        if (self.limited or self.attribute) and not self.measured():
            raise UserError(
                f"metric {self.metrics[0]} measures all ops at once; limits and --attribute are "
                f"for: {', '.join(MEASURED)}"
            )
        takes_loss = {"nll"} | ({"hawq_v2"} if self.loss is None else set())
        for metric in self.metrics:
            if metric in takes_loss and task not in TELLS_TOKENS:
                raise UserError(
                    f"metric {metric} takes a loss on tokens, and a model for {task} tells none; "
                    "use another metric, such as mse_v2"
                )
            if metric in ("kl", "visibility") and task in GIVES_FEATURES:
                raise UserError(
                    f"metric {metric} compares predictions, and a model for {task} gives features "
                    "and no logits; use another metric, such as mse_v2"
                )

    @property
    def limited(self) -> bool:
        """Whether not everything may be measured."""
        return self.max_ops is not None or self.time_budget is not None

    def steps(self, ops: int) -> int:
        """Steps of progress that scoring so many candidates takes: one an op, batch and part.

        The second ranking counts every measured op once more, the restored ones too.
        """
        if not self.measured():
            return 0
        rounds = len(self.formats) * (3 if self.attribute else 1) + (1 if self.rescore else 0)
        return min(ops, self.max_ops or ops) * len(self.selection) * rounds

    def measured(self) -> list[MeasuredMetric]:
        """The metrics that replay."""
        return [measured_metric(name) for name in self.metrics if name in MEASURED]

    def passes(self) -> list[PassMetric]:
        """The metrics that take all ops at once, the estimator too where it is needed."""
        names = [name for name in self.metrics if name in PASSES]
        if self.limited and ESTIMATOR not in names:
            names.append(ESTIMATOR)
        return [pass_metric(name) for name in names]
