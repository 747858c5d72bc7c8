from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantspectrum.data.pope import SHORT_ANSWER, load_pope
from quantspectrum.data.splits import make_splits
from quantspectrum.errors import UserError

ASSETS = Path(__file__).parents[3] / "shared/assets"


def row(number: int = 0, **changes: object) -> dict[str, object]:
    return {
        "set": "random",
        "image_id": 7 + number,
        "file": f"p{number}.png",
        "question": "Is there a cat?",
        "answer": "yes",
    } | changes


def test_both_formats_give_the_same_questions(tmp_path: Path, picture: Callable[..., Path]) -> None:
    picture("p0.png")
    (tmp_path / "a.json").write_text(json.dumps([row(), row(answer="No.")]))
    own = load_pope(str(tmp_path / "a.json"), None)
    popes = [
        {"question_id": n, "image": "p0.png", "text": "Is there a cat?", "label": answer}
        for n, answer in enumerate(("yes", "no"))
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, popes)))
    theirs = load_pope(str(tmp_path / "b.jsonl"), None)
    for samples in (own, theirs):
        assert [(s.text, s.references) for s in samples] == [("Yes", ("yes",)), ("No", ("no",))]
        assert samples[0].prompt == f"Is there a cat?\n{SHORT_ANSWER}"
        assert len({s.id for s in samples}) == 2
    assert {s.unit for s in own} == {"coco:7"}
    assert [s.image for s in own] == [s.image for s in theirs]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([row(answer="maybe")], r"\[0\]: the answer is 'maybe'; make it yes or no"),
        ([row(question=None)], r"\[0\] has no 'question'"),
        ([row(file="absent.png")], r"does not exist"),
        ([row(file="../p0.png")], r"lies outside"),
        ([row(file="http://x/p.png")], r"is a URL"),
        ([row(question=3)], r"question must be a text"),
        ([3], r"is not a JSON object"),
        ([], r"holds no questions"),
        ({"a": 1}, r"has no 'question'"),
    ],
)
def test_a_wrong_file_is_told(
    content: object, said: str, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    picture("p0.png")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        load_pope(str(tmp_path / "a.json"), None)


@pytest.mark.skipif(not (ASSETS / "vqa").is_dir(), reason="needs ../shared/assets/vqa")
def test_the_real_questions_split_by_picture() -> None:
    splits = make_splits(
        [f"pope:{ASSETS / 'vqa/pope.json'}"],
        images=ASSETS / "coco/images",
        calibration=6,
        selection=6,
        evaluation=24,
        seed=0,
    )
    units = [{s.unit for s in part} for part in (splits.calibration, splits.evaluation)]
    assert not units[0] & units[1]
    assert {s.references for s in splits.evaluation} == {("yes",), ("no",)}
