"""How far the rankings of several sensitivity reports agree."""

from __future__ import annotations

from typing import ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Record

__all__ = ["Agreement", "Disagreement", "LensEntry", "PairAgreement", "RankInterval"]


class RankInterval(Record):
    """A statistic and its 95 % bootstrap interval; ``None`` where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class LensEntry(Record):
    """One of the reports that are compared.

    Attributes:
        label: Its name in the comparison: the lens, with what tells it from the others.
        report_sha256: Hash of the report's file.
        scored: Ops it scored.
        seconds: Wall time behind it.
        complete: Whether it covers every candidate.
    """

    label: str
    lens: str
    base: str
    format: str
    report_sha256: str
    scored: int
    seconds: float
    complete: bool


class PairAgreement(Record):
    """Agreement of two rankings over the items both score.

    Attributes:
        unit: What is ranked: ops, or groups that must share a format.
        component: Component the items are of; ``all`` for every one.
        n: Items both score.
        spearman: Rank correlation, ties sharing the mean of their ranks.
        kendall: Kendall's tau-b.
        top: For each *k*, as text, the share of the *k* most sensitive items of one that are
            among the *k* most sensitive of the other.
    """

    a: str
    b: str
    unit: Literal["op", "group"]
    component: str
    n: int
    spearman: RankInterval
    kendall: RankInterval
    top: dict[str, RankInterval]


class Disagreement(Record):
    """A group whose place differs between lenses, and what each saw.

    Attributes:
        places: For each label, where it stands among the groups all score: 0 is the most
            sensitive, 1 the least.
        spread: Largest difference between two places.
        scores: For each label, the group's score.
        raw: For each label, the lens's own numbers of the group's ops, added up.
    """

    group: str
    component: str
    places: dict[str, float]
    spread: float
    scores: dict[str, float]
    raw: dict[str, dict[str, float]]


class Agreement(Artifact):
    """Every pair of reports, over ops and groups, by component; and where they disagree most.

    Attributes:
        left_out: Ops that some report scores and another does not, with the labels that do.
        resamples: Bootstrap resamples behind the intervals, of the items ranked.
    """

    KIND: ClassVar[str] = "agreement"
    kind: Literal["agreement"] = "agreement"
    lenses: tuple[LensEntry, ...]
    pairs: tuple[PairAgreement, ...]
    disagreements: tuple[Disagreement, ...]
    left_out: dict[str, tuple[str, ...]]
    resamples: int
    seed: int
