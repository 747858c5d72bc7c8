"""Profiles made by budgets, over one format and over several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspectrum.artifacts import LatencyTable, Profile, SensitivityReport, Spectrum
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.costs import model_bytes, op_bytes
from quantspectrum.spectrum.legality import torn_groups
from quantspectrum.spectrum.rules import parse_budgets, parse_keeps
from spectrum.spectrum_cases import IDENTITY, PROVENANCE, SAMPLES, latency_table, report

WHOLE = model_bytes(IDENTITY)
FORMATS = ("w8a8", "fp8", "w4a16")


def built(
    reports: list[SensitivityReport],
    *budgets: str,
    keeps: tuple[str, ...] = (),
    latency: LatencyTable | None = None,
    cuts: Mapping[str, float] | None = None,
) -> Spectrum:
    return build_spectrum(
        reports,
        report_sha256=[f"sha of {one.format.name}" for one in reports],
        cuts=cuts or {},
        budgets=parse_budgets(budgets),
        keeps=parse_keeps(keeps),
        latency=latency,
    )


def only(spectrum: Spectrum) -> Profile:
    (profile,) = spectrum.profiles
    return profile


@st.composite
def cases(draw: st.DrawFn) -> list[SensitivityReport]:
    """Up to five groups of up to two ops of several sizes, scored in three formats."""
    sizes = draw(st.lists(st.integers(1, 2), min_size=1, max_size=5))
    names = [(f"g{g}.op{m}", f"g{g}") for g, size in enumerate(sizes) for m in range(size)]
    side = st.sampled_from([64, 128, 256, 1024])
    shapes = {name: (draw(side), draw(side)) for name, _ in names}
    score = st.one_of(st.floats(-1e-3, 10), st.floats(0, 1e-6))
    return [
        report(fmt, [(name, group, draw(score)) for name, group in names], shapes=shapes)
        for fmt in FORMATS
    ]


def assignments(reports: list[SensitivityReport]) -> list[tuple[int, Fraction]]:
    """Every assignment's weight bytes of the model, and its damage with noise as zero."""
    groups: dict[str, list[str]] = {}
    for op in reports[0].ops:
        groups.setdefault(op.group, []).append(op.name)
    scored = [{op.name: op for op in one.ops} for one in reports]
    found = []
    for choice in itertools.product([None, 0, 1, 2], repeat=len(groups)):
        size, damage = WHOLE, Fraction(0)
        for names, pick in zip(groups.values(), choice, strict=True):
            if pick is None:
                continue
            ops = [scored[pick][name] for name in names]
            fmt = reports[pick].format
            size += sum(op_bytes(o, fmt, "bfloat16") - op_bytes(o, None, "bfloat16") for o in ops)
            damage += max(Fraction(0), Fraction(math.fsum(o.score for o in ops)))
        found.append((size, damage))
    return found


@settings(max_examples=60, deadline=None)
@given(reports=cases(), share=st.integers(0, 100))
def test_bytes_are_never_exceeded_and_nothing_better_is_within(
    reports: list[SensitivityReport], share: int
) -> None:
    every = assignments(reports)
    least = min(size for size, _ in every)
    limit = least + (WHOLE - least) * share // 100
    profile = only(built(reports, f"b=bytes:{limit}"))
    assert profile.predicted_bytes is not None
    assert profile.optimum is not None
    assert profile.predicted_bytes <= limit
    best = min(damage for size, damage in every if size <= limit)
    assert profile.optimum.value == pytest.approx(float(best), rel=1e-9)
    assert profile.optimum.bound <= float(best) * (1 + 1e-12)
    assert profile.predicted_damage <= profile.optimum.value
    assert torn_groups(profile.ops, reports[0].ops) == []


@settings(max_examples=60, deadline=None)
@given(reports=cases(), limit=st.sampled_from(["0", "1e-7", "0.001", "0.5", "3", "20"]))
def test_damage_is_never_exceeded_and_nothing_smaller_is_within(
    reports: list[SensitivityReport], limit: str
) -> None:
    profile = only(built(reports, f"d=damage:{limit}"))
    best = min(size for size, damage in assignments(reports) if damage <= Fraction(float(limit)))
    assert profile.predicted_damage <= float(limit)
    assert profile.predicted_bytes == best
    assert profile.optimum is not None
    assert (profile.optimum.minimises, profile.optimum.value) == ("bytes", best)


def test_one_format_under_a_budget_beats_the_greedy_cut_where_sizes_differ() -> None:
    # Least sensitive first would take the small ops, which save little.
    scores = [("s1", "s1", 0.1), ("s2", "s2", 0.2), ("large", "large", 0.25)]
    shapes = {"s1": (128, 128), "s2": (128, 128), "large": (1024, 1024)}
    one = report("w8a8", scores, shapes=shapes)
    saved = op_bytes(one.ops[0], None, "bfloat16") - op_bytes(
        one.ops[0], PRESETS["w8a8"], "bfloat16"
    )
    limit = WHOLE - saved
    assert one.ops[0].name == "large"
    profile = only(built([one], f"b=bytes:{limit}"))
    assert list(profile.ops) == ["large"]
    spectrum = built([one], cuts={"all": 1.0, "two": 0.67, "one": 0.33})
    greedy = [p for p in spectrum.profiles if (p.predicted_bytes or 0) <= limit]
    assert [p.name for p in greedy] == ["all"]
    assert profile.predicted_damage < min(p.predicted_damage for p in greedy)


def test_several_formats_are_mixed_where_each_is_best() -> None:
    groups = [(name, name, 0.0) for name in ("a", "b", "c")]
    scores = {"w8a8": (0.1, 5.0, 5.0), "w4a16": (0.2, 9.0, 9.0), "fp8": (3.0, 0.1, 9.0)}
    reports = [
        report(fmt, [(n, g, s) for (n, g, _), s in zip(groups, found, strict=True)])
        for fmt, found in scores.items()
    ]
    profile = only(built(reports, "mix=damage:0.4"))
    assert profile.ops == {"a": "w4a16", "b": "fp8"}
    assert profile.predicted_damage == pytest.approx(0.3)
    spectrum = built(reports, "mix=damage:0.4")
    assert set(spectrum.formats) == set(scores)
    assert spectrum.damages["b"] == {"w8a8": 5.0, "w4a16": 9.0, "fp8": 0.1}
    assert [(s.format, s.sha256) for s in spectrum.reports] == [
        (fmt, f"sha of {fmt}") for fmt in scores
    ]
    assert spectrum.report_sha256 == "sha of w8a8"


def test_cuts_are_of_the_first_report() -> None:
    low = report("w8a8", [("a", "a", 1.0), ("b", "b", 2.0)])
    high = report("fp8", [("a", "a", 0.2), ("b", "b", 0.1)])
    assert only(built([low, high], cuts={"half": 0.5})).ops == {"a": "w8a8"}
    assert only(built([high, low], cuts={"half": 0.5})).ops == {"b": "fp8"}


def test_shares_of_bytes_are_of_all_the_model_and_of_time_of_the_candidates() -> None:
    one = report("w8a8", [("a", "a", 1.0), ("b", "b", 2.0)], shapes={"a": (512, 512)})
    ops = {op.name: op for op in one.ops}
    high = sum(op_bytes(op, None, "bfloat16") for op in ops.values())
    saved = {
        n: op_bytes(o, None, "bfloat16") - op_bytes(o, PRESETS["w8a8"], "bfloat16")
        for n, o in ops.items()
    }
    assert only(built([one], "b=bytes:100%")).ops == {}
    share = 100 * (high - saved["a"]) / high
    assert list(only(built([one], f"t=time:{share + 0.01:.2f}%")).ops) == ["a"]
    assert only(built([one], "t=time:60%")).rule.startswith(
        "least predicted damage with weight-read time"
    )
    assert f"(99% of {WHOLE / 1e6:.4f} MB)" in only(built([one], "b=bytes:99%")).rule


def test_a_budget_below_all_that_is_possible_says_what_is_possible() -> None:
    one = report("w8a8", [("a", "a", 1.0)])
    with pytest.raises(
        UserError, match=r"b=bytes:10%: weight bytes .* cannot go below 19\.\d+ MB \(99\.\d+%\)"
    ):
        built([one], "b=bytes:10%")


class TestNoise:
    """A score below zero is noise: a budget counts it as zero, and the sum stays a plain sum."""

    REPORT = report("w8a8", [("a", "a", -0.5), ("b", "b", 0.4), ("c", "c", 0.7)])

    def test_it_buys_nothing(self) -> None:
        profile = only(built([self.REPORT], "d=damage:0.4"))
        # With -0.5 in the sum, c would fit too: -0.5 + 0.4 + 0.4 < 0.4.
        assert set(profile.ops) == {"a", "b"}
        assert profile.predicted_damage == pytest.approx(-0.1)
        assert profile.negative_groups == 1
        assert "1 scores below zero (noise) counted as 0" in profile.rule

    def test_it_is_no_reason_to_prefer_a_format(self) -> None:
        other = report("w4a16", [("a", "a", 0.0), ("b", "b", 0.4), ("c", "c", 0.7)])
        profile = only(built([self.REPORT, other], "d=damage:0"))
        assert profile.ops == {"a": "w4a16"}

    def test_cuts_add_it_up_as_it_is(self) -> None:
        profile = only(built([self.REPORT], cuts={"all": 1.0}))
        assert profile.predicted_damage == pytest.approx(0.6)
        assert "added up as they are" in profile.rule


class TestLatency:
    REPORT = report("w8a8", [("a", "a", 1.0), ("b", "b", 2.0)], shapes={"a": (256, 128)})
    TIMES: ClassVar = {
        ((256, 128), "bf16", 1): 4e-3,
        ((256, 128), "w8a8", 1): 3e-3,
        ((128, 128), "bf16", 1): 2e-3,
        ((128, 128), "w8a8", 1): 1e-3,
    }

    def test_times_of_the_table_are_added(self) -> None:
        profile = only(built([self.REPORT], "l=latency:5.5ms", latency=latency_table(self.TIMES)))
        assert list(profile.ops) == ["a"]
        assert "at most 5.5 ms: 5 ms" in profile.rule
        everything = built([self.REPORT], "l=latency:70%", latency=latency_table(self.TIMES))
        assert set(only(everything).ops) == {"a", "b"}

    def test_a_format_that_is_slower_is_not_taken(self) -> None:
        slow = self.TIMES | {((256, 128), "w8a8", 1): 9e-3}
        profile = only(built([self.REPORT], "l=latency:5.5ms", latency=latency_table(slow)))
        assert list(profile.ops) == ["b"]

    def test_a_format_without_a_kernel_is_not_taken_and_named(self) -> None:
        other = report("fp8", [("a", "a", 0.0), ("b", "b", 0.0)], shapes={"a": (256, 128)})
        profile = only(
            built([self.REPORT, other], "l=latency:5.5ms", latency=latency_table(self.TIMES))
        )
        assert profile.ops == {"a": "w8a8"}
        assert "without a kernel there: fp8" in profile.rule

    def test_rows_are_asked_for_where_there_are_several(self) -> None:
        both = self.TIMES | {(shape, fmt, 8): t for (shape, fmt, _), t in self.TIMES.items()}
        with pytest.raises(UserError, match=r"times for 1, 8 rows; say which"):
            built([self.REPORT], "l=latency:5.5ms", latency=latency_table(both))
        assert built([self.REPORT], "l=latency:5.5ms@8", latency=latency_table(both))

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (None, "give --latency FILE"),
            (
                latency_table(TIMES).model_copy(update={"dtype": "float32"}),
                "the latency table is of float32, the reports of bfloat16",
            ),
            (
                latency_table({k: v for k, v in TIMES.items() if k[:2] != ((128, 128), "bf16")}),
                "no time of b in high precision at 1 rows",
            ),
        ],
    )
    def test_a_table_that_does_not_fit_is_refused(self, table: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            built([self.REPORT], "l=latency:5.5ms", latency=table)


class TestKeep:
    REPORTS: ClassVar = [
        report(
            fmt,
            [("l.0.q", "l.0.qk", 0.1), ("l.0.k", "l.0.qk", 0.1), ("l.0.o", "l.0.o", 0.2),
             ("l.1.o", "l.1.o", 0.3)],
            kept=["head"],
        )
        for fmt in ("w8a8", "fp8")
    ]  # fmt: skip

    def test_high_precision_stays_in_every_profile(self) -> None:
        spectrum = built(
            self.REPORTS, "d=damage:9", keeps=("o=bf16",), cuts={"max": 1.0, "none": 0.0}
        )
        for name in ("d", "max"):
            assert set(spectrum.profile(name).ops) == {"l.0.q", "l.0.k"}
            assert "2 groups fixed by --keep" in spectrum.profile(name).rule
        assert spectrum.profile("none").ops == {}

    def test_a_format_is_had_whatever_it_costs(self) -> None:
        spectrum = built(self.REPORTS, "d=damage:0.3", keeps=("l.1.o=fp8",), cuts={"c": 0.5})
        assert spectrum.profile("d").ops == {"l.1.o": "fp8"}
        assert spectrum.profile("c").ops["l.1.o"] == "fp8"
        with pytest.raises(UserError, match=r"predicted damage cannot go below 0\.3"):
            built(self.REPORTS, "d=damage:0.2", keeps=("l.1.o=fp8",))

    def test_the_more_specific_pattern_decides_and_the_last_one_among_equals(self) -> None:
        keeps = ("l.1.o=fp8", "*=bf16", "o=w8a8", "*=fp8")
        profile = only(built(self.REPORTS, "d=damage:9", keeps=keeps))
        assert profile.ops == {"l.1.o": "fp8", "l.0.o": "w8a8", "l.0.q": "fp8", "l.0.k": "fp8"}

    def test_the_model_s_own_type_is_high_precision_too(self) -> None:
        profile = only(built(self.REPORTS, "d=damage:9", keeps=("*=bfloat16",)))
        assert profile.ops == {}

    @pytest.mark.parametrize(
        ("keeps", "message"),
        [
            (("q=bf16",), r"--keep tears l\.0\.qk apart \(k: free; q: bf16\)|q: bf16; k: free"),
            (("q=bf16", "k=fp8"), r"tears l\.0\.qk apart .* serving engine fuses"),
            (("nothing=bf16",), r"no op matches pattern 'nothing'"),
            (("o=w4a16",), r"the formats are bf16 \(high precision\), w8a8, fp8"),
            (("head=fp8",), r"the report did not score; score them with --include"),
        ],
    )
    def test_what_cannot_be_kept_is_refused(self, keeps: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            built(self.REPORTS, "d=damage:9", keeps=keeps)

    def test_an_op_that_is_kept_anyway_may_be_named(self) -> None:
        assert built(self.REPORTS, "d=damage:9", keeps=("head=bf16",))


class TestReportsThatDoNotBelongTogether:
    ONE = report("w8a8", [("a", "a", 1.0), ("b", "b", 2.0)])
    SCORES: ClassVar = [("a", "a", 1.0), ("b", "b", 2.0)]

    @pytest.mark.parametrize(
        ("other", "what"),
        [
            (report("w8a8", SCORES), "two reports are of format w8a8"),
            (report("fp8", SCORES, lens="native:mse_v2"), r"other lenses \(native:kl and native"),
            (report("fp8", SCORES, base="fallback"), r"other bases \(isolate and fallback\)"),
            (report("fp8", SCORES[:1]), r"other candidates \(only one has b\)"),
            (report("fp8", [("a", "x", 1.0), ("b", "x", 1.0)]), "another group or shape of"),
            (report("fp8", SCORES, shapes={"a": (64, 64)}), "another group or shape of a"),
            (
                report(
                    "fp8",
                    SCORES,
                    provenance=PROVENANCE.model_copy(
                        update={
                            "model": IDENTITY.model_copy(update={"weights_fingerprint": "other"})
                        }
                    ),
                ),
                "other weights",
            ),
            (
                report(
                    "fp8",
                    SCORES,
                    provenance=PROVENANCE.model_copy(
                        update={"data": (SAMPLES.model_copy(update={"sha256": "other"}),)}
                    ),
                ),
                r"other samples \(their hashes differ\)",
            ),
        ],
    )
    def test_they_are_refused(self, other: SensitivityReport, what: str) -> None:
        with pytest.raises(UserError, match=what):
            built([self.ONE, other], "d=damage:1")

    def test_scores_over_fewer_of_the_samples_are_refused(self) -> None:
        fewer = report("fp8", self.SCORES)
        ops = tuple(op.model_copy(update={"n": 3}) for op in fewer.ops)
        with pytest.raises(UserError, match=r"other counts of samples for b \(4 and 3\)"):
            built([self.ONE, fewer.model_copy(update={"ops": ops})], "d=damage:1")

    def test_reports_that_name_no_samples_are_refused(self) -> None:
        bare = PROVENANCE.model_copy(update={"data": ()})
        both = [report(fmt, self.SCORES, provenance=bare) for fmt in ("w8a8", "fp8")]
        with pytest.raises(UserError, match="no record of the samples"):
            built(both, "d=damage:1")
        assert built(both[:1], "d=damage:1")

    @pytest.mark.parametrize("budgets", [(), ("d=damage:1",)])
    def test_what_is_only_an_order_can_be_cut_and_no_more(self, budgets: tuple[str, ...]) -> None:
        one, two = (report(fmt, self.SCORES, lens="heuristic:size") for fmt in ("w8a8", "fp8"))
        assert built([one], cuts={"half": 0.5})
        reports = [one] if budgets else [one, two]
        with pytest.raises(UserError, match=r"heuristic:size are an order and no damage"):
            built(reports, *budgets, cuts={"half": 0.5})

    def test_scores_from_files_of_unknown_samples_do_not_compare(self) -> None:
        both = [report(fmt, self.SCORES, lens="import:x") for fmt in ("w8a8", "fp8")]
        with pytest.raises(UserError, match="no record of the samples"):
            built(both, "d=damage:1")
        assert built(both[:1], "d=damage:1")

    def test_a_cut_and_a_budget_of_one_name_are_refused(self) -> None:
        with pytest.raises(UserError, match="a cut and a budget are both called 'x'"):
            built([self.ONE], "x=damage:1", cuts={"x": 0.5})


class TestTies:
    def test_groups_that_cannot_be_told_from_the_other_side_of_a_cut(self) -> None:
        scores = [(f"op{i}", f"g{i}", s) for i, s in enumerate([0.0, 1.0, 1.1, 1.2, 9.0])]
        firm = only(built([report("w8a8", scores, stderr=0.01)], cuts={"c": 0.4})).ties
        loose = only(built([report("w8a8", scores, stderr=0.1)], cuts={"c": 0.4})).ties
        assert firm is not None
        assert loose is not None
        assert (firm.groups, firm.judged) == (0, 5)
        # 1.0 against 1.1 on the other side; 1.1 and 1.2 against 1.0: within 2 * 0.14.
        assert (loose.groups, loose.judged) == (3, 5)

    def test_nothing_is_said_without_errors_or_without_a_line(self) -> None:
        scores = [("a", "a", 1.0), ("b", "b", 2.0)]
        assert only(built([report("w8a8", scores)], cuts={"c": 0.5})).ties is None
        assert only(built([report("w8a8", scores, stderr=1.0)], cuts={"c": 1.0})).ties is None

    def test_groups_tied_at_the_price_of_a_budget(self) -> None:
        scores = [(f"op{i}", f"g{i}", s) for i, s in enumerate([0.1, 1.0, 1.05, 9.0])]
        half = WHOLE - 2 * (op_bytes(report("w8a8", scores).ops[0], None, "bfloat16")
                            - op_bytes(report("w8a8", scores).ops[0], PRESETS["w8a8"], "bfloat16"))  # fmt: skip
        ties = only(built([report("w8a8", scores, stderr=0.05)], f"b=bytes:{half}")).ties
        assert ties is not None
        assert (ties.groups, ties.judged) == (2, 4)


def test_static_ranges_that_differ_are_kept_a_format() -> None:
    scores = [("a", "a", 1.0)]
    same = built(
        [report("w8a8-static", scores), report("w8a8-static-affine", scores)], "d=damage:9"
    )
    assert same.input_ranges == {"a": (-1.0, 2.0)}
    assert same.format_ranges == {}
    other = report("w8a8-static-percentile", scores)
    other = other.model_copy(
        update={"ops": (other.ops[0].model_copy(update={"input_range": (-0.5, 0.5)}),)}
    )
    differ = built([report("w8a8-static", scores), other, report("w8a8", scores)], "d=damage:9")
    assert differ.input_ranges == {}
    assert differ.input_range("a", "w8a8-static") == (-1.0, 2.0)
    assert differ.input_range("a", "w8a8-static-percentile") == (-0.5, 0.5)
    assert differ.input_range("a", "w8a8") is None
