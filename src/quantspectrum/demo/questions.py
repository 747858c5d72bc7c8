"""Questions about scenes, each with its one right answer, as batched arrays of word ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantspectrum.demo.scenes import GRID, Scenes, draw
from quantspectrum.demo.texts import BLANK, join, object_phrases, place_phrases, word_ids
from quantspectrum.demo.vocabulary import COLORS, COUNTS, PLURALS, SHAPES, SIZES, WORD_IDS

__all__ = ["QUESTION_KINDS", "Questions", "ask"]

_SLOTS_PER_TURN = 64
_SLOT_TURN = 256


@dataclass(frozen=True)
class Questions:
    """One question a scene.

    Attributes:
        question: ``[N, 10]`` word ids.
        answer: ``[N, 4]`` word ids.
        kind: ``[N]`` index into ``QUESTION_KINDS``.
    """

    question: Tensor
    answer: Tensor
    kind: Tensor


_QUESTION_WORDS, _ANSWER_WORDS = 10, 4
_Candidate = tuple[Tensor, Tensor, Tensor]
"""Question words, answer words, and where the question has exactly one right answer."""


class _Asker:
    """Candidate questions of every kind for a batch of scenes; ``turn`` makes them others."""

    def __init__(self, scenes: Scenes, turn: int) -> None:
        self.scenes = scenes
        self.rows, self.device = len(scenes), scenes.key.device
        self.base = _SLOT_TURN + turn * _SLOTS_PER_TURN
        self.present = scenes.present
        # The object asked about, and another one (the same where there is only one).
        self.target = self.pick(0, 1 << 16) % scenes.count
        step = 1 + self.pick(1, 1 << 16) % (scenes.count - 1).clamp(min=1)
        self.other = (self.target + step) % scenes.count
        self.always = torch.ones_like(scenes.count, dtype=torch.bool)

    def pick(self, slot: int, below: int) -> Tensor:
        """[N] fresh numbers in ``[0, below)``."""
        return draw(self.scenes.key, range(self.base + slot, self.base + slot + 1), below)[:, 0]

    def of(self, values: Tensor, place: Tensor) -> Tensor:
        """``values[n, place[n]]`` for per-object values ``[N, 4]`` or ``[N, 4, k]``."""
        return values[torch.arange(self.rows, device=self.device), place]

    def where(self, color: Tensor | None = None, shape: Tensor | None = None) -> Tensor:
        """[N, 4] objects with the colour and the shape."""
        mask = self.present
        if color is not None:
            mask = mask & (self.scenes.color == color[:, None])
        if shape is not None:
            mask = mask & (self.scenes.shape == shape[:, None])
        return mask

    def join(self, *parts: str | Tensor) -> Tensor:
        return join(self.rows, self.device, *parts)

    def yes_no(self, truth: Tensor) -> Tensor:
        return torch.where(truth, WORD_IDS["yes"], WORD_IDS["no"])

    def color_of_shape(self) -> _Candidate:
        shape = self.of(self.scenes.shape, self.target)
        color = self.of(self.scenes.color, self.target)
        question = self.join("what color is the", word_ids(SHAPES, shape), "?")
        return question, word_ids(COLORS, color), self.where(shape=shape).sum(1) == 1

    def shape_of_color(self) -> _Candidate:
        shape = self.of(self.scenes.shape, self.target)
        color = self.of(self.scenes.color, self.target)
        question = self.join("what shape is the", word_ids(COLORS, color), "object ?")
        return question, word_ids(SHAPES, shape), self.where(color=color).sum(1) == 1

    def color_at(self) -> _Candidate:
        place = self.of(place_phrases(self.scenes.cell), self.target)
        color = self.of(self.scenes.color, self.target)
        return (
            self.join("what color is the object", place, "?"),
            word_ids(COLORS, color),
            self.always,
        )

    def shape_at(self) -> _Candidate:
        place = self.of(place_phrases(self.scenes.cell), self.target)
        shape = self.of(self.scenes.shape, self.target)
        return (
            self.join("what shape is the object", place, "?"),
            word_ids(SHAPES, shape),
            self.always,
        )

    def _named(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 2] words "red circle" of the object at ``place``, and where they name only it."""
        color, shape = self.of(self.scenes.color, place), self.of(self.scenes.shape, place)
        words = torch.stack([word_ids(COLORS, color), word_ids(SHAPES, shape)], dim=1)
        return words, self.where(color, shape).sum(1) == 1

    def size(self) -> _Candidate:
        name, unique = self._named(self.target)
        size = word_ids(SIZES, self.of(self.scenes.size, self.target))
        return self.join("is the", name, "big or small ?"), size, unique

    def position(self) -> _Candidate:
        name, unique = self._named(self.target)
        place = self.of(place_phrases(self.scenes.cell), self.target)
        return self.join("where is the", name, "?"), place, unique

    def count(self) -> _Candidate:
        question = self.join("how many objects are there ?")
        return question, word_ids(COUNTS, self.scenes.count), self.always

    def count_shape(self) -> _Candidate:
        shape = self.of(self.scenes.shape, self.target)
        shape = torch.where(self.pick(2, 4) == 0, self.pick(3, len(SHAPES)), shape)
        question = self.join("how many", word_ids(PLURALS, shape), "are there ?")
        return question, word_ids(COUNTS, self.where(shape=shape).sum(1)), self.always

    def count_color(self) -> _Candidate:
        color = self.of(self.scenes.color, self.target)
        color = torch.where(self.pick(4, 4) == 0, self.pick(5, len(COLORS)), color)
        question = self.join("how many", word_ids(COLORS, color), "objects are there ?")
        return question, word_ids(COUNTS, self.where(color=color).sum(1)), self.always

    def exists(self) -> _Candidate:
        """Half of the time about an object that is there, else with another colour or shape."""
        color, shape = (
            self.of(values, self.target) for values in (self.scenes.color, self.scenes.shape)
        )
        change = self.pick(6, 4)
        color = torch.where(change == 2, self.pick(7, len(COLORS)), color)
        shape = torch.where(change == 3, self.pick(8, len(SHAPES)), shape)
        question = self.join("is there a", word_ids(COLORS, color), word_ids(SHAPES, shape), "?")
        return question, self.yes_no(self.where(color, shape).any(1)), self.always

    def content(self) -> _Candidate:
        """What is in a cell: one time in four a cell drawn freely, which may be empty."""
        cell = self.of(self.scenes.cell, self.target)
        cell = torch.where(self.pick(9, 4) == 0, self.pick(10, GRID * GRID), cell)
        hit = self.present & (self.scenes.cell == cell[:, None])
        phrase = self.of(object_phrases(self.scenes), hit.int().argmax(1))
        nothing = torch.full_like(phrase, BLANK)
        nothing[:, 0] = WORD_IDS["nothing"]
        answer = torch.where(hit.any(1)[:, None], phrase, nothing)
        return self.join("what is", place_phrases(cell), "?"), answer, self.always

    def _direction(self, slot: int) -> tuple[Tensor, Tensor]:
        """[N, 2] words of a direction, and [N, 4] which objects lie that way of the target."""
        axis, sign = self.pick(slot, 2), self.pick(slot + 1, 2)
        row, column = self.scenes.cell // GRID, self.scenes.cell % GRID
        along = torch.where(axis[:, None] == 0, column, row)
        delta = (along - self.of(along, self.target)[:, None]) * (2 * sign - 1)[:, None]
        names = (("left", "of"), ("right", "of"), ("above", ""), ("below", ""))
        table = torch.tensor([[WORD_IDS.get(word, BLANK) for word in pair] for pair in names])
        return table.to(self.device)[axis * 2 + sign], self.present & (delta > 0)

    def relation(self) -> _Candidate:
        words, that_way = self._direction(11)
        first, first_unique = self._named(self.other)
        second, second_unique = self._named(self.target)
        question = self.join("is the", first, words, "the", second, "?")
        valid = first_unique & second_unique & (self.scenes.count > 1)
        return question, self.yes_no(self.of(that_way, self.other)), valid

    def neighbor(self) -> _Candidate:
        words, that_way = self._direction(13)
        name, unique = self._named(self.target)
        phrase = self.of(object_phrases(self.scenes), that_way.int().argmax(1))
        valid = unique & (that_way.sum(1) == 1)
        return self.join("what is", words, "the", name, "?"), phrase, valid


QUESTION_KINDS = (
    "color_of_shape",
    "shape_of_color",
    "color_at",
    "shape_at",
    "size",
    "position",
    "count",
    "count_shape",
    "count_color",
    "exists",
    "content",
    "relation",
    "neighbor",
)
"""Kinds of question; each scene is asked one of those that have one right answer for it."""

_SLOT_ORDER = 32


def _widen(words: Tensor, width: int) -> Tensor:
    if words.ndim == 1:
        words = words[:, None]
    return torch.nn.functional.pad(words, (0, width - words.shape[1]), value=BLANK)


def ask(scenes: Scenes, turn: int = 0) -> Questions:
    """One question a scene, of a kind drawn evenly among those that are unambiguous for it.

    ``turn`` numbers independent questions about the same scene.
    """
    asker = _Asker(scenes, turn)
    candidates: list[_Candidate] = [getattr(asker, kind)() for kind in QUESTION_KINDS]
    questions = torch.stack([_widen(c[0], _QUESTION_WORDS) for c in candidates])
    answers = torch.stack([_widen(c[1], _ANSWER_WORDS) for c in candidates])
    valid = torch.stack([c[2] for c in candidates], dim=1)
    kinds = len(QUESTION_KINDS)
    first = asker.base + _SLOT_ORDER
    order = draw(scenes.key, range(first, first + kinds), 1 << 20) * kinds
    order = order + torch.arange(kinds, device=scenes.key.device)
    kind = torch.where(valid, order, 1 << 40).argmin(dim=1)
    row = torch.arange(len(scenes), device=scenes.key.device)
    return Questions(questions[kind, row], answers[kind, row], kind)
