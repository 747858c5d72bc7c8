from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.data.coco import DESCRIBE, load_coco
from quantspectrum.errors import UserError

CONTENT: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
    "annotations": [
        {"id": 10, "image_id": 1, "caption": " A cat.\n"},
        {"id": 11, "image_id": 2, "caption": "A dog."},
        {"id": 12, "image_id": 1, "caption": "A sleeping cat."},
    ],
}


def write(tmp_path: Path, content: object) -> str:
    path = tmp_path / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_without_pictures_every_caption_is_plain_text(tmp_path: Path) -> None:
    samples = load_coco(write(tmp_path, CONTENT), None)
    assert [(s.id, s.text, s.unit) for s in samples] == [
        ("coco:1:10", "A cat.", "coco:1"),
        ("coco:2:11", "A dog.", "coco:2"),
        ("coco:1:12", "A sleeping cat.", "coco:1"),
    ]
    assert all(s.prompt is None and s.image is None and s.references == () for s in samples)


def test_with_pictures_only_captions_of_those_present(
    tmp_path: Path, picture: Callable[..., Path]
) -> None:
    one = picture("pictures/one.png")
    samples = load_coco(write(tmp_path, CONTENT), tmp_path / "pictures")
    assert [s.id for s in samples] == ["coco:1:10", "coco:1:12"]
    assert all(s.image == one and s.prompt == DESCRIBE for s in samples)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "captions.json is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ([], "no list 'images'"),
        ({"images": []}, "no list 'annotations'"),
        ({"images": [], "annotations": {}}, "no list 'annotations'"),
        ({"images": [], "annotations": []}, "no captions"),
        ({"images": [], "annotations": [3]}, r"annotations\[0\] has no 'image_id'"),
        ({"images": [], "annotations": [{"image_id": 1, "id": 2}]}, "no 'caption'"),
        ({"images": [], "annotations": [{"image_id": [1], "id": 2}]}, "no 'image_id'"),
        (
            {"images": [], "annotations": [{"image_id": 1, "id": 2, "caption": " "}]},
            r"annotations\[0\]: caption is empty",
        ),
        (
            {"images": [], "annotations": [{"image_id": 1, "id": 2, "caption": 5}]},
            "caption must be a text, not int",
        ),
        (
            '{"images": [], "annotations": [{"image_id": 1, "id": 2, "caption": "\\ud800"}]}',
            "half a surrogate pair",
        ),
    ],
)
def test_wrong_content_is_told_with_its_place(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_coco(write(tmp_path, content), None)


def test_a_folder_that_is_absent_or_has_none_of_the_pictures(tmp_path: Path) -> None:
    where = write(tmp_path, CONTENT)
    with pytest.raises(UserError, match=r"folder .*absent does not exist"):
        load_coco(where, tmp_path / "absent")
    with pytest.raises(UserError, match="none of the 2 pictures"):
        load_coco(where, tmp_path)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_text("no picture")
    with pytest.raises(UserError, match=r"images\[0\]: .*one\.png is not an image"):
        load_coco(write(tmp_path, CONTENT), tmp_path)


def test_a_file_name_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    content = {**CONTENT, "images": [{"id": 1, "file_name": "../secret.png"}]}
    with pytest.raises(UserError, match="lies outside"):
        load_coco(write(tmp_path, content), tmp_path)
