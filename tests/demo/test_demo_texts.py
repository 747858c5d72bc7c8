"""Texts: an oracle that reads the words gives the same answers."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from demo_oracle import answer, parse

from quantspectrum.demo.questions import QUESTION_KINDS, ask
from quantspectrum.demo.scenes import sample_scenes, scene_range
from quantspectrum.demo.texts import describe, to_strings
from quantspectrum.demo.vocabulary import COLORS, SHAPES, SIZES, SPECIAL_TOKENS, WORDS, token_id

TEXTS_SHA = "0c0a1a1dfc262bc84783c1125b9c05a64ac9e8de6b2c9e5b9558e4850e9a445f"


def test_texts_are_the_same_on_every_machine() -> None:
    scenes = sample_scenes("evaluation", 50)
    asked = ask(scenes)
    lines = [
        *to_strings(describe(scenes)),
        *to_strings(asked.question),
        *to_strings(asked.answer),
    ]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == TEXTS_SHA


def test_descriptions_say_what_is_there_in_reading_order() -> None:
    scenes = scene_range(1, 0, 500)
    for row, text in enumerate(to_strings(describe(scenes))):
        things = parse(text)
        assert len(things) == scenes.count[row]
        for place, thing in enumerate(things):
            assert thing.row * 3 + thing.column == scenes.cell[row, place]
            assert SHAPES.index(thing.shape) == scenes.shape[row, place]
            assert COLORS.index(thing.color) == scenes.color[row, place]
            assert SIZES.index(thing.size) == scenes.size[row, place]


@pytest.mark.parametrize("turn", [0, 1])
def test_every_answer_is_the_only_right_one(turn: int) -> None:
    scenes = scene_range(2, 0, 4000)
    asked = ask(scenes, turn)
    texts = (to_strings(x) for x in (describe(scenes), asked.question, asked.answer))
    for description, question, given in zip(*texts, strict=True):
        assert answer(parse(description), question) == given, (description, question)


def test_turns_ask_different_questions() -> None:
    scenes = scene_range(2, 0, 500)
    first, second = (to_strings(ask(scenes, turn).question) for turn in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 100


def test_kinds_are_balanced_and_no_answer_is_free() -> None:
    scenes = scene_range(0, 0, 20000)
    asked = ask(scenes)
    kinds = Counter(asked.kind.tolist())
    assert len(kinds) == len(QUESTION_KINDS)
    assert min(kinds.values()) > 200
    answers = to_strings(asked.answer)
    for kind in ("exists", "relation", "size"):
        given = Counter(
            text
            for text, k in zip(answers, asked.kind.tolist(), strict=True)
            if QUESTION_KINDS[k] == kind
        )
        assert max(given.values()) < 0.65 * sum(given.values()), (kind, given)


def test_vocabulary_has_no_word_twice() -> None:
    tokens = (*SPECIAL_TOKENS, *WORDS)
    assert len(set(tokens)) == len(tokens) <= 128
    assert [token_id(token) for token in tokens] == list(range(len(tokens)))
