"""Profiles beside rivals of equal size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import models_tiny
from quantspectrum.artifacts import GuardedProfile, Profile, Spectrum
from quantspectrum.formats import preset
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.guard import compared, rivals_of
from quantspectrum.spectrum.meter import Reading, ops_sha256
from quantspectrum.spectrum.quality import weight_bytes
from spectrum.measured_cases import HELD_OUT, PLANTED, Case, case_of, plant
from spectrum.test_spectrum_build import report_of


def guarded(case: Case) -> dict[str, GuardedProfile]:
    """Every profile of a case, measured on held-out batches."""
    order = [name for name, _ in case.loaded.model.named_modules()]
    rivals = {p.name: rivals_of(p, case.spectrum, order, (0, 1, 2)) for p in case.spectrum.profiles}
    ops = [p.ops for p in case.spectrum.profiles]
    ops += [rival.ops for some in rivals.values() for rival in some]
    meter = case.meter(HELD_OUT)
    readings = dict(zip(map(ops_sha256, ops), meter.measure(ops), strict=True))
    return {
        p.name: compared(p, rivals[p.name], readings, meter.baseline, case.spectrum, "kl")
        for p in case.spectrum.profiles
    }


def test_a_planted_op_makes_the_ranking_beat_its_inversion() -> None:
    found = guarded(case_of(plant(models_tiny.causal_lm("qwen2"))))
    for name in ("mild", "medium", "aggressive"):
        profile = found[name]
        (inverted,) = [rival for rival in profile.rivals if rival.kind == "inverted"]
        assert inverted.verdict == "beats"
        assert inverted.more_damage.low is not None
        assert inverted.more_damage.low > 0
        assert profile.beats_all == all(rival.verdict == "beats" for rival in profile.rivals)
        assert [rival.kind for rival in profile.rivals].count("random") == 3
        assert [rival.seed for rival in profile.rivals if rival.kind == "random"] == [0, 1, 2]


def test_a_ranking_upside_down_loses() -> None:
    case = case_of(plant(models_tiny.causal_lm("qwen2")))
    ops = tuple(op.model_copy(update={"score": -op.score}) for op in case.report.ops)
    report = case.report.model_copy(update={"ops": ops})
    turned = Case(case.loaded, report, build_spectrum(report, report_sha256="0" * 64))
    profile = guarded(turned)["medium"]
    assert PLANTED in turned.spectrum.profile("medium").ops
    (inverted,) = [rival for rival in profile.rivals if rival.kind == "inverted"]
    assert inverted.verdict == "loses"
    assert profile.beats_all is False


def test_ops_that_do_no_damage_are_not_told_apart(llama: nn.Module) -> None:
    # Zero is zero in every format, so that all choices are alike, bit for bit.
    with torch.no_grad():
        for module in llama.model.modules():  # type: ignore[union-attr]
            if isinstance(module, nn.Linear):
                module.weight.zero_()
    found = guarded(case_of(llama, "w8a16"))
    assert found["max"].damage.value == 0
    for name in ("mild", "medium", "aggressive"):
        assert {rival.verdict for rival in found[name].rivals} == {"not told apart"}
        assert found[name].beats_all is False


def flat(seed: int, effect: float) -> GuardedProfile:
    """Forty noisy samples on which every choice of two in four ops does equal damage."""
    report = report_of(*((f"op{i}", f"op{i}", float(i)) for i in range(4)))
    spectrum = build_spectrum(report, report_sha256="x", cuts={"half": 0.5})
    rng = np.random.default_rng(seed)
    (profile,) = spectrum.profiles
    rivals = rivals_of(profile, spectrum, [f"op{i}" for i in range(4)], (0,))
    everyone = {ops_sha256(ops): ops for ops in (profile.ops, *(rival.ops for rival in rivals))}
    mine = ops_sha256(profile.ops)
    readings = {
        sha: Reading(values={"kl": tuple(rng.gamma(4.0, 0.25, 40) + effect * (sha != mine))})
        for sha in everyone
    }
    baseline = Reading(values={"text_tokens": (1.0,) * 40})
    return compared(profile, rivals, readings, baseline, spectrum, "kl")


def test_equal_damage_with_noise_is_seldom_told_apart() -> None:
    verdicts = [
        rival.verdict
        for seed in range(60)
        for rival in flat(seed, 0.0).rivals
        if rival.kind == "inverted"
    ]
    # At most 5 % of the intervals leave out zero, give or take three standard errors.
    told = sum(verdict != "not told apart" for verdict in verdicts)
    assert told <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95)


def test_more_damage_than_noise_is_told_apart() -> None:
    assert {rival.verdict for seed in range(5) for rival in flat(seed, 1.0).rivals} <= {
        "beats",
        "not told apart",
    }
    assert all(flat(seed, 1.0).rivals[-1].verdict == "beats" for seed in range(5))


def test_nothing_and_everything_have_no_rivals(llama: nn.Module) -> None:
    found = guarded(case_of(llama))
    for name, word in (("baseline", "nothing"), ("max", "every candidate")):
        assert found[name].rivals == ()
        assert found[name].beats_all is None
        assert word in (found[name].note or "")


@st.composite
def spectra(draw: st.DrawFn) -> Spectrum:
    """Groups of one to three ops of random shapes and scores."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=20))
    scores = st.floats(0, 10, allow_nan=False)
    report = report_of(
        *(
            (f"g{number}.op{member}", f"g{number}", draw(scores))
            for number, size in enumerate(sizes)
            for member in range(size)
        )
    )
    shapes = st.tuples(st.integers(1, 64), st.integers(1, 64))
    ops = []
    for op in report.ops:
        shape = draw(shapes)
        ops.append(op.model_copy(update={"shape": shape, "params": math.prod(shape)}))
    report = report.model_copy(update={"ops": tuple(ops)})
    share = draw(st.floats(0.05, 0.95))
    return build_spectrum(report, report_sha256="x", cuts={"cut": share})


@given(spectra(), st.integers(0, 1000))
def test_rivals_have_the_profiles_bytes_and_tear_nothing_apart(
    spectrum: Spectrum, seed: int
) -> None:
    (profile,) = spectrum.profiles
    order = sorted(op.name for op in spectrum.candidates)
    rivals = rivals_of(profile, spectrum, order, (seed,))
    if len(profile.ops) == len(spectrum.candidates):
        assert rivals == []
        return
    members: dict[str, set[str]] = {}
    for op in spectrum.candidates:
        members.setdefault(op.group, set()).add(op.name)
    sizes = [weight_bytes(dict.fromkeys(ops, "w8a8"), spectrum) for ops in members.values()]
    target = weight_bytes(profile.ops, spectrum)
    assert [rival.kind for rival in rivals] == ["uniform", "random", "inverted"]
    for rival in rivals:
        assert all(ops <= set(rival.ops) or not ops & set(rival.ops) for ops in members.values())
        assert set(rival.ops.values()) == {"w8a8"}
        apart = abs(weight_bytes(rival.ops, spectrum) - target)
        only = len({op.group for op in spectrum.candidates if op.name in rival.ops}) == 1
        assert apart <= max(sizes) / 2 or only


def test_uniform_takes_every_other_group_and_inverted_the_most_sensitive() -> None:
    report = report_of(*((f"op{i}", f"op{i}", float(i)) for i in range(8)))
    spectrum = build_spectrum(report, report_sha256="x", cuts={"half": 0.5})
    order = [f"op{i}" for i in range(8)]
    uniform, inverted = rivals_of(spectrum.profiles[0], spectrum, order, ())
    assert set(uniform.ops) == {"op0", "op2", "op4", "op6"}
    assert set(inverted.ops) == {"op4", "op5", "op6", "op7"}


def test_a_profile_of_two_formats_has_rivals_with_as_much_of_each() -> None:
    scored = [(f"op{i}", f"op{i}", float(i)) for i in range(8)]
    made = build_spectrum(report_of(*scored), report_sha256="x")
    made = made.model_copy(update={"formats": made.formats | {"fp8": preset("fp8")}})
    ops = {"op0": "w8a8", "op1": "w8a8", "op2": "w8a8", "op3": "fp8"}
    profile = Profile(name="mixed", share=0.5, groups=4, ops=ops, predicted_damage=0.0)
    for rival in rivals_of(profile, made, [f"op{i}" for i in range(8)], (3, 4)):
        found = list(rival.ops.values())
        assert (found.count("w8a8"), found.count("fp8")) == (3, 1)


@pytest.mark.parametrize("fmt", ["w8a8-static", "inc"])
def test_every_format_can_be_guarded(llama: nn.Module, fmt: str) -> None:
    assert guarded(case_of(llama, fmt))["medium"].damage.value > 0
