"""What a captured forward pass leaves behind, and operations on structures of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantspectrum.sensitivity.stacks import Stacks
from quantspectrum.sensitivity.store import TensorStore

__all__ = ["Capture", "Record", "hollow", "is_same", "joined", "recording", "repeated"]


@dataclass(kw_only=True)
class Capture:
    """What one forward pass left behind.

    Attributes:
        inputs: The batch's model inputs, on the model's device.
        values: What was read, ``(batch, tokens, hidden)`` or logits (see :class:`ReplayEngine`).
        store: Where the captured tensors are.
        calls: Arguments of each block, of blocks that ran once.
        outputs: Outputs of what a replay may skip as a whole: last blocks, and modules around
            a stack.
        placeholders: Stand-ins for the outputs of skipped blocks that nothing reads.
        before: For each op that ran: the blocks and modules that had finished when it first did.
        entry: The innermost module around the last stack whose output has what is read, its place
            there, and the arguments the module was called with: replays of its ops need not begin
            further out.
    """

    inputs: dict[str, Tensor]
    store: TensorStore
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    calls: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    placeholders: dict[str, Any] = field(default_factory=dict)
    before: dict[str, frozenset[str]] = field(default_factory=dict)
    entry: tuple[str, int, Any] | None = None

    def close(self) -> None:
        """Free everything captured."""
        self.store.close()
        for kept in (self.calls, self.outputs, self.placeholders):
            kept.clear()


@dataclass(kw_only=True)
class Record:
    """What a recording notices besides what the capture keeps.

    Attributes:
        ended: Arguments and output of each module around the last stack.
        repeats: Units that ran more than once.
    """

    ended: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    repeats: list[str] = field(default_factory=list)


@contextmanager
def recording(
    capture: Capture, stacks: Stacks, ops: Mapping[str, nn.Module], *, units: bool
) -> Iterator[Record]:
    """Keep what every unit is called with and gives, and what had finished when an op first ran.

    Args:
        capture: Where it is kept.
        stacks: The units.
        ops: The ops, by name.
        units: Whether units are recorded, and not only ops.
    """
    record = Record()
    runs: dict[str, int] = {}
    called: dict[str, Any] = {}
    done: list[str] = []
    last, blocks = stacks.last(), set(stacks.names())

    def unit_starts(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if name in stacks.entries:
                called[name] = args, kwargs
            if name in blocks and runs[name] == 1:
                capture.calls[name] = capture.store.put((args, kwargs))

        return hook

    def unit_done(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            done.append(name)
            if name in stacks.entries:
                record.ended[name] = called[name], output
            if name in blocks:
                capture.placeholders[name] = pytree.tree_map_only(Tensor, hollow, output)
            if name in last or name not in blocks:
                capture.outputs[name] = capture.store.put(output)

        return hook

    def op_starts(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            capture.before.setdefault(name, frozenset(done))

        return hook

    handles = [op.register_forward_pre_hook(op_starts(name)) for name, op in ops.items()]
    if units:
        for name, unit in stacks.units.items():
            handles.append(unit.register_forward_pre_hook(unit_starts(name), with_kwargs=True))
            handles.append(unit.register_forward_hook(unit_done(name)))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
    record.repeats = sorted(name for name, count in runs.items() if count > 1)


def is_same(leaf: Any, values: Tensor) -> bool:
    """Whether a leaf is the tensor that was read, or the whole of it seen once more."""
    return (
        isinstance(leaf, Tensor)
        and leaf.data_ptr() == values.data_ptr()
        and leaf.shape == values.shape
        and leaf.stride() == values.stride()
    )


def hollow(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, type and device that takes no memory."""
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def repeated(tree: Any, times: int) -> Any:
    """Every tensor repeated along its first dimension; without it, as it is.

    What is one number everywhere still takes no memory, so that the stand-ins of the blocks that a
    replay skips stay :func:`hollow` for several slots.
    """
    return pytree.tree_map_only(Tensor, lambda x: _repeated(x, times) if x.ndim else x, tree)


def _repeated(x: Tensor, times: int) -> Tensor:
    if x.numel() and not any(x.stride()):
        return x[(0,) * x.ndim].expand(times * x.shape[0], *x.shape[1:])
    return x.repeat(times, *[1] * (x.ndim - 1))


def joined(outputs: Sequence[Any]) -> Any:
    """Outputs of one structure, tensors concatenated along their first dimension."""
    leaves = [pytree.tree_flatten(output) for output in outputs]
    merged = [
        torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]
        for parts in zip(*(flat for flat, _ in leaves), strict=True)
    ]
    return pytree.tree_unflatten(merged, leaves[0][1])
