from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantspectrum.data.coco import DESCRIBE
from quantspectrum.data.hub import load_hub
from quantspectrum.data.pictures import gradient
from quantspectrum.errors import UserError


class DatasetsError(Exception):
    pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Any]:
    """A stand-in for the datasets library: (name, split) to rows, or to what loading raises."""
    sets: dict[tuple[str, str], Any] = {}

    def load_dataset(name: str, split: str) -> Any:
        rows = sets[name, split]
        if isinstance(rows, Exception):
            raise rows
        return rows

    fake = SimpleNamespace(
        load_dataset=load_dataset,
        get_dataset_split_names=lambda name: [s for n, s in sets if n == name],
        exceptions=SimpleNamespace(DatasetsError=DatasetsError),
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return sets


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install quantspectrum\[datasets\]"):
        load_hub("owner/name", None)


def test_the_columns_that_are_understood(hub: dict[tuple[str, str], Any]) -> None:
    image = gradient(8, 8)
    hub["o/n", "test"] = [
        {"text": "Plain text.", "label": 3},
        {"text": "   "},
        {"caption": ["One.", "Two."], "image": image},
        {"caption": "Alone."},
        {"question": "Why?", "answer": ["so", "because"], "image": image},
        {"question": "Who?", "answer": "me", "text": "unused"},
    ]
    samples = load_hub("o/n:test", None)
    assert [(s.id, s.prompt, s.text) for s in samples] == [
        ("o/n:0", None, "Plain text."),
        ("o/n:2:0", DESCRIBE, "One."),
        ("o/n:2:1", DESCRIBE, "Two."),
        ("o/n:3", None, "Alone."),
        ("o/n:4", "Why?", "so"),
        ("o/n:5", "Who?", "me"),
    ]
    assert [s.unit for s in samples[1:3]] == ["o/n:2", "o/n:2"]
    assert [s.references for s in samples[-2:]] == [("so", "because"), ("me",)]
    assert [s.image is image for s in samples] == [False, True, True, False, True, False]


def test_the_split_is_the_one_given_else_the_first_held_out_one(
    hub: dict[tuple[str, str], Any],
) -> None:
    hub["a/b", "train"] = [{"text": "train"}]
    assert load_hub("a/b", None)[0].text == "train"
    hub["a/b", "test"] = [{"text": "test"}]
    assert load_hub("a/b", None)[0].text == "test"
    hub["a/b", "validation"] = [{"text": "validation"}]
    assert load_hub("a/b", None)[0].text == "validation"
    hub["a/b", "test[:2]"] = [{"text": "slice"}]
    assert load_hub("a/b:test[:2]", None)[0].text == "slice"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "a/b:test is empty"),
        ([{"label": 1, "score": 2}], "row 0 has the columns label, score"),
        ([{"text": "fine"}, {"text": None}], "row 1: text must be a text, not NoneType"),
        ([{"caption": []}], "caption must be a text"),
        ([{"text": "a", "image": {"bytes": b""}}], "'image' holds no pictures"),
        (FileNotFoundError("no such\nset"), r"cannot be loaded \(no such set\)"),
        (ValueError("Config name is missing"), "Config name is missing"),
        (DatasetsError("broken"), "broken"),
    ],
)
def test_what_cannot_be_used_is_told(rows: Any, said: str, hub: dict[tuple[str, str], Any]) -> None:
    hub["a/b", "test"] = rows
    with pytest.raises(UserError, match=said):
        load_hub("a/b:test", None)


def test_the_real_library_loads_a_folder(tmp_path: Path, picture: Callable[..., Path]) -> None:
    pytest.importorskip("datasets", reason="needs the optional datasets library")
    picture("set/train/a.png")
    row = {"file_name": "a.png", "caption": "A gradient."}
    (tmp_path / "set/train/metadata.jsonl").write_text(json.dumps(row) + "\n")
    [sample] = load_hub(str(tmp_path / "set"), None)
    assert (sample.text, sample.prompt) == ("A gradient.", DESCRIBE)
    assert sample.image is not None
    assert not isinstance(sample.image, Path)
    assert sample.image.size == (30, 20)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_hub(str(tmp_path / "absent"), None)
