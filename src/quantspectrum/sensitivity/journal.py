"""What a scan has measured so far, on disk, so that no interruption loses it.

One JSON object a line, appended and handed to the operating system at once: a killed process
loses at most the line it was writing. The first line says what was asked; a journal of another
request is refused.
"""

from __future__ import annotations

import errno
import json
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from quantspectrum.errors import UserError

__all__ = ["Journal"]

Values = dict[str, list[float]]


class Journal:
    """Measurements by batch and op, kept in a file while a scan runs.

    Args:
        path: The file; ``None`` keeps the measurements in memory only.
        request: What was asked, as JSON; must equal what an existing file was made for.
    """

    def __init__(self, path: Path | None, request: dict[str, Any]) -> None:
        """Read what is there and open the file for more.

        Raises:
            UserError: The file belongs to another request or cannot be written.
        """
        self._entries: dict[tuple[int, str], Values] = {}
        self._file: FileIO | None = None
        self._path = path
        if path is None:
            return
        header = json.dumps({"request": request}, sort_keys=True)
        lines, whole_bytes = _whole_lines(path)
        if lines and lines[0] != header:
            raise UserError(
                f"{path} was made for another model, data, format or choice of ops; "
                "delete it or choose another --out"
            )
        for number, line in enumerate(lines[1:], start=2):
            entry = _entry(path, number, line)
            self._entries[entry["batch"], entry["op"]] = entry["values"]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what add() returned from is in the operating system's hands.
            self._file = FileIO(path, "a")
            # A torn last line must not stay in the middle.
            self._file.truncate(whole_bytes)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error
        if not lines:
            self._write(header)

    def __enter__(self) -> Journal:
        """Use as a context to close the file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; its contents stay."""
        if self._file is not None:
            self._file.close()

    def __contains__(self, key: tuple[int, str]) -> bool:
        """Whether a batch's measurement of an op is there."""
        return key in self._entries

    def __getitem__(self, key: tuple[int, str]) -> Values:
        """The measurement of an op on a batch."""
        return self._entries[key]

    def __len__(self) -> int:
        """Number of measurements."""
        return len(self._entries)

    def add(self, batch: int, op: str, values: Values) -> None:
        """Keep a measurement: named lists, one number per sample of the batch."""
        self._entries[batch, op] = values
        if self._file is None:
            return
        self._write(json.dumps({"batch": batch, "op": op, "values": values}, sort_keys=True))

    def _write(self, line: str) -> None:
        assert self._file is not None
        raw = f"{line}\n".encode()
        try:
            if self._file.write(raw) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror}; free space and run again"
            ) from error


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    entry = json.loads(line)
    if not isinstance(entry, dict) or entry.keys() != {"batch", "op", "values"}:
        raise UserError(f"{path}, line {number}: not a measurement; delete it")
    return entry


def _whole_lines(path: Path) -> tuple[list[str], int]:
    """The file's complete lines, and their bytes; a torn last line is left out."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    lines: list[str] = []
    whole = 0
    pieces = raw.split(b"\n")[:-1]
    for number, piece in enumerate(pieces, start=1):
        try:
            json.loads(piece)
        except ValueError as error:
            if number == len(pieces):
                break
            raise UserError(f"{path}, line {number}: not JSON ({error}); delete it") from None
        lines.append(piece.decode())
        whole += len(piece) + 1
    return lines, whole
