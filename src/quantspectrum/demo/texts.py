"""Descriptions of scenes as batched arrays of word ids, and word ids as strings.

Everything is made for a whole batch at once, on any device: a text is a row of word ids (places
in ``WORDS``) with ``-1`` for "no word here". The training tool turns rows into token ids without
leaving the device; the demo data turns the same rows into strings. There is no second source of
a text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.demo.scenes import GRID, MAX_OBJECTS, Scenes, draw
from quantspectrum.demo.vocabulary import (
    COLORS,
    COLUMNS,
    ROWS,
    SHAPES,
    SIZES,
    WORD_IDS,
    WORDS,
)

__all__ = [
    "BLANK",
    "DESCRIBE_PROMPTS",
    "describe",
    "describe_prompts",
    "join",
    "object_phrases",
    "place_phrases",
    "to_strings",
    "word_ids",
]

BLANK = -1
DESCRIBE_PROMPTS = ("describe the image .", "list the objects .", "what is there ?")
"""Prompts for a full description, four words each; all mean the same."""

_SLOTS_PROMPT = range(200, 201)


def word_ids(words: tuple[str, ...], index: Tensor) -> Tensor:
    """Word ids of ``words[index]``, shape of ``index``."""
    table = torch.tensor([WORD_IDS[word] for word in words], device=index.device)
    return table[index]


def join(rows: int, device: torch.device, *parts: str | Tensor) -> Tensor:
    """Rows of word ids from constant words and ``[N]`` or ``[N, k]`` ids, left to right."""
    columns = []
    for part in parts:
        if isinstance(part, str):
            ids = torch.tensor([WORD_IDS[word] for word in part.split()], device=device)
            columns.append(ids.expand(rows, -1))
        else:
            columns.append(part[:, None] if part.ndim == 1 else part)
    return torch.cat(columns, dim=1)


def object_phrases(scenes: Scenes) -> Tensor:
    """[N, 4, 4] words "a big red circle" of each object."""
    article = torch.full_like(scenes.cell, WORD_IDS["a"])
    size, color = word_ids(SIZES, scenes.size), word_ids(COLORS, scenes.color)
    return torch.stack([article, size, color, word_ids(SHAPES, scenes.shape)], dim=-1)


def place_phrases(cell: Tensor) -> Tensor:
    """[..., 4] words "at the top left" of each cell."""
    at, the = (torch.full_like(cell, WORD_IDS[word]) for word in ("at", "the"))
    row, column = word_ids(ROWS, cell // GRID), word_ids(COLUMNS, cell % GRID)
    return torch.stack([at, the, row, column], dim=-1)


def describe(scenes: Scenes) -> Tensor:
    """Full descriptions: "a big red circle at the top left , a small ... ." in reading order.

    Returns:
        ``[N, 36]`` word ids, blank where there are fewer than four objects.
    """
    objects = torch.cat([object_phrases(scenes), place_phrases(scenes.cell)], dim=-1)
    place = torch.arange(MAX_OBJECTS, device=scenes.key.device)
    last = place == scenes.count[:, None] - 1
    mark = torch.where(last, WORD_IDS["."], WORD_IDS[","])
    words = torch.cat([objects, mark[..., None]], dim=-1)
    return torch.where(scenes.present[..., None], words, BLANK).flatten(1)


def describe_prompts(scenes: Scenes) -> Tensor:
    """``[N, 4]`` word ids of a request for a full description, one of three wordings."""
    table = [[WORD_IDS[word] for word in text.split()] for text in DESCRIBE_PROMPTS]
    choice = draw(scenes.key, _SLOTS_PROMPT, len(DESCRIBE_PROMPTS))[:, 0]
    return torch.tensor(table, device=scenes.key.device)[choice]


def to_strings(words: Tensor) -> list[str]:
    """Texts of rows of word ids, words joined by a space."""
    return [" ".join(WORDS[i] for i in row if i != BLANK) for row in words.tolist()]
