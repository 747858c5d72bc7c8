r"""Statistics of a model's predictions against the baseline's, on the same tokens.

Every statistic has a bootstrap interval over whole samples and the noise floor beside it: the
same statistic of the baseline against itself, computed another way. Resamples are shared, so that
a statistic and its floor are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantspectrum.artifacts import Fidelity, Figure, KlKind, SampleKind
from quantspectrum.evaluate.bootstrap import interval, percentiles, resamples

__all__ = ["PERCENTS", "PairedTokens", "fidelities", "mean_figure"]

Floats = NDArray[np.float64]

PERCENTS = (1, 5, 25, 50, 75, 95, 99)
"""Percentiles of Δp."""

_KINDS: tuple[SampleKind, ...] = ("text", "image+text", "image")


@dataclass(frozen=True, kw_only=True)
class PairedTokens:
    """Two models at the same target tokens, sample after sample.

    Attributes:
        sample: Index of each token's sample, ``(tokens,)``, ascending.
        kinds: Kind of each sample, ``(samples,)``.
        before: The baseline's log-probability of the right token, ``(tokens,)``.
        after: The model's.
        kl: KL(baseline ‖ model), nats, ``(tokens,)``.
        same: Whether the likeliest token is the baseline's, ``(tokens,)``.
        kl_kind: Whether ``kl`` is exact.
    """

    sample: NDArray[np.int64]
    kinds: NDArray[np.str_]
    before: Floats
    after: Floats
    kl: Floats
    same: NDArray[np.bool_]
    kl_kind: KlKind

    def of(self, kind: SampleKind) -> PairedTokens:
        """The samples of one kind alone."""
        kept = np.ones(len(self.kinds), np.bool_) if kind == "all" else self.kinds == kind
        tokens = kept[self.sample]
        index = np.cumsum(kept) - 1
        return PairedTokens(
            sample=index[self.sample[tokens]],
            kinds=self.kinds[kept],
            before=self.before[tokens],
            after=self.after[tokens],
            kl=self.kl[tokens],
            same=self.same[tokens],
            kl_kind=self.kl_kind,
        )


@dataclass(frozen=True)
class _Statistic:
    """A value, its values over resamples, and the value that means no difference.

    ``signed``: it may differ either way, so that its own interval tells a difference.
    """

    value: float
    resampled: Floats | None
    null: float
    signed: bool


def fidelities(
    tokens: PairedTokens, floors: Sequence[PairedTokens] = (), *, seed: int = 0
) -> tuple[Fidelity, ...]:
    """Statistics over all samples, and over those of each kind.

    Args:
        tokens: The model and the baseline.
        floors: The baseline against itself, at the same tokens.
        seed: Of the bootstrap.
    """
    # One kind alone is said to be that kind too, so that a reader need not guess.
    kinds: tuple[SampleKind, ...] = ("all", *(k for k in _KINDS if (tokens.kinds == k).any()))
    return tuple(
        _fidelity(kind, tokens.of(kind), [floor.of(kind) for floor in floors], seed)
        for kind in kinds
    )


def _fidelity(
    kind: SampleKind, tokens: PairedTokens, floors: Sequence[PairedTokens], seed: int
) -> Fidelity:
    n = len(tokens.kinds)
    counts = resamples(n, len(tokens.kl), seed)
    own = _statistics(tokens, counts)
    of_floors = [_statistics(floor, counts) for floor in floors]
    figures = {
        name: _figure(statistic, [floor[name] for floor in of_floors], n)
        for name, statistic in own.items()
    }
    deltas = {str(p): figures.pop(f"delta_p_{p}") for p in PERCENTS}
    return Fidelity(
        kind=kind,
        samples=n,
        tokens=len(tokens.kl),
        perplexity=float(np.exp(-tokens.after.mean())),
        baseline_perplexity=float(np.exp(-tokens.before.mean())),
        kl_kind=tokens.kl_kind,
        delta_p_percentiles=deltas,
        **figures,
    )


def _statistics(tokens: PairedTokens, counts: NDArray[np.int64]) -> dict[str, _Statistic]:
    n = len(tokens.kinds)
    if n < 2:
        counts = counts[:0]
    sizes = np.bincount(tokens.sample, minlength=n).astype(np.float64)

    def mean(
        values: Floats, null: float, signed: bool, then: Callable[[Floats], Floats] = np.asarray
    ) -> _Statistic:
        sums = np.bincount(tokens.sample, weights=values, minlength=n)
        resampled = then((counts @ sums) / (counts @ sizes)) if len(counts) else None
        value = float(then(np.array([values.mean()]))[0])
        return _Statistic(value, resampled, null, signed)

    def quantiles(values: Floats, percents: list[int]) -> list[_Statistic]:
        whole, resampled = percentiles(values, tokens.sample, counts, percents)
        return [
            _Statistic(float(value), row if len(counts) else None, 0.0, False)
            for value, row in zip(whole, resampled, strict=True)
        ]

    delta = np.exp(tokens.after) - np.exp(tokens.before)
    loss = tokens.before - tokens.after
    median, p99 = quantiles(tokens.kl, [50, 99])
    found: dict[str, _Statistic] = {
        "loss": mean(loss, 0.0, True),
        "perplexity_ratio": mean(loss, 1.0, True, np.exp),
        "kl_mean": mean(tokens.kl, 0.0, False),
        "kl_median": median,
        "kl_p99": p99,
        "kl_max": _Statistic(float(tokens.kl.max()), None, 0.0, False),
        "delta_p_mean": mean(delta, 0.0, True),
        "delta_p_rms": mean(delta**2, 0.0, False, np.sqrt),
        "same_top": mean(tokens.same.astype(np.float64), 1.0, False),
    }
    for percent, statistic in zip(PERCENTS, quantiles(delta, list(PERCENTS)), strict=True):
        found[f"delta_p_{percent}"] = statistic
    return found


def _figure(statistic: _Statistic, floors: Sequence[_Statistic], samples: int) -> Figure:
    """A statistic as it is recorded; see :class:`quantspectrum.artifacts.Figure`."""
    floor = max(floors, key=lambda one: abs(one.value - one.null), default=None)
    beside = None if floor is None else floor.value
    if statistic.resampled is None or samples < 2:
        return Figure(value=statistic.value, floor=beside)
    stderr, low, high = interval(statistic.resampled, samples)
    differs: bool | None = low > statistic.null or high < statistic.null
    if not statistic.signed:
        excesses = [_excess(statistic, one, samples) for one in floors]
        differs = all(excess > 0 for excess in excesses) if excesses else None
    return Figure(
        value=statistic.value, stderr=stderr, low=low, high=high, floor=beside, differs=differs
    )


def _excess(statistic: _Statistic, floor: _Statistic, samples: int) -> float:
    """Lower end of the interval of how much further from no difference it is than the floor."""
    assert statistic.resampled is not None
    assert floor.resampled is not None
    further = np.abs(statistic.resampled - statistic.null) - np.abs(floor.resampled - floor.null)
    return interval(further, samples)[1]


def mean_figure(
    steps: Mapping[str, float], clusters: Mapping[str, str], *, seed: int = 0
) -> Figure:
    """Mean of a signed step per question, with an interval over clusters of questions.

    Args:
        steps: Question to its step.
        clusters: Question to what must be drawn together; a question that is not in it stands
            alone.
        seed: Of the bootstrap.
    """
    names = sorted({clusters.get(key, key) for key in steps})
    index = {name: place for place, name in enumerate(names)}
    sums, sizes = np.zeros(len(names)), np.zeros(len(names))
    for key, step in steps.items():
        place = index[clusters.get(key, key)]
        sums[place] += step
        sizes[place] += 1
    resampled = None
    if len(names) > 1:
        counts = resamples(len(names), len(steps), seed)
        resampled = (counts @ sums) / (counts @ sizes)
    value = float(sums.sum() / sizes.sum())
    return _figure(_Statistic(value, resampled, 0.0, True), (), len(names))
