from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantspectrum.data.prompts import load_prompts
from quantspectrum.errors import UserError


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_built_in_set() -> None:
    samples = load_prompts(None, images=True)
    assert [sample.image is None for sample in samples] == [True] * 6 + [False] * 4
    assert load_prompts(None, images=False) == samples[:6]
    assert len({sample.id for sample in samples}) == 10
    assert all(sample.prompt for sample in samples)
    assert any(s.references for s in samples[:6])
    assert any(s.references for s in samples[6:])


def test_a_file_of_prompts_needs_no_answers(tmp_path: Path, picture: Callable[..., Path]) -> None:
    image = picture("a.png")
    rows = (
        {"prompt": "Why?"},
        {"question": "1 + 1?", "references": ["2", "two"], "id": "sum"},
        {"prompt": "What is this?", "image": "a.png"},
        {"image": "a.png"},
    )
    path = write(tmp_path, *rows)
    samples = load_prompts(path, images=True)
    assert [(s.id, s.prompt, s.text) for s in samples] == [
        ("prompts.jsonl:1", "Why?", ""),
        ("prompts.jsonl:sum", "1 + 1?", "2"),
        ("prompts.jsonl:3", "What is this?", ""),
        ("prompts.jsonl:4", "Describe this image.", ""),
    ]
    assert [s.image for s in samples] == [None, None, image, image]
    with pytest.raises(UserError, match=r"prompts\.jsonl:3 has an image"):
        load_prompts(path, images=False)


@pytest.mark.parametrize(
    ("row", "said"),
    [({"text": "no question"}, r"prompts\.jsonl:1 has no 'prompt'"), ([], "not a JSON object")],
)
def test_a_line_without_a_prompt_is_told(row: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_prompts(write(tmp_path, row), images=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent does not exist"):
        load_prompts(tmp_path / "absent", images=True)
