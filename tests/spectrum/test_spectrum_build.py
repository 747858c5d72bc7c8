from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import models_tiny
from quantspectrum.artifacts import Coverage, OpScore, SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.models.loading import pick_device
from quantspectrum.provenance import Stopwatch
from quantspectrum.spectrum.build import DEFAULT_CUTS, build_spectrum
from quantspectrum.spectrum.groups import rank_groups
from quantspectrum.spectrum.rules import parse_cuts

IDENTITY = models_tiny.loaded(models_tiny.causal_lm()).identity
PROVENANCE = Stopwatch(pick_device("cpu")).provenance(IDENTITY)


def report_of(*scored: tuple[str, str, float], fmt: str = "w8a8") -> SensitivityReport:
    """A report of ops given as (name, group, score)."""
    ranked = sorted(scored, key=lambda op: (-op[2], op[0]))
    static = preset(fmt).needs_calibration
    ops = [
        OpScore(
            name=name,
            type="Linear",
            component="language",
            block=0,
            group=group,
            shape=(2, 2),
            params=4,
            score=score,
            n=2,
            rank=rank,
            input_range=(-float(rank), 1.0) if static else None,
        )
        for rank, (name, group, score) in enumerate(ranked, start=1)
    ]
    return SensitivityReport(
        lens="native:mse_v2",
        base="isolate",
        format=preset(fmt),
        provenance=PROVENANCE,
        complete=True,
        coverage=Coverage(found=len(ops), scored=len(ops)),
        ops=tuple(ops),
    )


@st.composite
def reports(draw: st.DrawFn) -> SensitivityReport:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    score = st.floats(-1e6, 1e30, allow_nan=False)
    return report_of(
        *(
            (f"g{number}.op{member}", f"g{number}", draw(score))
            for number, size in enumerate(sizes)
            for member in range(size)
        )
    )


shares = st.dictionaries(
    st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.floats(0, 1), min_size=1, max_size=5
)

# Group scores: qkv 0.6, o 0.5, down 0.1.
REPORT = report_of(
    ("q", "qkv", 0.1), ("k", "qkv", 0.2), ("v", "qkv", 0.3), ("o", "o", 0.5), ("down", "down", 0.1)
)


def test_a_group_weighs_what_its_ops_do_together() -> None:
    groups = rank_groups(REPORT)
    assert [group.name for group in groups] == ["down", "o", "qkv"]
    assert [group.score for group in groups] == pytest.approx([0.1, 0.5, 0.6])
    assert [op.name for op in groups[2].ops] == ["k", "q", "v"]


def test_ties_between_groups_are_in_the_order_of_names() -> None:
    report = report_of(("x", "b", 1.0), ("y", "a", 1.0), ("z", "c", 0.5))
    assert [group.name for group in rank_groups(report)] == ["c", "a", "b"]


def test_known_cuts() -> None:
    spectrum = build_spectrum(
        REPORT, report_sha256="abc", cuts={"none": 0.0, "third": 1 / 3, "most": 0.6, "all": 1.0}
    )
    assert [(p.name, p.groups, sorted(p.ops)) for p in spectrum.profiles] == [
        ("none", 0, []),
        ("third", 1, ["down"]),
        ("most", 2, ["down", "o"]),
        ("all", 3, ["down", "k", "o", "q", "v"]),
    ]
    assert [p.share for p in spectrum.profiles] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [p.predicted_damage for p in spectrum.profiles] == pytest.approx([0, 0.1, 0.6, 1.2])
    assert all(set(p.ops.values()) <= {"w8a8"} for p in spectrum.profiles)


def test_a_spectrum_says_where_it_comes_from() -> None:
    spectrum = build_spectrum(REPORT, report_sha256="abc")
    assert spectrum.model == IDENTITY
    assert (spectrum.lens, spectrum.base) == ("native:mse_v2", "isolate")
    assert spectrum.report_sha256 == "abc"
    assert spectrum.formats == {"w8a8": preset("w8a8")}
    assert [op.name for op in spectrum.candidates] == ["down", "o", "k", "q", "v"]
    assert spectrum.input_ranges == {}


def test_static_ranges_are_passed_on() -> None:
    report = report_of(("a", "a", 2.0), ("b", "b", 1.0), fmt="w8a8-static")
    spectrum = build_spectrum(report, report_sha256="")
    assert spectrum.input_ranges == {"a": (-1.0, 1.0), "b": (-2.0, 1.0)}


def test_the_default_cuts_go_from_nothing_to_everything() -> None:
    assert list(DEFAULT_CUTS) == ["baseline", "mild", "medium", "aggressive", "max"]
    found = list(DEFAULT_CUTS.values())
    assert found[0] == 0
    assert found[-1] == 1
    assert found == sorted(found)


def test_profiles_come_in_the_order_of_their_shares() -> None:
    spectrum = build_spectrum(REPORT, report_sha256="", cuts={"b": 1.0, "a": 0.5, "c": 0.0})
    assert [profile.name for profile in spectrum.profiles] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("share", "groups", "count"),
    [
        # floor(share * groups + 1/2), at least one above 0.
        (0.0, 10, 0),
        (0.001, 10, 1),
        (0.04, 10, 1),
        (0.15, 10, 2),
        (0.14, 10, 1),
        (0.25, 2, 1),
        (0.5, 3, 2),
        (0.99, 10, 10),
        (0.94, 10, 9),
        (1.0, 10, 10),
        (0.45, 144, 65),
    ],
)
def test_rounding(share: float, groups: int, count: int) -> None:
    report = report_of(*((f"op{i:03}", f"g{i:03}", float(i)) for i in range(groups)))
    (profile,) = build_spectrum(report, report_sha256="", cuts={"cut": share}).profiles
    assert profile.groups == len(profile.ops) == count


@given(report=reports(), cuts=shares)
def test_a_share_is_never_exceeded_by_more_than_half_a_group(
    report: SensitivityReport, cuts: dict[str, float]
) -> None:
    total = len(rank_groups(report))
    for profile in build_spectrum(report, report_sha256="", cuts=cuts).profiles:
        asked = cuts[profile.name]
        assert 0 <= profile.groups <= total
        assert profile.share == profile.groups / total
        if asked == 0:
            assert profile.groups == 0
        else:
            assert profile.groups <= max(1, asked * total + 0.5)
            assert profile.groups >= max(1, asked * total - 0.5)


@given(report=reports(), cuts=shares)
def test_each_profile_holds_the_one_before(
    report: SensitivityReport, cuts: dict[str, float]
) -> None:
    profiles = build_spectrum(report, report_sha256="", cuts=cuts).profiles
    for smaller, larger in itertools.pairwise(profiles):
        assert smaller.ops.items() <= larger.ops.items()
        assert smaller.groups <= larger.groups


@given(report=reports(), cuts=shares)
def test_groups_are_whole(report: SensitivityReport, cuts: dict[str, float]) -> None:
    group_of = {op.name: op.group for op in report.ops}
    for profile in build_spectrum(report, report_sha256="", cuts=cuts).profiles:
        inside = {group_of[name] for name in profile.ops}
        assert {name for name, group in group_of.items() if group in inside} == set(profile.ops)
        assert len(inside) == profile.groups


@given(report=reports(), cuts=shares)
def test_what_is_quantized_is_less_sensitive_than_what_is_not(
    report: SensitivityReport, cuts: dict[str, float]
) -> None:
    scores = {group.name: group.score for group in rank_groups(report)}
    group_of = {op.name: op.group for op in report.ops}
    for profile in build_spectrum(report, report_sha256="", cuts=cuts).profiles:
        inside = {group_of[name] for name in profile.ops}
        kept = scores.keys() - inside
        if inside and kept:
            assert max(scores[g] for g in inside) <= min(scores[g] for g in kept)
        assert profile.predicted_damage == math.fsum(scores[group] for group in inside)


@given(report=reports(), data=st.data())
def test_the_order_of_ops_in_the_report_changes_nothing(
    report: SensitivityReport, data: st.DataObject
) -> None:
    turned = report.model_copy(update={"ops": tuple(data.draw(st.permutations(report.ops)))})
    assert build_spectrum(turned, report_sha256="") == build_spectrum(report, report_sha256="")


def test_an_empty_report_is_refused() -> None:
    with pytest.raises(UserError, match="scores no op; there is nothing to quantize"):
        build_spectrum(report_of(), report_sha256="")


@pytest.mark.parametrize("share", [-0.1, 1.0001, 15, float("nan"), float("inf")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=rf"cut odd={share}: .*between 0 and 1"):
        build_spectrum(REPORT, report_sha256="", cuts={"fine": 0.5, "odd": share})


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("mild=0.15", 0.15),
        ("mild=15%", 0.15),
        ("mild=100%", 1.0),
        ("mild=0", 0.0),
        ("mild=1", 1.0),
        ("mild=12.5%", 0.125),
        ("mild= 0.5 ", 0.5),
    ],
)
def test_parsing(text: str, share: float) -> None:
    assert parse_cuts([text]) == {"mild": share}


def test_parsing_several_keeps_their_order() -> None:
    found = parse_cuts(["b=1", "a=10%", "my-cut_2=0.2"])
    assert list(found.items()) == [("b", 1.0), ("a", 0.1), ("my-cut_2", 0.2)]


@pytest.mark.parametrize("text", ["mild", "mild=", "mild=much", "mild=%", "=", "", "a=0.1=0.2"])
def test_a_cut_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not NAME=SHARE, such as mild=15%|use a new name"):
        parse_cuts([text])


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "a.b", "-", "a b", "a\\b", "\x00"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="use a new name of letters"):
        parse_cuts([f"{name}=0.5"])


def test_a_name_that_occurs_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"'a=0\.6': use a new name"):
        parse_cuts(["a=0.5", "b=0.5", "a=0.6"])
