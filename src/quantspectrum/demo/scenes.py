"""Synthetic scenes: what is in them, drawn by counting, and the split each belongs to.

A scene holds one to four objects in different cells of a 3 x 3 grid; an object has a shape, a
colour and a size. Scene ``i`` of a seed is a pure function of ``(seed, i)``: a counter-based
integer hash, no generator state, 32-bit values kept in int64 tensors, so that every machine,
device and library version draws the same scenes.

Splits are disjoint by construction. What a scene *shows* (its objects, not where inside their
cells they lie, their shades or the noise) is hashed into one of 16 buckets, and a split is a set
of buckets. So no description of a held-out scene was ever a training target, and no text made
from a held-out scene (text-only prompts contain its full description) was ever seen either.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from quantspectrum.demo.vocabulary import COLORS, SHAPES, SIZES

__all__ = ["GRID", "MAX_OBJECTS", "SPLITS", "Scenes", "draw", "sample_scenes", "scene_range"]

GRID = 3
MAX_OBJECTS = 4
BUCKETS = 16
SPLITS: dict[str, tuple[int, ...]] = {
    "calibration": (0,),
    "selection": (1,),
    "evaluation": (2,),
    "train": tuple(range(3, BUCKETS)),
}
"""The buckets of each split."""

_MASK = 0xFFFFFFFF
_COUNT_WEIGHTS = (1, 2, 2, 2, 3, 3, 3, 4, 4, 4)
_SLOT_COUNT = 0
_SLOT_CELL = 1
_SLOT_ATTRIBUTE = 16

_Word = TypeVar("_Word", int, Tensor)


def _mix(x: _Word) -> _Word:
    """Bijective hash of 32 bits; the multipliers are under 2**31, so int64 never overflows."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


@lru_cache
def _salts(slots: range, device: torch.device) -> Tensor:
    """[len(slots)] hashed slots; kept, since copying them to a GPU anew would wait for it."""
    return torch.tensor([_mix(slot + 1) for slot in slots], device=device)


def draw(key: Tensor, slots: range, below: int) -> Tensor:
    """Independent integers in ``[0, below)`` for each key, one a slot.

    Args:
        key: ``[N]`` int64, 32-bit keys.
        slots: Names of the draws; the same key and slot always give the same number.
        below: Upper bound, small against 2**32 (the modulo's bias is ``below / 2**32``).

    Returns:
        ``[N, len(slots)]`` int64.
    """
    return _mix(key[:, None] ^ _salts(slots, key.device)) % below


@dataclass(frozen=True)
class Scenes:
    """A batch of ``N`` scenes; objects are in reading order, absent ones have index >= count.

    Attributes:
        key: ``[N]`` 32-bit key every further draw (jitter, noise, questions) is made from.
        count: ``[N]`` number of objects, 1 to 4.
        cell: ``[N, 4]`` grid cell, ``row * 3 + column``.
        shape: ``[N, 4]`` index into ``SHAPES``.
        color: ``[N, 4]`` index into ``COLORS``.
        size: ``[N, 4]`` index into ``SIZES``.
    """

    key: Tensor
    count: Tensor
    cell: Tensor
    shape: Tensor
    color: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, rows: slice | Tensor) -> Scenes:
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def present(self) -> Tensor:
        """``[N, 4]`` bool: which of the four places hold an object."""
        return torch.arange(MAX_OBJECTS, device=self.key.device) < self.count[:, None]

    def codes(self) -> Tensor:
        """``[N, 4]`` int64, what each object is and where; 0 for none. Equal codes look alike."""
        code = self.cell * len(SHAPES) + self.shape
        code = (code * len(COLORS) + self.color) * len(SIZES) + self.size + 1
        return code * self.present

    def identity(self) -> Tensor:
        """``[N]`` int64: the four codes in one number, so equal only for equal content."""
        codes = self.codes()
        return sum(
            (codes[:, i] << (10 * i) for i in range(MAX_OBJECTS)), torch.zeros_like(self.key)
        )

    def bucket(self) -> Tensor:
        """``[N]`` int64: hash of the content, 0 to 15."""
        codes = self.codes()
        state = torch.zeros_like(self.key)
        for place in range(MAX_OBJECTS):
            state = _mix(state ^ _mix(codes[:, place] + (place << 10) + 1))
        return state % BUCKETS

    def in_split(self, split: str) -> Tensor:
        """``[N]`` bool: which scenes belong to ``split``; ``ValueError`` for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        return torch.isin(self.bucket(), torch.tensor(SPLITS[split], device=self.key.device))


def scene_range(
    seed: int, start: int, stop: int, device: torch.device | str | None = None
) -> Scenes:
    """Scenes ``start`` to ``stop - 1`` of ``seed``, of every split."""
    index = torch.arange(start, stop, device=device)
    key = _mix((_mix((seed & _MASK) + 1) & _MASK) ^ index)
    weights = torch.tensor(_COUNT_WEIGHTS, device=device)
    count = weights[draw(key, range(_SLOT_COUNT, _SLOT_COUNT + 1), len(_COUNT_WEIGHTS))[:, 0]]
    present = torch.arange(MAX_OBJECTS, device=device) < count[:, None]

    # A random rank for each cell; the cell number breaks ties. Absent objects sort last.
    cells = GRID * GRID
    ranks = draw(key, range(_SLOT_CELL, _SLOT_CELL + cells), 1 << 20) * cells
    ranks = ranks + torch.arange(cells, device=device)
    cell = ranks.sort(dim=1).values[:, :MAX_OBJECTS] % cells
    cell = torch.where(present, cell, cells).sort(dim=1).values
    cell = torch.where(present, cell, 0)

    def attribute(kind: int, below: int) -> Tensor:
        first = _SLOT_ATTRIBUTE + kind * MAX_OBJECTS
        return draw(key, range(first, first + MAX_OBJECTS), below)

    return Scenes(
        key=key,
        count=count,
        cell=cell,
        shape=attribute(0, len(SHAPES)),
        color=attribute(1, len(COLORS)),
        size=attribute(2, len(SIZES)),
    )


def sample_scenes(split: str, count: int, seed: int = 0) -> Scenes:
    """The first ``count`` scenes of ``split``, all of different content, in index order.

    A shorter sample is a prefix of a longer one.
    """
    chunk, start = 1024, 0
    found: list[Scenes] = []
    seen: set[int] = set()
    while len(seen) < count:
        scenes = scene_range(seed, start, start + chunk)
        start += chunk
        scenes = scenes[scenes.in_split(split)]
        fresh = []
        for place, identity in enumerate(scenes.identity().tolist()):
            if identity not in seen and len(seen) < count:
                seen.add(identity)
                fresh.append(place)
        found.append(scenes[torch.tensor(fresh, dtype=torch.long)])
    if not found:
        return scene_range(seed, 0, 0)
    return Scenes(
        *(torch.cat([getattr(part, field.name) for part in found]) for field in fields(Scenes))
    )
