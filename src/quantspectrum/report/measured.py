"""What the report reads of records made without a checkpoint: guard, quality search, ground truth.

Only the fields that are shown are read, and others let pass, so that a report can be made of what
another release of those stages wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from quantspectrum.errors import UserError

__all__ = [
    "AdditivityRead",
    "GuardRead",
    "IntervalRead",
    "Measured",
    "RivalRead",
    "SearchRead",
    "TruthRead",
    "read_measured",
]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class IntervalRead(_Read):
    """An estimate with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None


class ReadingRead(_Read):
    """What was measured of one profile."""

    groups: int
    weight_bytes: int
    kl: IntervalRead | None = None
    nll: IntervalRead | None = None


class RivalRead(_Read):
    """A profile of equal size that was not chosen by the ranking."""

    kind: str
    seed: int | None = None
    more_damage: IntervalRead
    verdict: str


class GuardedRead(_Read):
    """A profile beside its rivals; ``beats_all`` is ``None`` where there are none."""

    name: str
    damage: IntervalRead
    rivals: tuple[RivalRead, ...] = ()
    beats_all: bool | None = None
    note: str | None = None


class PointRead(_Read):
    """The least sensitive groups together: sum of their damages, and what was measured."""

    groups: int
    share: float
    predicted: float
    measured: IntervalRead


class FitRead(_Read):
    """A straight line through the logarithms of predicted and measured damage."""

    points: int
    slope: float | None = None
    r2: float | None = None
    relative_error_median: float | None = None
    spearman: float | None = None


class AdditivityRead(_Read):
    """Predicted against measured damage along the ranking."""

    metric: str
    same_unit: bool
    points: tuple[PointRead, ...]
    fit: FitRead


class GuardRead(_Read):
    """``guard.json``."""

    lens: str
    base: str
    held_out: bool
    quantity: str
    profiles: tuple[GuardedRead, ...]
    additivity: AdditivityRead | None = None

    def verdict(self, profile: str) -> str | None:
        """What was found of a profile, in a few words."""
        for found in self.profiles:
            if found.name == profile:
                if found.beats_all is None:
                    return found.note or "no rival"
                return "beats all" if found.beats_all else "NOT better than all rivals"
        return None


class BudgetRead(_Read):
    """What may be lost."""

    text: str
    quantity: str
    limit: float


class TrialRead(_Read):
    """One profile that the search measured."""

    number: int
    step: str
    reading: ReadingRead
    judged: IntervalRead
    meets: bool


class FoundRead(_Read):
    """The profile that was found."""

    rule: str = ""


class SearchRead(_Read):
    """``spectrum.quality.json``."""

    budget: BudgetRead
    trials: tuple[TrialRead, ...]
    profile: FoundRead
    held_out_judged: IntervalRead | None = None


class CurveRead(_Read):
    """The least sensitive groups of an order, quantized together."""

    share: float
    groups: int
    kl: IntervalRead


class RankRead(_Read):
    """A rank correlation with its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class OrderRead(_Read):
    """An order of the groups, and what following it costs."""

    label: str
    kind: str
    spearman: RankRead | None = None
    curve: tuple[CurveRead, ...]
    area: IntervalRead
    area_more: IntervalRead | None = None
    seconds: float | None = None


class TruthRead(_Read):
    """``truth.json``."""

    held_out: bool
    samples: int
    ceiling: float | None = None
    best: str | None = None
    orders: tuple[OrderRead, ...]


class Measured(_Read):
    """What of these a run has."""

    guard: GuardRead | None = None
    search: SearchRead | None = None
    truth: TruthRead | None = None


R = TypeVar("R", bound=_Read)


def read_measured(run_dir: Path) -> Measured:
    """Read what there is.

    Raises:
        UserError: A file that is there cannot be read.
    """
    return Measured(
        guard=_read(run_dir / "guard.json", GuardRead, "guard"),
        search=_read(run_dir / "spectrum.quality.json", SearchRead, "quality"),
        truth=_read(run_dir / "truth.json", TruthRead, "truth"),
    )


def _read(path: Path, model: type[R], kind: str) -> R | None:
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("kind") != kind:
            raise UserError(f"{path} is not a {kind} record; make it again, or remove it")
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where}: {first['msg']}; make it again, or remove it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); write it again") from error
