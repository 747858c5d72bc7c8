"""Prompts side by side: what the baseline answered, and what each variant changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from quantspectrum.artifacts import Evaluation, PromptResult
from quantspectrum.report.inputs import BASELINE, RunFiles
from quantspectrum.report.numbers import plural

__all__ = ["Answer", "Piece", "PromptBlock", "prompt_blocks", "prompts_sentence"]

_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")
PICTURE_BUDGET = 2_000_000
"""Characters of all pictures together: keeps the page well under 8 MB."""

_LONGEST_DIFF = 2000
"""Words beyond which an answer is shown unmarked: the comparison takes quadratic time."""


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer: as the baseline's, ``changed``, or ``gone`` from the baseline's."""

    text: str
    state: Literal["same", "changed", "gone"] = "same"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One model's answer.

    Attributes:
        changed: ``None`` where there is nothing to compare it with.
        departs: Where its tokens leave the baseline's and how much stays, where that is known.
    """

    label: str
    pieces: tuple[Piece, ...]
    changed: bool | None
    departs: str = ""


@dataclass(frozen=True, kw_only=True)
class PromptBlock:
    """A prompt with every answer to it.

    Attributes:
        image: Data URI of the picture, checked.
        note: Why the picture is left out, where there was one.
    """

    id: str
    prompt: str
    reference: str | None
    image: str | None
    note: str | None
    answers: tuple[Answer, ...]

    @property
    def same(self) -> tuple[str, ...]:
        """Profiles whose answer is the baseline's, character for character."""
        return tuple(answer.label for answer in self.answers if answer.changed is False)

    @property
    def changed(self) -> tuple[str, ...]:
        """Profiles whose answer differs."""
        return tuple(answer.label for answer in self.answers if answer.changed)


def prompts_sentence(blocks: list[PromptBlock]) -> str:
    """How many answers changed, profile by profile."""
    asked = [label for block in blocks for label in (*block.same, *block.changed)]
    names = list(dict.fromkeys(asked))
    if not names:
        return "There is nothing to compare the answers with."
    changed = [label for block in blocks for label in block.changed]
    if not changed:
        return f"No profile changes an answer to any of {plural(len(blocks), 'prompt')}."
    each = (f"{name} {changed.count(name)} of {asked.count(name)}" for name in names)
    return f"Answers that changed: {', '.join(each)}."


def prompt_blocks(files: RunFiles) -> list[PromptBlock]:
    """Every prompt of the run in the order of the evaluations, the baseline's first."""
    evaluations: dict[str, Evaluation] = {}
    if files.baseline is not None:
        evaluations[BASELINE] = files.baseline
    for name in files.profile_names():
        if name in files.evaluations:
            evaluations[name] = files.evaluations[name]
    asked: dict[tuple[str, str, str | None], dict[str, PromptResult]] = {}
    for label, evaluation in evaluations.items():
        for prompt in evaluation.prompts:
            asked.setdefault((prompt.id, prompt.prompt, prompt.image), {})[label] = prompt
    blocks, left = [], PICTURE_BUDGET
    for (key, text, uri), results in asked.items():
        image, note = _picture(uri, left)
        left -= len(image or "")
        blocks.append(
            PromptBlock(
                id=key,
                prompt=text,
                reference=next((r.reference for r in results.values() if r.reference), None),
                image=image,
                note=note,
                answers=_answers(results),
            )
        )
    return blocks


def _picture(uri: str | None, left: int) -> tuple[str | None, str | None]:
    if uri is None:
        return None, None
    if not _PICTURE.fullmatch(uri):
        return None, "The picture is left out: it is not a PNG or JPEG data URI."
    if len(uri) > left:
        return None, "The picture is left out to keep this page small."
    return uri, None


def _answers(results: dict[str, PromptResult]) -> tuple[Answer, ...]:
    before = results.get(BASELINE)
    answers: list[Answer] = []
    pieces: tuple[Piece, ...]
    for label, result in results.items():
        if before is None or label == BASELINE:
            pieces = (Piece(result.output),) if result.output else ()
            answers.append(Answer(label=label, pieces=pieces, changed=None))
        else:
            pieces = compare_words(before.output, result.output)
            changed = before.output != result.output
            answers.append(
                Answer(label=label, pieces=pieces, changed=changed, departs=_departs(result))
            )
    return tuple(answers)


def _departs(result: PromptResult) -> str:
    if result.departs_at is None:
        return ""
    said = f"departs at token {result.departs_at + 1}"
    if result.similarity is not None:
        said += f", similarity {result.similarity:.2f}"
    return said


def compare_words(before: str, after: str) -> tuple[Piece, ...]:
    """Split ``after`` into pieces, each as in ``before``, changed, or gone from it.

    Pieces that are not ``gone`` join to ``after``. Words count, white space between them does not.
    """
    old, new = before.split(), re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", after)
    if max(len(old), len(new)) > _LONGEST_DIFF:
        return (Piece(after),)
    matcher = SequenceMatcher(None, old, [word.strip() for word in new], autojunk=False)
    pieces: list[Piece] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "delete":
            pieces.append(Piece(" ".join(old[i1:i2]), "gone"))
            continue
        text = "".join(new[j1:j2])
        word = text.lstrip() if tag != "equal" else ""
        pieces += [Piece(text.removesuffix(word)), Piece(word, "changed")]
    return tuple(piece for piece in pieces if piece.text)
