"""Reading data files, with every fault told as what, where and what to do."""

from __future__ import annotations

import json
from pathlib import Path

from quantspectrum.errors import UserError

__all__ = ["check_image_folder", "checked_text", "parse_json", "read_text"]


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without a byte order mark.

    Raises:
        UserError: The file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of a data file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a data file") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8"
        ) from error


def check_image_folder(folder: Path) -> None:
    """Make sure that a folder of pictures is there.

    Raises:
        UserError: It does not exist, or is a file.
    """
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"image folder {folder} {why}; give the folder of the pictures")


def parse_json(text: str, where: str) -> object:
    """Return the JSON value in ``text``; ``where`` names its file and line in the error."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); correct it") from error
    except RecursionError:
        raise UserError(f"{where} is nested too deeply for JSON data; correct it") from None
    return value


def checked_text(value: object, what: str, where: str) -> str:
    """Return ``value`` stripped if it is a text with something in it.

    Raises:
        UserError: It is not a string, is blank, or holds a lone surrogate that UTF-8 cannot encode.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: {what} must be a text, not {type(value).__name__}; correct it")
    text = value.strip()
    if not text:
        raise UserError(f"{where}: {what} is empty; fill it in or remove the entry")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {what} holds half a surrogate pair; correct it") from error
    return text
