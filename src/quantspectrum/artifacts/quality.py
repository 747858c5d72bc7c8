"""What was measured of profiles before any checkpoint: the quality search, and the guard."""

from __future__ import annotations

from typing import ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Provenance, Record
from quantspectrum.artifacts.spectrum import Profile

__all__ = [
    "Additivity",
    "AdditivityFit",
    "AdditivityPoint",
    "Guard",
    "GuardedProfile",
    "Interval",
    "ProfileReading",
    "QualityBudget",
    "QualitySearch",
    "RivalReading",
    "Trial",
    "Verdict",
]

Verdict = Literal["beats", "not told apart", "loses"]


class Interval(Record):
    """An estimate over samples with its 95 % interval, clustered by sample.

    Attributes:
        n: Samples behind it.
        value: The estimate.
        stderr: Its standard error; ``None`` with fewer than two samples.
        low: Lower end; ``None`` without a standard error.
        high: Upper end.
    """

    n: int
    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None


class QualityBudget(Record):
    """What may be lost: the ``limit`` of a quantity, which is never below 0.

    Attributes:
        text: As the user wrote it.
        quantity: ``kl`` and ``nll`` in nats per token, ``nll_relative`` as a share of the
            baseline's loss, ``accuracy`` as a share of the answers that have references.
        limit: Largest accepted increase (of accuracy: decrease), in the quantity's unit.
        confident: The upper end of the 95 % interval must keep to the limit, not only the estimate.
    """

    text: str
    quantity: Literal["kl", "nll", "nll_relative", "accuracy"]
    limit: float
    confident: bool = False


class ProfileReading(Record):
    """What was measured of one profile against the unquantized model, on the same samples.

    Attributes:
        ops_sha256: SHA-256 of the profile's ops and formats as canonical JSON.
        groups: Number of groups quantized.
        weight_bytes: Bytes of the quantized ops in their formats, see
            :func:`quantspectrum.spectrum.costs.op_bytes`.
        kl: KL divergence from the unquantized model, nats per token; all of the vocabulary.
        nll: Change of the loss, nats per target token.
        not_finite: Samples whose output was not finite; they count as damage of 1e30.
        accuracy_lost: Decrease of exact match, where it was measured.
    """

    ops_sha256: str
    groups: int
    weight_bytes: int
    kl: Interval | None = None
    nll: Interval | None = None
    not_finite: int = 0
    accuracy_lost: Interval | None = None


class Trial(Record):
    """One profile that the search measured.

    Attributes:
        number: Place in the search, from 1.
        step: ``whole`` (every group), ``bisect`` (a prefix of the ranking), ``add`` (groups beyond
            one that failed), ``swap`` (one group for another that is larger).
        quantized: Names of the groups quantized, least sensitive first.
        judged: The quantity that the budget limits.
        meets: It keeps to the budget.
    """

    number: int
    step: Literal["whole", "bisect", "add", "swap"]
    quantized: tuple[str, ...]
    reading: ProfileReading
    judged: Interval
    meets: bool


class QualitySearch(Artifact):
    """The search for the most aggressive profile that meets a budget.

    Attributes:
        spectrum_lens: Lens whose ranking was followed.
        report_sha256: Hash of the sensitivity report's file.
        baseline_nll: Loss of the unquantized model on the same samples, nats per target token;
            ``None`` for models without one.
        max_trials: Most profiles measured.
        trials: Every profile measured, in order.
        profile: What was found, its rule included; without ops when nothing met the budget.
        held_out: The found profile on samples of the evaluation split, which the search never saw;
            ``None`` where nothing was found.
        held_out_judged: The budget's quantity on those samples.
    """

    KIND: ClassVar[str] = "quality"
    kind: Literal["quality"] = "quality"
    spectrum_lens: str
    base: Literal["isolate", "fallback"]
    report_sha256: str
    provenance: Provenance
    budget: QualityBudget
    baseline_nll: float | None
    max_trials: int
    trials: tuple[Trial, ...]
    profile: Profile
    held_out: ProfileReading | None = None
    held_out_judged: Interval | None = None


class RivalReading(Record):
    """A profile of equal size chosen without the ranking, or against it.

    Attributes:
        kind: ``uniform`` (spread evenly in model order), ``random``, or ``inverted`` (the most
            sensitive groups first).
        seed: Seed of a random one.
        more_damage: Its damage less the profile's, in the guard's quantity.
        more_nll: The same of the loss, nats per target token.
        verdict: ``beats`` when the interval of ``more_damage`` lies above zero, ``loses`` when it
            lies below, ``not told apart`` otherwise.
    """

    kind: Literal["uniform", "random", "inverted"]
    seed: int | None = None
    reading: ProfileReading
    more_damage: Interval
    more_nll: Interval | None = None
    verdict: Verdict


class GuardedProfile(Record):
    """A profile beside its rivals.

    Attributes:
        damage: Its damage in the guard's quantity.
        beats_all: It beats every rival; ``None`` where there is none to compare with.
        note: Why there is none.
    """

    name: str
    reading: ProfileReading
    damage: Interval
    rivals: tuple[RivalReading, ...] = ()
    beats_all: bool | None = None
    note: str | None = None


class AdditivityPoint(Record):
    """The least sensitive groups together: the sum of their damages, and what was measured."""

    groups: int
    share: float
    predicted: float
    measured: Interval


class AdditivityFit(Record):
    r"""How well sums of single damages predict the damage of many ops together.

    Attributes:
        points: Points behind the fit: those with a positive prediction and measurement.
        slope: Slope of :math:`\log` measured against :math:`\log` predicted; 1 where damages add
            up, above where they amplify one another. ``None`` with fewer than three points, or
            where all predictions are equal.
        factor: :math:`e^{a}` of the same line's intercept *a*.
        r2: Share of the variance of :math:`\log` measured that the line explains.
        relative_error_median: Median of ``|predicted - measured| / measured``; ``None`` where the
            two are in different units.
        relative_error_90: Its 90 % quantile.
        spearman: Rank correlation of the two.
    """

    points: int
    slope: float | None = None
    factor: float | None = None
    r2: float | None = None
    relative_error_median: float | None = None
    relative_error_90: float | None = None
    spearman: float | None = None


class Additivity(Record):
    """Predicted against measured damage along a ranking.

    Attributes:
        metric: Metric that was measured of each point: the report's own where it can be measured
            of a profile, otherwise ``kl``.
        same_unit: Predicted and measured are the same quantity; where not, only slope, fit and
            ranks mean anything.
        estimated: Ops among the candidates whose score is an estimate.
    """

    metric: str
    same_unit: bool
    estimated: int
    points: tuple[AdditivityPoint, ...]
    fit: AdditivityFit


class Guard(Artifact):
    """Every profile against rivals of equal size, on samples that its ranking never saw.

    Attributes:
        held_out: The samples were checked to be none of those the ranking was made on. Not so without
            a sensitivity report, or with one made on data of another source.
        quantity: What damage is: ``kl`` in nats per token, or for models without tokens
            ``mse_v2``, the relative squared error of the output.
        random_seeds: Seeds of the random rivals.
        additivity: ``None`` when no sensitivity report was given.
    """

    KIND: ClassVar[str] = "guard"
    kind: Literal["guard"] = "guard"
    lens: str
    base: Literal["isolate", "fallback"]
    spectrum_sha256: str
    provenance: Provenance
    held_out: bool
    quantity: Literal["kl", "mse_v2"]
    random_seeds: tuple[int, ...]
    profiles: tuple[GuardedProfile, ...]
    additivity: Additivity | None = None
