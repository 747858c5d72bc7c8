"""Answers: yes/no questions, flips, prompts against the baseline's tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import models_tiny
from quantspectrum.artifacts import Accuracy, PromptFidelity
from quantspectrum.data.encode import encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.evaluate.flips import flips_of_answers, flips_of_yes_no, with_floors
from quantspectrum.evaluate.generation import (
    Answer,
    answer,
    compare_prompts,
    judge,
    prompt_fidelity,
    prompt_results,
)
from quantspectrum.evaluate.yes_no import measure_yes_no, said, score, truth_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        ("NO, there is none", "no"),
        ("There is: yes", "yes"),
        ("yesterday", None),
        ("nothing", None),
        ("", None),
        ("I cannot tell", None),
        ("No, yes", "no"),
    ],
)
def test_the_first_yes_or_no_is_the_answer(text: str, expected: str | None) -> None:
    assert said(text) == expected


def test_only_questions_with_one_such_answer_are_yes_no_questions() -> None:
    def question(*references: str, prompt: str | None = "Is it?") -> Sample:
        return Sample(id="q", text="", prompt=prompt, references=references)

    assert truth_of(question("Yes")) == "yes"
    assert truth_of(question("No.", "no")) == "no"
    assert [truth_of(question(*r)) for r in ((), ("yes", "no"), ("red",))] == [None] * 3
    assert truth_of(question("yes", prompt=None)) is None


def test_scores_of_a_known_table() -> None:
    truth: Any = {"a": "yes", "b": "yes", "c": "no", "d": "no", "e": "no"}
    answers: Any = {"a": "yes", "b": None, "c": "yes", "d": "no", "e": "no"}
    found = score(truth, answers, {key: key for key in truth})
    assert (found.accuracy, found.precision, found.recall, found.f1) == (0.6, 0.5, 0.5, 0.5)
    assert (found.yes_rate, found.undecided) == (0.4, 1)
    nobody = score(truth, dict.fromkeys(truth), dict.fromkeys(truth, "same"))
    assert (nobody.precision, nobody.recall, nobody.f1, nobody.stderr) == (None, 0.0, None, None)


def test_logits_of_yes_and_no_are_those_right_after_the_prompt() -> None:
    loaded = models_tiny.loaded(models_tiny.qwen2_5_vl())
    picture = Image.new("RGB", (28, 28), (200, 30, 30))
    samples = [
        Sample(
            id=f"q{n}",
            prompt=f"Is there {'a very red ' * n}disc?",
            text="Yes",
            references=("yes" if n % 2 else "no",),
            image=picture if n > 1 else None,
        )
        for n in range(4)
    ]
    batches = encode_prompts(samples, loaded.processor, batch_size=4)
    answers = answer(loaded, batches, max_new_tokens=3)
    found = measure_yes_no(loaded, samples, batches, answers)
    assert found is not None
    assert found.questions == 4
    tokenizer = loaded.processor.tokenizer
    firsts = {
        word: {
            tokenizer(space + spelled, add_special_tokens=False)["input_ids"][0]
            for spelled in (word, word.capitalize(), word.upper())
            for space in ("", " ")
        }
        for word in ("yes", "no")
    }
    yes, no = sorted(firsts["yes"] - firsts["no"]), sorted(firsts["no"] - firsts["yes"])
    for sample in samples:
        (alone,) = encode_prompts([sample], loaded.processor, batch_size=1)
        with torch.inference_mode():
            logits = loaded.model(**alone.inputs).logits[0, -1].double()
        margin = float(logits[yes].logsumexp(0) - logits[no].logsumexp(0))
        assert found.margins[sample.id] == pytest.approx(margin, abs=1e-4)
        assert found.by_logits.answers[sample.id] == ("yes" if margin > 0 else "no")
    assert measure_yes_no(loaded, [Sample(id="t", text="x")], [], {}) is None


def accuracy(answers: dict[str, str], right: set[str]) -> Accuracy:
    correct = {key: key in right for key in answers}
    return Accuracy(exact=0, stderr=None, correct=correct, answers=answers)


def test_flips_are_counted_both_ways_and_changes_between_wrong_answers_too() -> None:
    before = accuracy({"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}, {"a", "b"})
    after = accuracy({"a": "1", "b": "9", "c": "8", "d": "4", "e": "7"}, {"a", "c"})
    found = flips_of_answers(before, after, {})
    assert found is not None
    assert (found.compared, found.changed, found.lost, found.won) == (5, 3, 1, 1)
    assert found.p_value == 1.0
    assert found.accuracy.value == 0.0
    floor = flips_of_answers(before, before, {})
    assert with_floors(found, [floor, None]).floor_flips == 0
    assert with_floors(floor, [found]).floor_changed == 3
    assert flips_of_answers(before, None, {}) is None
    assert flips_of_yes_no(None, None, {}) is None


def test_judging_keeps_the_answers() -> None:
    samples = [
        Sample(id="b", text="", prompt="?", references=("Paris",)),
        Sample(id="a", text="", prompt="?", references=("Rome", "Roma")),
        Sample(id="c", text="plain"),
    ]
    answers = {"b": Answer("paris.", (1,)), "a": Answer("Milan", (2,))}
    found = judge(samples, answers)
    assert found is not None
    assert found.correct == {"a": False, "b": True}
    assert found.answers == {"a": "milan", "b": "paris"}
    assert judge(samples[2:], {}) is None


@pytest.mark.parametrize(
    ("before", "after", "departs", "similarity"),
    [
        ((1, 2, 3), (1, 2, 3), None, 1.0),
        ((1, 2, 3), (1, 9, 3), 1, 2 / 3),
        ((1, 2, 3), (1, 2), 2, 2 / 3),
        ((), (4, 4), 0, 0.0),
        ((), (), None, 1.0),
    ],
)
def test_a_prompt_departs_at_its_first_other_token(
    before: tuple[int, ...], after: tuple[int, ...], departs: int | None, similarity: float
) -> None:
    prompt = Sample(id="p", text="", prompt="?")
    (found,) = prompt_results([prompt], {"p": Answer("x", after)}, {"p": before})
    assert (found.departs_at, found.similarity) == (departs, pytest.approx(similarity))
    assert found.tokens == after
    (alone,) = prompt_results([prompt], {"p": Answer("x", after)}, None)
    assert (alone.departs_at, alone.similarity) == (None, None)
    floors = [PromptFidelity(compared=1, changed=1, similarity=0.5)]
    whole = prompt_fidelity({"p": before}, {"p": after}, floors)
    assert whole is not None
    assert (whole.changed, whole.floor_similarity) == (int(departs is not None), 0.5)
    assert compare_prompts({}, {"p": after}) is None


def test_answers_stop_where_the_turn_ends() -> None:
    loaded = models_tiny.loaded(models_tiny.causal_lm("llama"))
    samples = [Sample(id=str(n), text="", prompt="a b c d"[: 1 + 2 * n]) for n in range(4)]
    batches = encode_prompts(samples, loaded.processor, batch_size=4)
    free = answer(loaded, batches, max_new_tokens=6)
    assert all(len(one.tokens) <= 6 for one in free.values())
    end = free["0"].tokens[2]
    loaded.model.generation_config.eos_token_id = [end]
    cut = answer(loaded, batches, max_new_tokens=6)
    assert end not in cut["0"].tokens
    assert cut["0"].tokens == free["0"].tokens[: len(cut["0"].tokens)]
