"""Capture one forward pass; replay only what comes after a chosen op.

A stack of blocks is a chain: what block *b* gets is all that the blocks before it leave behind. The
capture keeps the arguments each block was called with. A replay runs the model's own forward with
the blocks before the op's skipped and the op's block called with its captured arguments, so that it
needs no knowledge of the family's masks, rotary embeddings or merging of image features. Whether a
family really is such a chain is not believed but tested: before a scan a replay with nothing
perturbed must equal the captured pass bit for bit, or whole forward passes are run instead.

Ops of one block can share a replay: every one gets a slot along the batch dimension, the block runs
once per slot and what follows runs once for all. Kernels may add in another order at another batch
size, so slot 0 stays unperturbed, and a slot's output is read as its difference from slot 0.

The output head is linear, so its input is what is read (:mod:`quantspectrum.sensitivity.outputs`):
the head itself is not run in replays unless it is an op under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantspectrum.data.encode import Batch
from quantspectrum.models.adapter import Layout
from quantspectrum.models.outputs import call_options, output_of
from quantspectrum.patching import replaced_forward
from quantspectrum.sensitivity.capture import Capture, is_same, joined, recording, repeated
from quantspectrum.sensitivity.outputs import Head
from quantspectrum.sensitivity.stacks import Stacks
from quantspectrum.sensitivity.store import TensorStore, default_limit

__all__ = ["Activate", "ReplayEngine"]

SHARED = 0.1
"""Farthest a slot may be from the captured pass: kernels for other batch sizes round differently."""

Activate = Callable[[], None]
"""Makes the ops of one slot compute as they should."""


class ReplayEngine:
    """Captures and replays forward passes of one model.

    Args:
        model: The model, in evaluation mode.
        layout: Where its blocks are.
        ops: Names of the ops that will be asked for.
        device: Where the model takes its inputs.
        memory_limit: Bytes of captured tensors on the device, see :class:`TensorStore`; by
            default half of what is free.

    Attributes:
        head: The linear output head whose input is read, or ``None`` when logits are: because
            there is none, it is an op under test, or the model does more to the logits.
        whole: Why whole forward passes are run instead of replays; ``None`` when they are not.
        captured: Bytes of the largest capture so far by place.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        ops: Sequence[str],
        device: torch.device,
        *,
        memory_limit: int | None = None,
    ) -> None:
        """Look the blocks and ops up by name."""
        self._model = model
        self._device = device
        self._limit = memory_limit
        self._ops = {name: model.get_submodule(name) for name in ops}
        self._stacks = Stacks(model, layout)
        self._settings = call_options(model)
        self.head = Head.of(model, layout.head) if layout.head not in self._ops else None
        self.whole = None if layout.stacks else "the model's structure is not known"
        self._head_checked = False
        self._chain = layout.chain
        self._checked: set[str] = set()
        self.captured: dict[str, int] = {}

    def blocks(self) -> list[str]:
        """Names of all blocks."""
        return self._stacks.names()

    def block_of(self, op: str) -> str | None:
        """Name of the block that holds an op; ``None`` outside every stack."""
        return self._stacks.block_of(op)

    @torch.no_grad()
    def capture(self, batch: Batch) -> Capture:
        """Run the model once and keep what every block was called with."""
        limit = self._limit if self._limit is not None else default_limit(self._device)
        capture = Capture(inputs=batch.to(self._device).inputs, store=TensorStore(limit))
        self.check_head(capture.inputs)
        with recording(capture, self._stacks, self._ops, units=self.whole is None) as record:
            capture.values = self.run(capture.inputs)
        if record.repeats:
            self.whole = f"{record.repeats[0]} runs more than once in a forward pass"
        if self.head is not None:
            # Rotary tables and masks of what is around the stack are made again inside it.
            for name in self._stacks.entries:
                call, output = record.ended.get(name, (None, None))
                for place, leaf in enumerate(pytree.tree_leaves(output)):
                    if is_same(leaf, capture.values):
                        capture.entry = name, place, capture.store.put(call)
        capture.store.seal()
        for where, size in capture.store.used.items():
            self.captured[where] = max(size, self.captured.get(where, 0))
        return capture

    @torch.no_grad()
    def check(self, capture: Capture) -> None:
        """Replay with nothing perturbed; fall back to whole passes if that differs.

        The first time from every block, as a connection past a neighbour shows from the blocks
        between its ends alone; but only to the next one, which must be called with what it was
        called with when captured. Besides, and in families known to be chains alone, a whole replay
        once a stack.
        """
        for path, blocks in self._stacks.blocks.items():
            if self.whole is not None:
                return
            first: dict[str, str] = {}
            for op in capture.before:
                if (block := self.block_of(op)) in blocks:
                    first.setdefault(block, op)
            ops = list(first.values())
            chosen = ops[len(ops) // 2 :][:1]
            holds = True
            if ops and path not in self._checked and not self._chain:
                ran = [block for block in capture.calls if block in first]  # In their order.
                chosen = [*ops[-1:], *chosen]
                holds = all(
                    self._reaches(capture, first[block], block, following)
                    for block, following in pairwise(ran)
                )
                self._checked.add(path)
            if not holds or any(
                not torch.equal(self.replay(capture, op), capture.values)
                for op in dict.fromkeys(chosen)
            ):
                self.whole = "a replay with nothing perturbed differed from the forward pass"

    def _reaches(self, capture: Capture, op: str, block: str, following: str) -> bool:
        """Whether a replay from a block calls a later one with its captured arguments.

        Blocks between the two compute; those from the later one on are answered for.
        """
        order = list(capture.calls)
        expected = pytree.tree_leaves(capture.store.get(capture.calls[following]))
        same: list[bool] = []

        def compare(*args: Any, **kwargs: Any) -> Any:
            found = pytree.tree_leaves((args, kwargs))
            same.append(len(found) == len(expected) and all(map(_equal, found, expected)))
            return self._answer(capture, following)

        with ExitStack() as stack:
            self._skip(stack, capture, op, times=1)
            self._call_again(stack, capture, block, [lambda: None], lambda: None)
            stack.enter_context(replaced_forward(self._stacks.units[following], compare))
            for name in order[order.index(following) + 1 :]:
                answer = _returning(self._answer(capture, name))
                stack.enter_context(replaced_forward(self._stacks.units[name], answer))
            self.run(capture.inputs)
        return same == [True]

    def _answer(self, capture: Capture, block: str) -> Any:
        """What a block that is not run gives in a replay of which no output is read."""
        kept = capture.outputs.get(block)
        return capture.placeholders[block] if kept is None else capture.store.get(kept)

    @torch.no_grad()
    def replay(self, capture: Capture, op: str) -> Tensor:
        """What is read of the captured batch, computing only from the block that holds ``op`` on."""
        return self.run_from(capture, op)

    def run_from(self, capture: Capture, op: str) -> Tensor:
        """The same, with gradients where they are enabled."""
        with ExitStack() as stack:
            if self.whole is None:
                self._skip(stack, capture, op, times=1)
                block = self.block_of(op)
                if block is not None and block in capture.calls:
                    self._call_again(stack, capture, block, [lambda: None], lambda: None)
                if capture.entry is not None and op.startswith(f"{capture.entry[0]}."):
                    return self._enter(*capture.entry, capture)
            return self.run(capture.inputs)

    def _enter(self, name: str, place: int, call: Any, capture: Capture) -> Tensor:
        """Call the module that gives what is read; what is around it has nothing to add."""
        args, kwargs = capture.store.get(call)
        output = self._model.get_submodule(name)(*args, **kwargs)
        read = pytree.tree_leaves(output)[place]
        assert isinstance(read, Tensor)
        return read

    @torch.no_grad()
    def replay_together(
        self, capture: Capture, ops: Sequence[str], slots: Sequence[Activate], rest: Activate
    ) -> list[Tensor]:
        """Replay ops of one block, each in a slot of its own.

        Args:
            capture: The pass to replay.
            ops: Ops of one block.
            slots: For each op: makes the block's ops compute as that slot wants.
            rest: Makes everything compute as in the captured pass.

        Returns:
            For each op what is read, float32.
        """
        block = self.block_of(ops[0])
        assert self.whole is None
        assert block is not None
        assert all(self.block_of(op) == block for op in ops)
        values = self._run_slots(capture, ops[0], block, [rest, *slots], rest)
        reference, *others = values.chunk(len(slots) + 1)
        return [capture.values.float() + (other - reference) for other in others]

    def _run_slots(
        self, capture: Capture, op: str, block: str, slots: Sequence[Activate], rest: Activate
    ) -> Tensor:
        """What is read of all slots, one after another along the first dimension, float32."""
        with ExitStack() as stack:
            self._skip(stack, capture, op, len(slots))
            self._call_again(stack, capture, block, slots, rest)
            return self.run(repeated(capture.inputs, len(slots))).float()

    @torch.no_grad()
    def can_share(self, batch: Batch) -> bool:
        """Whether a replay of two unperturbed slots gives the captured pass in each of them.

        It does not where a block's samples are not along its first dimension.
        """
        capture = self.capture(batch)
        blocks = {op: block for op in capture.before if (block := self.block_of(op)) is not None}
        halves: tuple[Tensor, ...] = ()
        if self.whole is None and blocks:
            op, block = list(blocks.items())[-1]
            values = self._run_slots(capture, op, block, [lambda: None] * 2, lambda: None)
            halves = values.chunk(2)
        expected = capture.values.float()
        capture.close()
        return bool(halves) and all(
            half.shape == expected.shape
            and bool((half - expected).norm() <= SHARED * expected.norm())
            for half in halves
        )

    def run(self, inputs: dict[str, Tensor]) -> Tensor:
        """One forward pass; returns what is read."""
        if self.head is None:
            return output_of(self._model(**inputs, **self._settings))
        read: list[Tensor] = []

        def forward(x: Tensor) -> Tensor:
            read.append(x)
            return x[..., :1]

        with replaced_forward(self.head.module, forward):
            self._model(**inputs, **self._settings)
        return read[-1]

    @torch.no_grad()
    def check_head(self, inputs: dict[str, Tensor]) -> None:
        """Read logits instead of the head's input when the model does more than apply the head.

        Only the first call looks.
        """
        if self.head is None or self._head_checked:
            return
        self._head_checked = True
        logits = output_of(self._model(**inputs, **self._settings))
        hidden = self.run(inputs)
        some = slice(None, 32)
        found = logits.flatten(0, -2)[some].float()
        made = self.head.logits(hidden.flatten(0, -2)[some])
        # What rounding of the logits to their own type allows.
        near = 0.02 if logits.element_size() == 2 else 1e-3
        if found.shape != made.shape or not bool((found - made).norm() <= near * made.norm()):
            self.head = None

    def _skip(self, stack: ExitStack, capture: Capture, op: str, times: int) -> None:
        """Answer for every unit that had finished before ``op`` first ran."""
        done, last = capture.before[op], self._stacks.last()
        for name in done:
            if any(name.startswith(f"{other}.") for other in done):
                continue
            # What a module beside a stack gives may have its batch in any dimension (rotary
            # tables), so that it cannot be repeated: it is computed.
            if times > 1 and name not in self._stacks.around and name not in capture.placeholders:
                continue
            if name in capture.placeholders and name not in last:
                answer = capture.placeholders[name]
            else:
                answer = capture.store.get(capture.outputs[name])
            if times > 1:
                answer = repeated(answer, times)
            stack.enter_context(replaced_forward(self._stacks.units[name], _returning(answer)))

    def _call_again(
        self,
        stack: ExitStack,
        capture: Capture,
        block: str,
        slots: Sequence[Activate],
        rest: Activate,
    ) -> None:
        """Call the block with its captured arguments, once a slot."""
        module = self._stacks.units[block]
        own = module.forward
        args, kwargs = capture.store.get(capture.calls[block])

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            outputs = []
            for activate in slots:
                activate()
                outputs.append(own(*args, **kwargs))
            rest()
            return outputs[0] if len(outputs) == 1 else joined(outputs)

        stack.enter_context(replaced_forward(module, forward))


def _equal(found: Any, expected: Any) -> bool:
    """Whether two leaves of arguments are the same, of which only tensors are looked into."""
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        return torch.equal(found, expected)
    return type(found) is type(expected)


def _returning(answer: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: answer
