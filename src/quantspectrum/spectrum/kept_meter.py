"""A meter whose readings are kept on disk, so that no interruption loses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from quantspectrum.sensitivity.journal import Journal
from quantspectrum.spectrum.meter import Meter, Ops, Reading, ops_sha256

__all__ = ["KeptMeter"]

CHUNK = 12
"""Profiles measured between two writes: a killed process measures at most so many again."""

_WHOLE = 0
"""A reading is of all batches: the journal's number of a batch says nothing here."""

_NOT_FINITE = "not finite"


class KeptMeter:
    """Measures as a :class:`.Meter` does, what is in its journal not again.

    Args:
        meter: What measures.
        path: The journal.
        request: All that readings depend on besides the profiles, as JSON.
    """

    def __init__(self, meter: Meter, path: Path, request: dict[str, Any]) -> None:
        """Read what is there.

        Raises:
            UserError: The journal is of another request, or cannot be written.
        """
        self.meter = meter
        self._journal = Journal(path, request)

    def __enter__(self) -> KeptMeter:
        """Use as a context to close the file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; its contents stay."""
        self._journal.__exit__(kind, error, trace)

    @contextmanager
    def simulating(self) -> Iterator[None]:
        """As :meth:`.Meter.simulating`."""
        with self.meter.simulating():
            yield

    @property
    def baseline(self) -> Reading:
        """As :attr:`.Meter.baseline`: it is computed again, once."""
        return self.meter.baseline

    def measure(
        self, profiles: Sequence[Ops], *, step: Callable[[], None] = lambda: None
    ) -> list[Reading]:
        """As :meth:`.Meter.measure`; ``step`` is called for what was kept, too."""
        keys = [ops_sha256(ops) for ops in profiles]
        lacking = {
            key: ops
            for key, ops in zip(keys, profiles, strict=True)
            if (_WHOLE, key) not in self._journal
        }
        for _ in range((len(profiles) - len(lacking)) * len(self.meter.batches)):
            step()
        wanted = list(lacking)
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            found = self.meter.measure([lacking[key] for key in some], step=step)
            for key, reading in zip(some, found, strict=True):
                values = {name: list(numbers) for name, numbers in reading.values.items()}
                self._journal.add(_WHOLE, key, values | {_NOT_FINITE: [reading.not_finite]})
        return [self._kept(key) for key in keys]

    def _kept(self, key: str) -> Reading:
        values = dict(self._journal[_WHOLE, key])
        (lost,) = values.pop(_NOT_FINITE)
        return Reading(
            values={name: tuple(numbers) for name, numbers in values.items()}, not_finite=int(lost)
        )
