"""What the tool must know of a model family: its components, stacks of blocks and fused ops.

An adapter turns a loaded model into a :class:`Layout`. A family gets one file and one entry in
``quantspectrum.models.ADAPTERS``; a model no adapter claims is laid out by its structure alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn
from transformers import PretrainedConfig

from quantspectrum.models.tasks import Task

__all__ = [
    "Adapter",
    "Layout",
    "Stack",
    "Task",
    "fused_siblings",
    "group_name",
    "image_token_of",
]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A ``ModuleList`` of blocks that run one after another: ``path.0``, ``path.1`` and so on."""

    component: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a model are.

    Attributes:
        components: Module-name prefix to component; the longest prefix that fits decides.
        stacks: The repeated blocks, in the order they run; none where the structure is unknown,
            and nothing may then be assumed of which op runs after which.
        head: Qualified name of the output projection, if any.
        fused: Name of the fused op to the last name parts of the ops a serving engine merges
            into it; the members share a parent module.
        chain: The family is known to be a chain: a block of a stack gets what an earlier one left
            behind through its neighbour alone. Of others every block is tried before a scan.
        faster: Context in which the model computes the same faster, for scans that run it often.
        image_token_id: Id of the tokens that stand for a picture among those of a text, if any.
    """

    components: Mapping[str, str]
    stacks: tuple[Stack, ...]
    head: str | None
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    chain: bool = False
    faster: Callable[[], AbstractContextManager[None]] = nullcontext
    image_token_id: int | None = None

    def component(self, name: str) -> str:
        """Component of the op called ``name``; ``other`` when no prefix fits."""
        fitting = [p for p in self.components if name == p or name.startswith(p + ".")]
        return self.components[max(fitting, key=len)] if fitting else "other"

    def block(self, name: str) -> int | None:
        """Index of the block that holds the op, or ``None`` outside every stack."""
        for stack in self.stacks:
            if name.startswith(stack.path + "."):
                return int(name[len(stack.path) + 1 :].split(".", 1)[0])
        return None


class Adapter(Protocol):
    """What a family's file provides."""

    task: Task
    """What its models are for: which Auto class loads them and how data are encoded."""

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether this adapter knows models of that configuration."""
        ...

    def layout(self, model: nn.Module) -> Layout:
        """Describe a loaded model."""
        ...


def fused_siblings(name: str, layout: Layout) -> tuple[str, tuple[str, ...]]:
    """Return an op's group name and the names of all ops the group would hold.

    ``…attn.k_proj`` with ``{"qkv_proj": ("q_proj", "k_proj", "v_proj")}`` gives
    ``…attn.qkv_proj`` and its three members; an op nothing is fused with is its own group.
    """
    parent, _, leaf = name.rpartition(".")
    for fused, members in layout.fused.items():
        if leaf in members:
            prefix = f"{parent}." if parent else ""
            return prefix + fused, tuple(prefix + member for member in members)
    return name, (name,)


def group_name(name: str, layout: Layout) -> str:
    """Name of the group an op belongs to."""
    return fused_siblings(name, layout)[0]


def image_token_of(model: nn.Module) -> int | None:
    """Id of the token that stands for a picture, as a model's configuration says."""
    config = getattr(model, "config", None)
    for key in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, key, None), int):
            return found
    return None
