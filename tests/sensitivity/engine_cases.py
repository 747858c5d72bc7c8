"""Models, batches and engines that the tests of capture and replay share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Layout, Stack
from quantspectrum.models.ops import OP_TYPES, list_ops
from quantspectrum.sensitivity import MEASURED, measured_metric
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.scan import REFERENCE, Base, Scan, journal_key
from quantspectrum.simulation import OpPlan

CPU = torch.device("cpu")
DYNAMIC = OpPlan(format=preset("w8a8"))


def vl_text() -> Batch:
    return models_tiny.text_batch(vision=True)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Batch]]] = {
    "llama": (lambda: models_tiny.causal_lm("llama"), models_tiny.text_batch),
    "qwen2": (lambda: models_tiny.causal_lm("qwen2"), models_tiny.text_batch),
    "qwen3": (lambda: models_tiny.causal_lm("qwen3"), models_tiny.text_batch),
    "vl text": (models_tiny.qwen2_5_vl, vl_text),
    "vl image": (models_tiny.qwen2_5_vl, models_tiny.image_batch),
    "bert": (models_tiny.bert, models_tiny.text_batch),
    "vit": (lambda: models_tiny.family("vit"), models_tiny.pixel_batch),
}


class Case:
    """A model, a batch, an engine, and all the model's ops.

    Args:
        name: Key of ``CASES``.
        logits: The output head is an op under test too, so that logits are read; otherwise its
            input is.
    """

    def __init__(self, name: str, *, logits: bool = False) -> None:
        make_model, make_batch = CASES[name]
        self.model, self.batch = make_model(), make_batch()
        self.layout = adapter_for(self.model.config).layout(self.model)
        table = list_ops(self.model, self.layout, types=OP_TYPES)
        self.head = self.layout.head
        assert self.head is not None
        self.ops = [op.name for op in table.candidates] + ([self.head] if logits else [])
        self.engine = ReplayEngine(self.model, self.layout, self.ops, CPU)
        self.blocks = [
            f"{stack.path}.{index}" for stack in self.layout.stacks for index in range(2)
        ]

    @property
    def ran(self) -> list[str]:
        """Blocks that the batch runs, in their order: no vision ones without a picture."""
        return [name for name in self.blocks if self._runs(name)]

    @property
    def reached(self) -> list[str]:
        """Ops that the batch runs."""
        return [name for name in self.ops if self._runs(name)]

    def _runs(self, name: str) -> bool:
        return "pixel_values" in self.batch.inputs or ".visual." not in name

    def plain(self) -> Tensor:
        """Logits of the model's own forward pass."""
        with torch.no_grad():
            found = self.model(**self.batch.inputs).logits
        assert isinstance(found, Tensor)
        return found

    def as_logits(self, values: Tensor) -> Tensor:
        """What was read, turned into logits by the model's own head."""
        if self.engine.head is None:
            return values
        with torch.no_grad():
            found = self.engine.head.module(values)
        assert isinstance(found, Tensor)
        return found

    @contextmanager
    def counting(self, names: Sequence[str]) -> Iterator[Counter[str]]:
        """Count how often modules inside each of the blocks really compute."""
        counts: Counter[str] = Counter()
        handles = [
            inner.register_forward_hook(lambda *_args, block=name: counts.update([block]))
            for name in names
            for inner in self.model.get_submodule(name).children()
        ]
        yield counts
        for handle in handles:
            handle.remove()


BLOCKS = 6


class Toy(nn.Module):
    """A chain of blocks with ways to break what a replay assumes.

    Args:
        order: Blocks in the order they run.
        skip: ``(a, b)``: block ``b`` also gets what block ``a`` left behind.
        again: The first op runs once more after the blocks.
        cap: Logits are soft-capped at this value.
        scale: Logits are multiplied by this.
        drift: Outputs shift by this for every row of the batch, as kernels that add in another
            order at another batch size shift them, but more.
        tokens_first: Blocks get ``(tokens, batch, features)``.
    """

    def __init__(
        self,
        order: Sequence[int] = range(BLOCKS),
        *,
        skip: tuple[int, int] | None = None,
        again: bool = False,
        cap: float | None = None,
        scale: float = 1.0,
        drift: float = 0.0,
        tokens_first: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(16, 8)
        self.first = nn.Linear(8, 8)
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(BLOCKS)]
        )
        self.head = nn.Linear(8, 16)
        self.order, self.skip, self.again = order, skip, again
        self.cap, self.scale, self.drift = cap, scale, drift
        self.tokens_first = tokens_first

    def forward(self, input_ids: Tensor, **_options: Any) -> Any:
        x = self.first(self.embed(input_ids))
        x = x.transpose(0, 1) if self.tokens_first else x
        outputs: dict[int, Tensor] = {}
        for index in self.order:
            if self.skip is not None and index == self.skip[1]:
                x = x + outputs[self.skip[0]]
            x = outputs[index] = self.layers[index](x)
        x = x.transpose(0, 1) if self.tokens_first else x
        x = x + self.drift * x.shape[0]
        logits = self.head(self.first(x) if self.again else x) * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return SimpleNamespace(logits=logits)


TOY_OPS = ["first", *(f"layers.{index}.0" for index in range(BLOCKS))]
TOY = Layout(components={}, stacks=(Stack(component="language", path="layers"),), head="head")
TOY_BATCH = Batch(
    inputs={"input_ids": torch.tensor([[1, 5, 2, 9], [3, 3, 15, 0]])},
    target=torch.ones(2, 4, dtype=torch.bool),
    sample_ids=("a", "b"),
    kinds=("text", "text"),
)


def scanned(
    model: nn.Module,
    layout: Layout,
    *,
    base: Base = "isolate",
    slots: int = 1,
    memory_limit: int | None = None,
    ops: Sequence[str] = TOY_OPS,
    batches: Sequence[Batch] = (TOY_BATCH,),
) -> tuple[dict[str, list[dict[str, list[float]]]], ReplayEngine]:
    """What a scan with every measured metric leaves in its journal, and the engine it used."""
    journal = Journal(None, {})
    engine = ReplayEngine(model, layout, ops, CPU, memory_limit=memory_limit)
    Scan(
        model=model,
        engine=engine,
        layout=layout,
        plans={"w8a8": dict.fromkeys(ops, DYNAMIC)},
        ops=ops,
        base=base,
        metrics=[measured_metric(name) for name in MEASURED],
        journal=journal,
        step=lambda: None,
        slots=slots,
    ).run(batches)
    keys = [journal_key(op, "w8a8") for op in ops]
    found = {key: [journal[i, key] for i in range(len(batches))] for key in [REFERENCE, *keys]}
    return found, engine
