"""Observing the ranges of every op's input and output on calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme
from quantspectrum.models.outputs import call_options
from quantspectrum.sensitivity.observers import Observer, observer_of

__all__ = ["OpRanges", "Ranges", "observe_op_ranges", "observe_ranges", "seen_by_ops"]

Ranges = dict[str, tuple[float, float]]
Observers = dict[str, Observer]


@dataclass(frozen=True, kw_only=True)
class OpRanges:
    """Op name to ``(min, max)`` of its input and of its output.

    Ops the data never reaches are absent, and so are all where the format measures the input
    itself or keeps it, or the output, in high precision.
    """

    inputs: Ranges = field(default_factory=dict)
    outputs: Ranges = field(default_factory=dict)


def observe_ranges(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    device: torch.device,
    scheme: TensorScheme | None = None,
) -> Ranges:
    """Range of each op's input over the batches, by the observer of ``scheme`` (min-max).

    Padding does not count: where an op's input has the batch's ``(batch, tokens)`` as its first
    dimensions, positions outside the attention mask are left out.

    Returns:
        Op name to ``(min, max)``. Ops the data never reaches are absent.

    Raises:
        UserError: An op saw a value that is not finite.
    """
    return _observe(model, names, batches, device, scheme or TensorScheme(), None).inputs


def observe_op_ranges(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    device: torch.device,
    fmt: Format,
) -> OpRanges:
    """The ranges that a format needs of its ops' inputs and outputs, by the observers it names.

    Both are observed in the same pass over the batches, in the unquantized model. Padding does
    not count, as in :func:`observe_ranges`. A format that needs no calibration costs no pass.

    Raises:
        UserError: An op received or produced a value that is not finite.
    """
    if not fmt.needs_calibration:
        return OpRanges()
    static = fmt.activation if fmt.activation is not None and not fmt.activation.dynamic else None
    return _observe(model, names, batches, device, static, fmt.output)


@torch.no_grad()
def _observe(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    device: torch.device,
    inputs: TensorScheme | None,
    outputs: TensorScheme | None,
) -> OpRanges:
    received: Observers = {}
    produced: Observers = {}
    with _observing(model, names, (received, inputs), (produced, outputs)) as set_mask:
        for batch in batches:
            fields = batch.to(device).inputs
            set_mask(fields.get("attention_mask"))
            model(**fields, **call_options(model))
    return OpRanges(inputs=_ranges(received, "receives"), outputs=_ranges(produced, "produces"))


def _ranges(observers: Observers, verb: str) -> Ranges:
    for name, observer in observers.items():
        if not all(map(math.isfinite, observer.extremes())):
            raise UserError(
                f"op {name} {verb} values that are not finite on the calibration data; "
                "check the checkpoint, or load it in another --dtype"
            )
    return {name: observer.range() for name, observer in observers.items()}


@contextmanager
def _observing(
    model: nn.Module,
    names: Sequence[str],
    inputs: tuple[Observers, TensorScheme | None],
    outputs: tuple[Observers, TensorScheme | None],
) -> Iterator[Callable[[Tensor | None], None]]:
    def take(name: str, x: Tensor, observers: Observers, scheme: TensorScheme | None) -> None:
        if scheme is not None:
            if name not in observers:
                observers[name] = observer_of(scheme)
            observers[name].observe(x)

    with seen_by_ops(
        model,
        names,
        lambda name, x: take(name, x, *inputs),
        (lambda name, y: take(name, y, *outputs)) if outputs[1] is not None else None,
    ) as set_mask:
        yield set_mask


@contextmanager
def seen_by_ops(
    model: nn.Module,
    names: Sequence[str],
    received: Callable[[str, Tensor], None],
    produced: Callable[[str, Tensor], None] | None = None,
) -> Iterator[Callable[[Tensor | None], None]]:
    """Show what each op receives, and produces, without padding.

    Where a tensor has the batch's ``(batch, tokens)`` as its first dimensions, positions outside the
    attention mask are left out; what is then empty is not shown.

    Args:
        model: The model.
        names: Names of the ops.
        received: Shown the input of each op.
        produced: Shown its output, where given.

    Yields:
        What is to be told each batch's attention mask, or ``None``, before it is run.
    """
    mask: list[Tensor | None] = [None]

    def show(name: str, x: Tensor, to: Callable[[str, Tensor], None]) -> None:
        x = x.detach()
        if mask[0] is not None and x.ndim == 3 and x.shape[:2] == mask[0].shape:
            x = x[mask[0].bool()]
        if x.numel():
            to(name, x)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def after(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            show(name, args[0], received)
            if produced is not None:
                show(name, output, produced)

        return after

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield lambda value: mask.__setitem__(0, value)
    finally:
        for handle in handles:
            handle.remove()
