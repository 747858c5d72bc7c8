"""Tables of what was measured without a checkpoint."""

from __future__ import annotations

import models_tiny
from quantspectrum.artifacts import (
    Additivity,
    AdditivityPoint,
    DataIdentity,
    Guard,
    GuardedProfile,
    Interval,
    Profile,
    ProfileReading,
    QualityBudget,
    QualitySearch,
    RivalReading,
    Trial,
    Verdict,
)
from quantspectrum.models.loading import pick_device
from quantspectrum.provenance import Stopwatch
from quantspectrum.report.quality import (
    additivity_points,
    additivity_sentence,
    additivity_table,
    guard_markdown,
    guard_sentence,
    guard_table,
    guard_text,
    quality_text,
    rivals_table,
    trials_table,
    with_interval,
)
from quantspectrum.spectrum.additivity import fit_of

PROVENANCE = Stopwatch(pick_device("cpu")).provenance(
    models_tiny.loaded(models_tiny.causal_lm()).identity,
    (DataIdentity(source="made up", split="evaluation", samples=16, sha256="x"),),
)


def between(low: float, high: float) -> Interval:
    return Interval(n=16, value=(low + high) / 2, stderr=(high - low) / 4, low=low, high=high)


def reading(groups: int) -> ProfileReading:
    return ProfileReading(ops_sha256="x", groups=groups, weight_bytes=1000 * groups)


def rival(kind: str, verdict: Verdict, seed: int | None = None) -> RivalReading:
    return RivalReading(
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
        reading=reading(3),
        more_damage=between(0.1, 0.3),
        more_nll=None,
        verdict=verdict,
    )


def guard(*verdicts: Verdict, held_out: bool = True) -> Guard:
    some = [rival("random", verdict, seed) for seed, verdict in enumerate(verdicts)]
    points = tuple(
        AdditivityPoint(
            groups=n, share=n / 4, predicted=0.1 * n, measured=between(0.2 * n, 0.2 * n)
        )
        for n in range(1, 5)
    )
    fit = fit_of(points, same_unit=True)
    profile = GuardedProfile(
        name="a|b",
        reading=reading(3),
        damage=between(0.01, 0.02),
        rivals=(rival("uniform", "beats"), *some),
        beats_all=all(verdict == "beats" for verdict in verdicts),
    )
    nothing = GuardedProfile(
        name="baseline", reading=reading(0), damage=between(0, 0), note="quantizes nothing"
    )
    return Guard(
        lens="native:kl",
        base="isolate",
        spectrum_sha256="x",
        provenance=PROVENANCE,
        held_out=held_out,
        quantity="kl",
        random_seeds=(0, 1),
        profiles=(nothing, profile),
        additivity=Additivity(metric="kl", same_unit=True, estimated=0, points=points, fit=fit),
    )


def test_rows_of_the_guard() -> None:
    table = guard_table(guard("beats", "not told apart", "beats"))
    nothing, profile = table.rows
    assert nothing[-1] == "quantizes nothing"
    assert profile[:4] == ("a|b", "3", "3.00 kB", "1.50e-2 [1.00e-2, 2.00e-2]")
    assert profile[4:] == ("beats", "beats 2, not told apart 1", "—", "NOT better than all")
    assert "16 samples" in table.caption
    assert guard_table(guard("beats")).rows[1][-1] == "beats all"


def test_rows_of_rivals_name_their_seeds() -> None:
    rows = rivals_table(guard("beats", "loses")).rows
    assert [row[1] for row in rows] == ["uniform", "random 0", "random 1"]
    assert rows[-1][-1] == "loses"


def test_a_profile_that_does_not_beat_its_rivals_is_named() -> None:
    assert "a|b" in guard_sentence(guard("beats", "loses"))
    assert "beats all" in guard_sentence(guard("beats"))
    assert "not checked" in guard_sentence(guard("beats", held_out=False))
    assert "not checked" not in guard_sentence(guard("beats"))


def test_how_far_predictions_can_be_trusted() -> None:
    additivity = guard("beats").additivity
    assert additivity is not None
    said = additivity_sentence(additivity)
    assert "power 1.00" in said
    assert "50 % of what is measured" in said
    assert [row[0] for row in additivity_table(additivity).rows] == ["1", "2", "3", "4"]
    assert additivity_points(additivity)[0][:2] == (0.25, 0.1)
    other = additivity.model_copy(update={"fit": fit_of(additivity.points, same_unit=False)})
    assert "unit of their own" in additivity_sentence(other)
    few = additivity.model_copy(update={"fit": fit_of(additivity.points[:1], same_unit=True)})
    assert "Too few points" in additivity_sentence(few)


def test_markdown_makes_names_inert() -> None:
    text = guard_markdown(guard("beats"))
    assert "a\\|b" in text
    assert text.count("| --- |") >= 1
    assert "a|b" in guard_text(guard("beats"))


def search(held: float) -> QualitySearch:
    trial = Trial(
        number=1,
        step="whole",
        quantized=("g",),
        reading=reading(1),
        judged=between(0.004, 0.006),
        meets=True,
    )
    return QualitySearch(
        spectrum_lens="native:kl",
        base="isolate",
        report_sha256="x",
        provenance=PROVENANCE,
        budget=QualityBudget(text="kl 0.01", quantity="kl", limit=0.01),
        baseline_nll=2.0,
        max_trials=4,
        trials=(trial,),
        profile=Profile(name="q", share=1.0, groups=1, ops={"g": "w8a8"}, predicted_damage=0.0),
        held_out=reading(1),
        held_out_judged=between(held, held),
    )


def test_what_a_search_found() -> None:
    assert "OVER" not in quality_text(search(0.005))
    assert "OVER the budget" in quality_text(search(0.02))
    (row,) = trials_table(search(0.005)).rows
    assert row[:2] == ("1", "whole")
    assert row[-1] == "yes"
    assert "1.00e-2" in trials_table(search(0.005)).caption


def test_estimates_without_an_interval() -> None:
    assert with_interval(None) == "—"
    assert with_interval(Interval(n=1, value=0.5)) == "5.00e-1"
