"""What a lens that is not native is asked, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from quantspectrum.artifacts import DataIdentity, FrameworkNote
from quantspectrum.data.encode import Batch
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.scan import Base

__all__ = ["Lens", "LensRequest", "LensScores"]


@dataclass(frozen=True, kw_only=True)
class LensRequest:
    """The same model, samples and candidates for every lens.

    Attributes:
        format: Format tried on every op.
        base: What surrounds the op under test.
        calibration: Batches that set static ranges.
        selection: Batches the scores are measured on.
        data: Identities of both sets.
        seed: Seed the data was drawn with, and of what is random in the lens.
        directory: Existing directory for the files of this lens.
        max_ops: Score no more ops than this.
        time_budget: Seconds after which what there is is reported.
        options: Settings of the lens, by name, as given by the user.
        progress: Told steps done and steps in all.
    """

    format: Format
    base: Base
    calibration: Sequence[Batch]
    selection: Sequence[Batch]
    data: tuple[DataIdentity, ...]
    seed: int
    directory: Path
    max_ops: int | None = None
    time_budget: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class LensScores:
    """What a lens found, by names of this program's ops.

    Attributes:
        scores: Higher is more sensitive.
        framework: How it ran.
        stderr: Standard errors, where the lens gives any.
        raw: The lens's own numbers.
        missing: Why candidates without a score have none.
        n: Samples behind a score.
        stopped_by: What ended it early.
    """

    scores: Mapping[str, float]
    framework: FrameworkNote
    stderr: Mapping[str, float] = field(default_factory=dict)
    raw: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    n: int
    stopped_by: str | None = None


class Lens(Protocol):
    """A lens: what it can be asked, and how it scores.

    Attributes:
        BASES: Bases it knows; the first is its own.
        FORMATS: Formats it knows; the first is its own, and none means any.
        OPTIONS: Names of its settings, with what each does.
        ENVIRONMENT: The environment its framework runs in; ``None`` where it needs none.
    """

    BASES: ClassVar[tuple[Base, ...]]
    FORMATS: ClassVar[tuple[str, ...]]
    OPTIONS: ClassVar[Mapping[str, str]]
    ENVIRONMENT: ClassVar[str | None]

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:
        """Score the candidates of a table.

        Raises:
            UserError: It cannot score this model, or its environment is absent.
        """
        ...
