"""Capture one forward pass; replay only what comes after a chosen op.

Blocks that finished before an op first runs cannot depend on it. A replay therefore runs the
model's own forward with those blocks answering from the capture, so that it needs no knowledge of
the family's masks, rotary embeddings or merging of image features, and equals the full forward
bit for bit. The blocks after the op, and the block that holds it, run as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.models.adapter import Layout

__all__ = ["Capture", "ReplayEngine"]


@dataclass(kw_only=True)
class Capture:
    """What one forward pass left behind.

    Attributes:
        inputs: The batch's model inputs, on the model's device.
        logits: Output of the pass, ``(batch, tokens, vocabulary)``.
        outputs: Each block's output by the block's name; only of blocks that ran once.
        before: For each op that ran: the blocks that had finished when it first did.
    """

    inputs: dict[str, Tensor]
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: dict[str, Any] = field(default_factory=dict)
    before: dict[str, frozenset[str]] = field(default_factory=dict)


class ReplayEngine:
    """Captures and replays forward passes of one model.

    Args:
        model: The model, in evaluation mode.
        layout: Where its blocks are.
        ops: Names of the ops that will be asked for.
        device: Where the model takes its inputs.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, ops: Sequence[str], device: torch.device
    ) -> None:
        """Look the blocks and ops up by name."""
        self._model = model
        self._device = device
        self._ops = {name: model.get_submodule(name) for name in ops}
        self._blocks = {
            f"{stack.path}.{index}": block
            for stack in layout.stacks
            for index, block in enumerate(model.get_submodule(stack.path).children())
        }

    @torch.inference_mode()
    def capture(self, batch: Batch) -> Capture:
        """Run the model once and keep every block's output."""
        capture = Capture(inputs=batch.to(self._device).inputs)
        with self._recording(capture):
            capture.logits = self._run(capture.inputs)
        return capture

    @torch.inference_mode()
    def replay(self, capture: Capture, op: str) -> Tensor:
        """Logits of the captured batch, computing only from the block that holds ``op`` on."""
        with self._answering({n: capture.outputs[n] for n in capture.before[op]}):
            return self._run(capture.inputs)

    def _run(self, inputs: dict[str, Tensor]) -> Tensor:
        logits = self._model(**inputs, use_cache=False).logits
        assert isinstance(logits, Tensor)
        return logits

    @contextmanager
    def _recording(self, capture: Capture) -> Iterator[None]:
        runs: dict[str, int] = {}

        def block_done(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                runs[name] = runs.get(name, 0) + 1
                capture.outputs[name] = output
                # A block that runs again has no single output to answer with.
                if runs[name] > 1:
                    del capture.outputs[name]

            return hook

        def op_starts(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any) -> None:
                capture.before.setdefault(name, frozenset(capture.outputs))

            return hook

        handles = [
            block.register_forward_hook(block_done(n)) for n, block in self._blocks.items()
        ] + [op.register_forward_pre_hook(op_starts(n)) for n, op in self._ops.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        repeated = {name for name, count in runs.items() if count > 1}
        capture.before = {op: done - repeated for op, done in capture.before.items()}

    @contextmanager
    def _answering(self, outputs: dict[str, Any]) -> Iterator[None]:
        def answer(output: Any) -> Callable[..., Any]:
            return lambda *_args, **_kwargs: output

        replaced: list[tuple[nn.Module, Any]] = []
        try:
            for name, output in outputs.items():
                block = self._blocks[name]
                replaced.append((block, block.__dict__.get("forward")))
                block.forward = answer(output)
            yield
        finally:
            for block, own in replaced:
                if own is None:
                    del block.forward
                else:
                    block.forward = own
