from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantspectrum.data.coco import DESCRIBE
from quantspectrum.data.jsonl import load_jsonl
from quantspectrum.errors import UserError


def write(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_all_keys_of_a_line(tmp_path: Path, picture: Callable[..., Path]) -> None:
    image = picture("pictures/a.png")
    row = {"text": "Yes", "prompt": "Cat?", "image": "pictures/a.png", "references": ["yes", "Yes"]}
    [sample] = load_jsonl(write(tmp_path, {**row, "id": 7, "other": [1]}), None)
    assert (sample.id, sample.text, sample.prompt) == ("rows.jsonl:7", "Yes", "Cat?")
    assert (sample.image, sample.references) == (image, ("yes", "Yes"))
    assert sample.unit == f"image:{image}"


def test_defaults_and_synonyms(tmp_path: Path, picture: Callable[..., Path]) -> None:
    picture("a.png")
    rows = (
        {"text": "Some\u2028text."},
        "",
        {"question": "1 + 1?", "answer": "2"},
        {"question": "1 + 1?", "answer": "2", "references": ["2", "two"], "id": "sum"},
        {"text": "A picture.", "image": "a.png"},
    )
    samples = load_jsonl(write(tmp_path, *rows), None)
    assert [s.id for s in samples] == [f"rows.jsonl:{i}" for i in (1, 3, "sum", 5)]
    assert [s.prompt for s in samples] == [None, "1 + 1?", "1 + 1?", DESCRIBE]
    assert [s.text for s in samples] == ["Some\u2028text.", "2", "2", "A picture."]
    assert [s.references for s in samples] == [(), ("2",), ("2", "two"), ()]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{'text': 1}", r"rows\.jsonl:2 is not JSON"),
        ("[1]", r"rows\.jsonl:2 is not a JSON object"),
        ({}, r"rows\.jsonl:2 has no 'text'"),
        ({"prompt": "Why?"}, "has no 'text'"),
        ({"text": None}, "has no 'text'"),
        ({"text": ""}, "text is empty"),
        ({"text": 5}, "text must be a text, not int"),
        ('{"text": "\\udc00"}', "half a surrogate pair"),
        ({"text": "a", "answer": "b"}, "both 'text' and 'answer'"),
        ({"text": "a", "references": "a"}, "references must be a list"),
        ({"text": "a", "references": [1]}, "a reference must be a text"),
        ({"text": "a", "id": 1.5}, "id must be"),
        ({"text": "a", "id": "used"}, "'rows.jsonl:used' is used twice"),
        ({"text": "a", "image": 3}, "image must be a text"),
        ({"text": "a", "image": "absent.png"}, r"rows\.jsonl:2: image .*absent\.png does not"),
        ({"text": "a", "image": "rows.jsonl"}, r"rows\.jsonl:2: .*rows\.jsonl is not an image"),
        ({"text": "a", "image": "https://host/a.png"}, "is a URL"),
        ({"text": "a", "image": "file:///etc/a.png"}, "is a URL"),
        ({"text": "a", "image": "data:image/png;base64,AAAA"}, "is a URL"),
        ({"text": "a", "image": "../a.png"}, "lies outside"),
        ({"text": "a", "image": "b/../../a.png"}, "lies outside"),
        ({"text": "a", "image": "/etc/a.png"}, "lies outside"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(row: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_jsonl(write(tmp_path, {"text": "fine", "id": "used"}, row), None)
    assert "rows.jsonl:2" in str(caught.value)


def test_no_line_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no samples"):
        load_jsonl(write(tmp_path), None)


def test_pictures_may_lie_in_the_image_folder(tmp_path: Path, picture: Callable[..., Path]) -> None:
    image = picture("elsewhere/a.png")
    (tmp_path / "questions").mkdir()
    for name in ("a.png", "../elsewhere/a.png"):
        rows = write(tmp_path / "questions", {"text": "a", "image": name})
        [sample] = load_jsonl(rows, tmp_path / "elsewhere")
        assert sample.image == image
    with pytest.raises(UserError, match=r"lies outside .*questions and .*elsewhere"):
        load_jsonl(
            write(tmp_path / "questions", {"text": "a", "image": "../b.png"}),
            tmp_path / "elsewhere",
        )


def test_real_questions_about_real_pictures(assets: Path, tmp_path: Path) -> None:
    entries = json.loads((assets / "vqa/pope.json").read_text())
    rows = [
        {"question": e["question"], "answer": e["answer"], "image": Path(e["file"]).name}
        for e in entries
    ]
    samples = load_jsonl(write(tmp_path, *rows), assets / "coco/images")
    assert len(samples) == 180
    assert {sample.references for sample in samples} == {("yes",), ("no",)}
    assert all(isinstance(sample.image, Path) and sample.image.is_file() for sample in samples)
