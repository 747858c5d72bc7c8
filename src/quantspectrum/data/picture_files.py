"""A folder of pictures."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.data.files import check_image_folder
from quantspectrum.data.images import verify_image
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError

__all__ = ["load_pictures"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def load_pictures(where: str, images: Path | None) -> list[Sample]:  # noqa: ARG001 - one loader type
    """Return one sample a picture file of a folder and those in it, named by its path there.

    Raises:
        UserError: The folder is missing or holds no pictures, or one is broken.
    """
    folder = Path(where)
    check_image_folder(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not files:
        raise UserError(
            f"{folder} holds no picture files ({', '.join(sorted(_SUFFIXES))}); give another folder"
        )
    for file in files:
        verify_image(file, str(folder))
    return [Sample(id=file.relative_to(folder).as_posix(), text="", image=file) for file in files]
