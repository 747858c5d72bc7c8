"""What tests of scores share: requests, scans of tiny models, and the same by whole passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.artifacts import SensitivityReport
from quantspectrum.data.encode import Batch
from quantspectrum.formats import Format, preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.sensitivity.calibration import observe_op_ranges
from quantspectrum.sensitivity.outputs import Head, Reference, Rows
from quantspectrum.simulation import OpPlan, Simulation

Base = Literal["isolate", "fallback"]
BASES: tuple[Base, ...] = ("isolate", "fallback")
TEXT = [models_tiny.text_batch(), models_tiny.text_batch((5, 9, 4), seed=1, name="more")]
MIXED = [models_tiny.text_batch(vision=True), models_tiny.image_batch()]
UNSEEN = [models_tiny.text_batch((8, 8), seed=2, name="unseen")]


def nothing() -> None:
    """A step that does nothing."""


def request_of(
    formats: str | Sequence[str] = "w8a8",
    base: Base = "isolate",
    *,
    selection: Sequence[Batch] = TEXT,
    calibration: Sequence[Batch] = UNSEEN,
    **more: Any,
) -> NativeRequest:
    """A request; ops are replayed one by one unless ``slots`` says otherwise."""
    names = (formats,) if isinstance(formats, str) else formats
    asked: dict[str, Any] = {
        "formats": tuple(preset(name) for name in names),
        "base": base,
        "calibration": calibration,
        "selection": selection,
        "data": models_tiny.identities(*selection),
        "seed": 7,
        "slots": 1,
    }
    return NativeRequest(**asked | more)


def score_all(
    model: nn.Module | Loaded,
    formats: str | Sequence[str] = "w8a8",
    base: Base = "isolate",
    *,
    step: Callable[[], None] = nothing,
    table: OpTable | None = None,
    **more: Any,
) -> list[SensitivityReport]:
    """Reports of every metric and format asked for."""
    loaded = model if isinstance(model, Loaded) else models_tiny.loaded(model)
    table = table or list_ops(loaded.model, loaded.layout)
    return score_ops(loaded, table, request_of(formats, base, **more), step=step)


def score(model: nn.Module | Loaded, *args: Any, **more: Any) -> SensitivityReport:
    """The one report of a request for one metric and format."""
    (report,) = score_all(model, *args, **more)
    return report


def scores(report: SensitivityReport) -> dict[str, float]:
    """Score by op."""
    return {op.name: op.score for op in report.ops}


def by_whole_passes(model: nn.Module) -> Loaded:
    """The model laid out as one of unknown structure, of which nothing is replayed in part."""
    loaded = models_tiny.loaded(model)
    return replace(loaded, layout=replace(loaded.layout, stacks=()))


def stop_at(count: int) -> Callable[[], None]:
    """A step that interrupts the scan when it is called for the ``count``-th time."""
    calls = itertools.count(1)

    def step() -> None:
        if next(calls) == count:
            raise KeyboardInterrupt

    return step


def plans_of(loaded: Loaded, fmt: Format, calibration: Sequence[Batch]) -> dict[str, OpPlan]:
    """A plan for every candidate, calibrated on all of the data at once."""
    names = [op.name for op in list_ops(loaded.model, loaded.layout).candidates]
    ranges = observe_op_ranges(loaded.model, names, calibration, loaded.device, fmt)
    return {
        name: OpPlan(
            format=fmt,
            input_range=ranges.inputs.get(name),
            output_range=ranges.outputs.get(name),
            scale_dtype=loaded.storage_dtype,
        )
        for name in names
    }


def logits_with(loaded: Loaded, plans: dict[str, OpPlan], active: set[str], batch: Batch) -> Tensor:
    """Logits of a whole forward pass with exactly these ops quantized, float64."""
    with Simulation(loaded.model, plans) as simulation, loaded.layout.faster():
        simulation.activate(active)
        return models_tiny.logits(loaded.model, batch).double()


def reference_of(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    head: Head | None = None,
    image: Tensor | None = None,
    label: Tensor | None = None,
) -> Reference:
    """A reference output ``(batch, tokens, features)``, with the positions of ``mask`` scored.

    Args:
        values: Logits, or the head's input where one is given.
        mask: ``(batch, tokens)`` bool; all positions without one.
        head: Turns the values into logits.
        image: ``(batch, tokens)`` bool: positions of pictures.
        label: ``(batch, tokens)``: next token, or -1.
    """
    shape = (values.shape[0], values.shape[1])
    image = torch.zeros(shape, dtype=torch.bool) if image is None else image
    label = torch.full(shape, -1) if label is None else label
    index = None if mask is None else mask.flatten().nonzero().squeeze(-1)
    image, label = (x.flatten() if index is None else x.flatten()[index] for x in (image, label))
    rows = Rows(shape=shape, index=index, image=image, label=label)
    return Reference(rows=rows, values=rows.pick(values), head=head)
