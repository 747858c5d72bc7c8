"""A model's stacks of blocks, and the modules around them that a replay may answer for."""

from __future__ import annotations

from torch import nn

from quantspectrum.models.adapter import Layout

__all__ = ["Stacks"]


class Stacks:
    """The blocks of every stack, by name.

    Attributes:
        blocks: For each stack's path the names of its blocks, in order.
        units: What a replay may answer for as a whole: blocks, and the modules around and beside
            their stacks.
        entries: Modules around the last stack, from the outside to the inside, so that the last one
            that fits is the innermost.
        around: Names of all modules that hold a stack.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        """Look the stacks of the layout up."""
        self.blocks = {
            stack.path: [
                f"{stack.path}.{i}"
                for i in range(len(list(model.get_submodule(stack.path).children())))
            ]
            for stack in layout.stacks
        }
        self.units = {
            name: model.get_submodule(name)
            for path, blocks in self.blocks.items()
            for name in (*_around(model, path), *blocks)
        }
        self.entries = _parents(layout.stacks[-1].path) if layout.stacks else []
        self.around = {name for path in self.blocks for name in _parents(path)}

    def names(self) -> list[str]:
        """Names of all blocks."""
        return [name for names in self.blocks.values() for name in names]

    def block_of(self, op: str) -> str | None:
        """Name of the block that holds an op; ``None`` outside every stack."""
        for path, blocks in self.blocks.items():
            if op.startswith(f"{path}."):
                return blocks[int(op[len(path) + 1 :].split(".", 1)[0])]
        return None

    def last(self) -> set[str]:
        """The last block of each stack: only its output can be read outside."""
        return {blocks[-1] for blocks in self.blocks.values() if blocks}


def _parents(path: str) -> list[str]:
    """``a`` and ``a.b`` of ``a.b.c``: the modules around a stack."""
    parts = path.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _around(model: nn.Module, path: str) -> list[str]:
    """The modules around a stack, and those beside it."""
    around = _parents(path)
    parent = around[-1] if around else ""
    prefix = f"{parent}." if parent else ""
    beside = [name for name, _ in model.get_submodule(parent).named_children()]
    return [*around, *(f"{prefix}{name}" for name in beside if f"{prefix}{name}" != path)]
