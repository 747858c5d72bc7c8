"""Records on disk: written whole or not at all, and checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from quantspectrum.artifacts.base import Artifact
from quantspectrum.errors import UserError

__all__ = [
    "check_writable",
    "read_artifact",
    "sha256_file",
    "write_artifact",
    "write_text",
]


A = TypeVar("A", bound=Artifact)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either what it held before or all of it.

    Raises:
        UserError: The folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose another --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Find out that ``path`` cannot be written before minutes are spent on what goes there.

    Nothing stays behind, and folders that are missing are not made yet.

    Raises:
        UserError: It is a directory, or its folder, or the nearest that exists, takes no file.
    """
    if path.is_dir():
        raise UserError(f"--out {path} is a directory; give the name of a file")
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}: {folder}; choose another --out"
        ) from None


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Write a record as JSON, atomically."""
    write_text(path, artifact.sealed().model_dump_json(indent=1) + "\n")


def read_artifact(path: Path, kind: type[A]) -> A:
    """Read a record of the given kind.

    Raises:
        UserError: The file is missing, is not JSON, is another kind of record, or has a version
            or keys this release does not know.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the file of {_a(kind.KIND)} record") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; give the file of {_a(kind.KIND)} record") from None
    except NotADirectoryError:
        raise UserError(f"{path.parent} is a file; give a directory") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); write it again") from error
    if not isinstance(raw, dict) or raw.get("kind") != kind.KIND:
        found = raw.get("kind") if isinstance(raw, dict) else type(raw).__name__
        raise UserError(f"{path} is not {_a(kind.KIND)} record (kind: {found}); give one")
    raw = kind.migrated(raw)
    if raw.get("schema_version") != kind.VERSION:
        raise UserError(
            f"{path} has schema version {raw.get('schema_version')}, this release reads "
            f"{kind.VERSION}; make it again with this release"
        )
    try:
        record = kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}: {where}: {first['msg']}; mend it, or make the file again"
        ) from None
    try:
        return record.opened()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
