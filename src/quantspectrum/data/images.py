"""Pictures: opened as RGB, checked cheaply, found without leaving the folders they belong to."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from PIL import Image, ImageOps

from quantspectrum.errors import UserError

__all__ = ["find_image", "load_image", "picture_key", "verify_image"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")

# What Pillow raises for a file that is not, or only partly, a picture. It uses SyntaxError for a
# broken PNG chunk and ValueError for impossible headers.
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def verify_image(path: Path, where: str) -> None:
    """Check that ``path`` is a picture, without decoding its pixels.

    Raises:
        UserError: The file is missing or is not a picture; ``where`` says who asked for it.
    """
    if not path.is_file():
        raise UserError(f"{where}: image {path} does not exist; add the file or remove the entry")
    try:
        with Image.open(path) as image:
            image.verify()
    except _BROKEN as error:
        raise UserError(
            f"{where}: {path} is not an image ({error}); replace it or remove the entry"
        ) from error


def load_image(image: Path | Image.Image, where: str) -> Image.Image:
    """Return the whole picture as RGB, turned as its EXIF orientation says.

    Raises:
        UserError: The file cannot be decoded; the message names it and ``where``.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{where}: image {image} does not exist; add the file") from None
    except _BROKEN as error:
        raise UserError(f"{where}: {image} is not an image ({error}); replace the file") from error


def find_image(name: str, folder: Path, images: Path | None, where: str) -> Path:
    """Return the file ``name`` means: relative to ``folder``, else to the ``images`` folder.

    The file must lie in one of the two folders; neither a URL nor ``..`` leads out of them.

    Raises:
        UserError: The name is a URL, leads out of both folders, or names no file.
    """
    if _URL.match(name):
        raise UserError(f"{where}: image {name!r} is a URL; download it and give its file name")
    roots = [folder] if images is None else [folder, images]
    candidates = [Path(os.path.normpath(root / name)) for root in roots]
    inside = [path for path in candidates if any(_within(path, root) for root in roots)]
    if not inside:
        raise UserError(
            f"{where}: image {name!r} lies outside {' and '.join(map(str, roots))}; "
            "move it there or give its folder with --images"
        )
    return next((path for path in inside if path.is_file()), inside[0])


def picture_key(image: Path | Image.Image) -> str:
    """SHA-256 (hex) of a picture's file, or of its pixels when it is in memory."""
    if isinstance(image, Path):
        return hashlib.sha256(image.read_bytes()).hexdigest()
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


def _within(path: Path, root: Path) -> bool:
    """Whether the path, as written, is under the root; a link inside the root is the owner's."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
