"""Prompts whose answers are shown side by side: a built-in set, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL.Image import Image

from quantspectrum.data.files import checked_text, read_text
from quantspectrum.data.images import find_image, verify_image
from quantspectrum.data.jsonl import read_rows
from quantspectrum.data.pictures import disc, gradient, squares
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError, in_one_line

__all__ = ["BUILT_IN", "load_prompts"]

BUILT_IN = Path(__file__).with_name("prompts.yaml")
"""The built-in prompts; a copy of it is a start for one's own."""

_DRAWN: dict[str, Callable[[], Image]] = {
    "red-disc": lambda: disc(168, (220, 20, 30)),
    "black-disc": lambda: disc(168, (0, 0, 0)),
    "three-squares": lambda: squares(168, 3, (20, 60, 200)),
    "gradient": lambda: gradient(224, 168),
}
_BUILTIN = "builtin:"
_KEYS = {"id", "prompt", "image", "references"}
_LARGEST = 2**20


def load_prompts(path: Path | None, *, images: bool) -> list[Sample]:
    """Return prompts to generate from.

    Args:
        path: A YAML file like the built-in one (``.yaml``, ``.yml``), or a JSONL file whose lines
            have ``prompt`` (or ``question``) and may have ``image`` and ``references``, see
            `load_jsonl`; ``None`` means the built-in prompts.
        images: Whether the model takes pictures; without, the built-in set is text alone.

    Raises:
        UserError: The file is wrong, or shows a picture to a model that takes none.
    """
    if path is None:
        samples = _read_yaml(BUILT_IN, "prompt")
        return [sample for sample in samples if images or sample.image is None]
    if path.suffix.lower() in (".yaml", ".yml"):
        samples = _read_yaml(path, path.name)
    else:
        samples = read_rows(path, None, target=False)
    shown = next((sample for sample in samples if sample.image is not None), None)
    if shown is not None and not images:
        raise UserError(
            f"{path}: prompt {shown.id} has an image, but this model takes text alone; remove the "
            "prompts with images"
        )
    return samples


def _read_yaml(path: Path, prefix: str) -> list[Sample]:
    entries = _parse(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is not a list of prompts; begin each with '- prompt: …'")
    samples: list[Sample] = []
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        spot = f"{path}: prompt {number + 1}"
        sample = _sample(entry, spot, path, f"{prefix}:", number)
        if sample.id in seen:
            raise UserError(f"{spot}: id {sample.id.partition(':')[2]!r} is used twice; rename one")
        seen.add(sample.id)
        samples.append(sample)
    return samples


def _parse(path: Path) -> object:
    text = read_text(path)
    if len(text) > _LARGEST:
        raise UserError(f"{path} is larger than 1 MiB; give a file of prompts")
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or in_one_line(error)
        raise UserError(f"{path}{where} is not plain YAML ({problem}); correct it") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a list of prompts; correct it") from None
    # Dates and numbers that no calendar or number has.
    except ValueError as error:
        raise UserError(f"{path} has a value that cannot be read ({error}); quote it") from None


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """Plain data alone: no tags that make objects, no references, no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # One entry that stands for thousands by reference is no list of prompts.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, "references (*name) are not supported", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else False:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _sample(entry: object, spot: str, path: Path, prefix: str, number: int) -> Sample:
    if not isinstance(entry, dict):
        raise UserError(f"{spot} is not a mapping; write it as '- prompt: …'")
    if unknown := sorted(str(key) for key in entry if key not in _KEYS):
        raise UserError(f"{spot} has the key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    if entry.get("prompt") is None:
        raise UserError(f"{spot} has no 'prompt'; add what the model is to be asked")
    identity = entry.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise UserError(f"{spot}: id must be a text or a whole number; correct it")
    given = entry.get("references", [])
    if not isinstance(given, list):
        raise UserError(f"{spot}: references must be a list of texts; correct it")
    references = tuple(checked_text(item, "a reference (quote numbers)", spot) for item in given)
    return Sample(
        id=f"{prefix}{identity}",
        prompt=checked_text(entry["prompt"], "prompt", spot),
        text=references[0] if references else "",
        references=references,
        image=None if entry.get("image") is None else _image(entry["image"], spot, path),
    )


def _image(value: object, spot: str, path: Path) -> Path | Image:
    name = checked_text(value, "image", spot)
    if name.startswith(_BUILTIN):
        drawn = _DRAWN.get(name.removeprefix(_BUILTIN))
        if drawn is None:
            known = ", ".join(f"{_BUILTIN}{key}" for key in _DRAWN)
            raise UserError(f"{spot}: there is no picture {name!r}; there are {known}")
        return drawn()
    image = find_image(name, path.parent, None, spot)
    verify_image(image, spot)
    return image
