"""Records of what is measured without a checkpoint, made through the classes that write them."""

from __future__ import annotations

from report_runs import data, profile, provenance

from quantspectrum.artifacts import (
    Additivity,
    AdditivityPoint,
    CurvePoint,
    GroupTruth,
    Guard,
    GuardedProfile,
    Interval,
    OrderTruth,
    ProfileReading,
    QualityBudget,
    QualitySearch,
    RankInterval,
    RivalReading,
    Trial,
    Truth,
    Verdict,
)
from quantspectrum.formats import PRESETS
from quantspectrum.spectrum.additivity import fit_of

__all__ = ["additivity", "around", "guard", "guarded", "reading", "rival", "search", "truth"]

PROVENANCE = provenance(data(samples=16))


def around(low: float, high: float) -> Interval:
    return Interval(n=16, value=(low + high) / 2, stderr=(high - low) / 4, low=low, high=high)


def reading(groups: int) -> ProfileReading:
    return ProfileReading(
        ops_sha256="x", groups=groups, weight_bytes=1000 * groups, kl=around(0.01, 0.02)
    )


def rival(kind: str, verdict: Verdict, seed: int | None = None) -> RivalReading:
    return RivalReading(
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
        reading=reading(3),
        more_damage=around(0.1, 0.3),
        verdict=verdict,
    )


def guarded(name: str, *verdicts: Verdict) -> GuardedProfile:
    """A profile that beats a uniform rival, and has a random one for each verdict."""
    return GuardedProfile(
        name=name,
        reading=reading(3),
        damage=around(0.01, 0.02),
        rivals=(
            rival("uniform", "beats"),
            *(rival("random", verdict, seed) for seed, verdict in enumerate(verdicts)),
        ),
        beats_all=all(verdict == "beats" for verdict in verdicts),
    )


def additivity(metric: str = "kl", *, same_unit: bool = True) -> Additivity:
    """Twice as much is measured as was predicted, at each of four points."""
    points = tuple(
        AdditivityPoint(groups=n, share=n / 4, predicted=0.1 * n, measured=around(0.2 * n, 0.2 * n))
        for n in range(1, 5)
    )
    fit = fit_of(points, same_unit=same_unit)
    return Additivity(metric=metric, same_unit=same_unit, estimated=0, points=points, fit=fit)


def guard(
    *profiles: GuardedProfile, held_out: bool = True, quantity: str = "kl", spectrum: str = "x"
) -> Guard:
    nothing = GuardedProfile(
        name="baseline", reading=reading(0), damage=around(0, 0), note="quantizes nothing"
    )
    return Guard(
        lens="native:kl",
        base="isolate",
        spectrum_sha256=spectrum,
        provenance=PROVENANCE,
        held_out=held_out,
        quantity=quantity,  # type: ignore[arg-type]
        random_seeds=(0, 1),
        profiles=(nothing, *profiles),
        additivity=additivity(),
    )


def search(held: float) -> QualitySearch:
    """One trial that keeps to a KL of 0.01; ``held`` is its KL on samples it never saw."""
    return QualitySearch(
        spectrum_lens="native:kl",
        base="isolate",
        report_sha256="x",
        provenance=PROVENANCE,
        budget=QualityBudget(text="kl 0.01", quantity="kl", limit=0.01),
        baseline_nll=2.0,
        max_trials=4,
        trials=(
            Trial(
                number=1,
                step="whole",
                quantized=("g",),
                reading=reading(1),
                judged=around(0.004, 0.006),
                meets=True,
            ),
        ),
        profile=profile("q", 1.0, []).model_copy(
            update={"ops": {"g": "w8a8"}, "rule": "the largest that keeps to it"}
        ),
        held_out=reading(1),
        held_out_judged=around(held, held),
    )


def truth() -> Truth:
    """Two lenses of which the first is the best, on 16 samples."""
    return Truth(
        format=PRESETS["w8a8"],
        provenance=PROVENANCE,
        held_out=True,
        samples=16,
        shares=(0.5, 1.0),
        groups=tuple(
            GroupTruth(group=f"g{n}", component="language", ops=(f"g{n}",), weight_bytes=9, kl=kl)
            for n, kl in enumerate((around(0.1, 0.2), around(0.3, 0.5)))
        ),
        ceiling=0.91,
        best="native:kl",
        orders=(
            _order("heuristic:size", 0.6, around(0.01, 0.03)),
            _order("native:kl", 0.3, None),
        ),
    )


def _order(label: str, area: float, more: Interval | None) -> OrderTruth:
    return OrderTruth(
        label=label,
        kind="lens",
        spearman=RankInterval(value=0.9, low=0.8, high=0.95),
        kendall=RankInterval(value=None),
        curve=tuple(CurvePoint(share=s, groups=3, kl=around(s, s)) for s in (0.5, 1.0)),
        area=around(area - 0.1, area + 0.1),
        area_more=more,
        log_area=-1.5,
        seconds=3.0,
        peak_bytes=2_000_000,
        groups=2,
    )
