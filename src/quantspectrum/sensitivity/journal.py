"""What a scan has measured so far, on disk, so that no interruption loses it.

One JSON object a line, appended and handed to the operating system at once: a killed process
loses at most the line it was writing. The first line says what was asked; a journal of another
request is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any

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
        self._file: IO[str] | None = None
        if path is None:
            return
        header = json.dumps({"request": request}, sort_keys=True)
        lines = _whole_lines(path)
        if lines and lines[0] != header:
            raise UserError(
                f"{path} was made for another model, data, format or choice of ops; "
                "delete it or choose another --out"
            )
        for line in lines[1:]:
            entry = json.loads(line)
            self._entries[entry["batch"], entry["op"]] = entry["values"]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written again whole, so that a torn last line does not stay in the middle.
            path.write_text("".join(f"{line}\n" for line in lines or [header]), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error

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
        line = json.dumps({"batch": batch, "op": op, "values": values}, sort_keys=True)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self._file.name}: {error.strerror}; free space and run again"
            ) from error


def _whole_lines(path: Path) -> list[str]:
    """The file's complete lines that parse; a torn last line is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    for number, line in enumerate(lines):
        try:
            json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                return lines[:-1]
            raise UserError(f"{path}, line {number + 1}: not JSON ({error}); delete it") from None
    return lines
