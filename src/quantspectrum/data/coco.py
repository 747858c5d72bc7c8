"""COCO caption annotations, with or without the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantspectrum.data.files import check_image_folder, checked_text, parse_json, read_text
from quantspectrum.data.images import find_image, verify_image
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError

__all__ = ["DESCRIBE", "load_coco"]

DESCRIBE = "Describe this image."
"""What is asked about a picture whose source has captions but no questions."""


def load_coco(where: str, images: Path | None) -> list[Sample]:
    """Return one sample per caption; all captions of one image share a unit.

    Args:
        where: A COCO caption file: an object with the lists ``images`` and ``annotations``.
        images: Folder of the pictures. With it, only captions whose picture is there are
            returned, asked for by `DESCRIBE`; without it, captions are plain text.

    Raises:
        UserError: The file is not COCO captions, or the folder holds none of its pictures.
    """
    path = Path(where)
    content = parse_json(read_text(path), str(path))
    entries = _list(content, "images", path)
    annotations = _list(content, "annotations", path)
    files = None if images is None else _existing(entries, images, path)
    samples = []
    for number, entry in enumerate(annotations):
        spot = f"{path}: annotations[{number}]"
        image_id, identity = _field(entry, "image_id", spot), _field(entry, "id", spot)
        if files is not None and image_id not in files:
            continue
        caption = checked_text(_field(entry, "caption", spot), "caption", spot)
        samples.append(
            Sample(
                id=f"coco:{image_id}:{identity}",
                text=caption,
                prompt=None if files is None else DESCRIBE,
                image=None if files is None else files[image_id],
                unit=f"coco:{image_id}",
            )
        )
    if not samples:
        raise UserError(f"{path} has no captions to use; give a file with captions")
    return samples


def _existing(entries: list[Any], images: Path, path: Path) -> dict[object, Path]:
    """Pictures that are there, by image id."""
    check_image_folder(images)
    files: dict[object, Path] = {}
    for number, entry in enumerate(entries):
        spot = f"{path}: images[{number}]"
        name = checked_text(_field(entry, "file_name", spot), "file_name", spot)
        file = find_image(name, images, None, spot)
        if file.is_file():
            verify_image(file, spot)
            files[_field(entry, "id", spot)] = file
    if not files:
        raise UserError(
            f"{images} holds none of the {len(entries)} pictures of {path}; "
            "give the folder that has them, or no folder for captions alone"
        )
    return files


def _list(content: object, key: str, path: Path) -> list[Any]:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise UserError(f"{path} has no list {key!r}; give a COCO caption file")
    return value


def _field(entry: object, key: str, spot: str) -> Any:
    if not isinstance(entry, dict) or isinstance(entry.get(key), (dict, list, type(None))):
        raise UserError(f"{spot} has no {key!r}; give a COCO caption file")
    return entry[key]
