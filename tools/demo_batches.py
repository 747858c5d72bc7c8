"""Training rows of the demo model, made on the device: token ids and labels, no strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from quantspectrum.demo.questions import ask
from quantspectrum.demo.render import render
from quantspectrum.demo.scenes import Scenes, scene_range
from quantspectrum.demo.texts import describe, describe_prompts
from quantspectrum.demo.vocabulary import FIRST_WORD, token_id

__all__ = ["IMAGE_START", "IMAGE_TOKENS", "Batch", "Mixture", "Pool", "scene_pools"]

ROW_LENGTH = 64
IMAGE_START, IMAGE_TOKENS = 3, 16
PAD, IGNORED = token_id("<|endoftext|>"), -100
GROUPS = ("caption", "question", "text", "passage")

_USER = ("<|im_start|>", "user")
_IMAGE = ("<|vision_start|>", *["<|image_pad|>"] * IMAGE_TOKENS, "<|vision_end|>")
_ANSWER = ("<|im_end|>", "<|im_start|>", "assistant")
_Segment = tuple[Tensor, bool]
"""Token ids ``[N, k]`` with -1 for nothing, and whether they are a target."""


@dataclass(frozen=True)
class Mixture:
    """Rows of each group in a batch; a scene gives a caption row and a question row."""

    scenes: int = 256
    text: int = 96
    passage: int = 32

    @property
    def total(self) -> int:
        """Scenes a batch uses up."""
        return self.scenes + self.text + self.passage


@dataclass(frozen=True)
class Batch:
    """A batch: caption rows, question rows (same pictures), text rows, passage rows.

    Attributes:
        tokens: ``[B, 64]`` token ids, padded on the right.
        labels: ``[B, 64]`` the token where it is a target, else -100 (not shifted).
        images: ``[S, 112, 112, 3]`` uint8, for caption row ``i`` and question row ``i``.
        groups: Row range of each group.
        kind: ``[S]`` kind of the first question of each question row.
    """

    tokens: Tensor
    labels: Tensor
    images: Tensor
    groups: dict[str, slice]
    kind: Tensor


def _constant(tokens: Sequence[str], rows: int, device: torch.device) -> Tensor:
    return torch.tensor([token_id(token) for token in tokens], device=device).expand(rows, -1)


def _tokens(words: Tensor) -> Tensor:
    return torch.where(words >= 0, words + FIRST_WORD, -1)


def _rows(segments: Sequence[_Segment]) -> tuple[Tensor, Tensor]:
    """Tokens and labels of the segments, blanks closed up, padded to the row length."""
    tokens = torch.cat([ids for ids, _ in segments], dim=1)
    target = torch.cat([torch.full_like(ids, int(flag)) for ids, flag in segments], dim=1)
    order = torch.argsort((tokens < 0).int(), dim=1, stable=True)
    tokens, target = tokens.gather(1, order), target.gather(1, order)
    target = torch.where(tokens >= 0, target, 0)
    tokens = torch.where(tokens >= 0, tokens, PAD)
    labels = torch.where(target == 1, tokens, IGNORED)
    room = (0, ROW_LENGTH - tokens.shape[1])
    assert room[1] >= 0, "the segments are longer than a row"
    tokens = torch.nn.functional.pad(tokens, room, value=PAD)
    return tokens, torch.nn.functional.pad(labels, room, value=IGNORED)


def _turn(opening: Sequence[str], prompt: Tensor, answer: Tensor) -> list[_Segment]:
    """One user turn and its answer; the answer and its end are the target."""
    rows, device = len(prompt), prompt.device
    return [
        (_constant(opening, rows, device), False),
        (_tokens(prompt), False),
        (_constant(_ANSWER, rows, device), False),
        (_tokens(answer), True),
        (_constant(("<|im_end|>",), rows, device), True),
    ]


def caption_rows(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Picture and prompt, full description."""
    prompt = describe_prompts(scenes)
    return _rows(_turn((*_USER, *_IMAGE), prompt, describe(scenes)))


def question_rows(scenes: Scenes, turns: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Picture and question, answer; a second turn asks another. Also the first one's kind."""
    segments: list[_Segment] = []
    asked = [ask(scenes, turn) for turn in range(turns)]
    for turn, one in enumerate(asked):
        opening = _USER if turn else (*_USER, *_IMAGE)
        segments += _turn(opening, one.question, one.answer)
    return *_rows(segments), asked[0].kind


def text_rows(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Description and question, answer; no picture."""
    asked = ask(scenes)
    prompt = torch.cat([describe(scenes), asked.question], dim=1)
    return _rows(_turn(_USER, prompt, asked.answer))


def passage_rows(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Description, question and answer as plain text, all of it a target."""
    asked = ask(scenes)
    words = torch.cat([describe(scenes), asked.question, asked.answer], dim=1)
    end = _constant((".", "<|endoftext|>"), len(scenes), scenes.key.device)
    return _rows([(_tokens(words), True), (end, True)])


@dataclass(frozen=True)
class Pool:
    """Scenes with their rows of every group, made together: a GPU waits for each small copy."""

    scenes: Scenes
    rows: dict[str, tuple[Tensor, Tensor]]
    kind: Tensor

    @classmethod
    def of(cls, scenes: Scenes, turns: int = 2) -> Pool:
        """All rows of ``scenes``; ``turns`` questions in a question row."""
        tokens, labels, kind = question_rows(scenes, turns)
        rows = {
            "caption": caption_rows(scenes),
            "question": (tokens, labels),
            "text": text_rows(scenes),
            "passage": passage_rows(scenes),
        }
        return cls(scenes, rows, kind)

    def batch(self, start: int, mixture: Mixture) -> Batch:
        """The batch of scenes ``start`` to ``start + mixture.total``."""
        ends = list(accumulate((start, mixture.scenes, mixture.text, mixture.passage)))
        shown = slice(ends[0], ends[1])
        used = dict(zip(GROUPS, (shown, shown, *map(slice, ends[1:], ends[2:])), strict=True))
        parts = [
            (self.rows[name][0][used[name]], self.rows[name][1][used[name]]) for name in GROUPS
        ]
        bounds = list(accumulate((len(tokens) for tokens, _ in parts), initial=0))
        return Batch(
            tokens=torch.cat([tokens for tokens, _ in parts]),
            labels=torch.cat([labels for _, labels in parts]),
            images=render(self.scenes[shown]),
            groups=dict(zip(GROUPS, map(slice, bounds, bounds[1:]), strict=True)),
            kind=self.kind[shown],
        )


def scene_pools(split: str, seed: int, size: int, device: torch.device) -> Iterator[Scenes]:
    """Endless pools of fresh scenes of ``split``: those among ``size`` scenes at a time."""
    start = 0
    while True:
        scenes = scene_range(seed, start, start + size, device)
        start += size
        yield scenes[scenes.in_split(split)]
