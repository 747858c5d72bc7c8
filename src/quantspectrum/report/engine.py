"""How the native lens ran: replays or whole passes, what was read, where captures lay, the time."""

from __future__ import annotations

from quantspectrum.artifacts import EngineNote, SensitivityReport
from quantspectrum.report.numbers import count, duration, plural, size
from quantspectrum.report.quantities import quantity_of
from quantspectrum.report.tables import Table, columns

__all__ = ["engine_table"]

_PLACES = {"device": "on the device", "host": "in host memory", "disk": "on disk"}

_PHASES = {
    "calibration": "calibration",
    "passes": "passes over all ops",
    "scan": "scan",
    "rescore": "second ranking",
}


def engine_table(report: SensitivityReport) -> Table | None:
    """How the scan ran, a row for each question; ``None`` where the report does not say."""
    note = report.engine
    if note is None:
        return None
    at_once = quantity_of(report.lens).at_once
    rows = [
        ("Ops", _AT_ONCE if at_once else _way(note)),
        ("Read", _HEAD if note.head_read else _LOGITS),
        *([] if at_once else [("Together", _together(note))]),
        ("Data", f"{plural(note.batches, 'batch')} of at most {plural(note.batch_size, 'sample')}"),
        ("Captured tensors", _captured(note)),
        ("Time", _time(note)),
    ]
    return Table(
        caption="How the native lens ran; one call may have made several reports.",
        columns=columns("What", "How", text=("What", "How")),
        rows=tuple(rows),
    )


_AT_ONCE = "all at once, in passes over each batch; no op was replayed"
_HEAD = "the output head's input; differences were turned into logits in float32"
_LOGITS = "the logits, subtracted in float32"


def _way(note: EngineNote) -> str:
    if note.replay:
        return "each replayed from the block that holds it"
    return f"whole forward passes, because {note.whole_because or 'of a reason not recorded'}"


def _together(note: EngineNote) -> str:
    if note.slots < 2:
        return "one op a replay"
    return (
        f"up to {plural(note.slots - 1, 'op')} of a block a replay ({count(note.slots)} slots, one "
        "of them unperturbed)"
    )


def _captured(note: EngineNote) -> str:
    """Bytes by place; places that took none are left out."""
    held = [
        f"{size(taken)} {_PLACES.get(place, place)}"
        for place, taken in note.captured_bytes.items()
        if taken
    ]
    return f"at most {', '.join(held)}" if held else "none"


def _time(note: EngineNote) -> str:
    spent = [f"{_PHASES.get(phase, phase)} {duration(s)}" for phase, s in note.seconds.items()]
    return ", ".join(spent) or "not recorded"
