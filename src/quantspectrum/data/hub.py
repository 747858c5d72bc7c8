"""Data sets of the Hugging Face Hub, through the optional ``datasets`` library."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from quantspectrum.data.coco import DESCRIBE
from quantspectrum.data.files import checked_text
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError, in_one_line

__all__ = ["load_hub"]

_SPLITS = ("validation", "test", "train")


def load_hub(where: str, images: Path | None) -> list[Sample]:  # noqa: ARG001 - one loader type
    """Return the samples of ``dataset_id[:split]``.

    A row has ``text``, or ``caption`` (one or a list), or ``question`` and ``answer`` (one or a
    list of right ones); ``image`` goes with any of them. The split may be a slice
    (``test[:200]``); without one it is the first there is of validation, test and train. Rows
    with a blank ``text`` are passed over: sets with a line a row are full of them.

    Raises:
        UserError: ``datasets`` is not installed, or the data set cannot be loaded or has no such
            columns.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            f"hub:{where} needs the datasets library; run pip install quantspectrum[datasets]"
        ) from None
    name, _, split = where.partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or _first_split(datasets, name))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = in_one_line(error)
        raise UserError(
            f"data set {where} cannot be loaded ({reason}); check its name, split and access"
        ) from error
    samples = [
        sample
        for number, row in enumerate(rows)
        for sample in _samples(row, f"{name}:{number}", f"{where}, row {number}")
    ]
    if not samples:
        raise UserError(f"data set {where} is empty; choose another split")
    return samples


def _first_split(datasets: Any, name: str) -> str:
    available: list[str] = datasets.get_dataset_split_names(name)
    return next((split for split in _SPLITS if split in available), available[0])


def _samples(row: Mapping[str, Any], identity: str, where: str) -> list[Sample]:
    image = row.get("image")
    if image is not None and not isinstance(image, Image.Image):
        raise UserError(f"{where}: column 'image' holds no pictures; cast it to datasets.Image")
    prompt = None if image is None else DESCRIBE
    references: tuple[str, ...] = ()
    if "question" in row and "answer" in row:
        prompt = checked_text(row["question"], "question", where)
        references = tuple(_texts(row["answer"], "answer", where))
        texts = [references[0]]
    elif column := next((key for key in ("text", "caption") if key in row), None):
        if column == "text" and row["text"] is not None and not str(row["text"]).strip():
            return []
        texts = _texts(row[column], column, where)
    else:
        raise UserError(
            f"{where} has the columns {', '.join(row)}; choose a data set with text, caption, "
            "or question and answer"
        )
    return [
        Sample(
            id=f"{identity}:{number}" if len(texts) > 1 else identity,
            text=text,
            prompt=prompt,
            image=image,
            references=references,
            unit=identity,
        )
        for number, text in enumerate(texts)
    ]


def _texts(value: object, what: str, where: str) -> list[str]:
    """One text or several, as several; never none."""
    items = value if isinstance(value, list) and value else [value]
    return [checked_text(item, what, where) for item in items]
