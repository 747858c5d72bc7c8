"""Scores of an op's weight and of its activations apart, the second ranking, and ties."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.artifacts import Op, OpScore, SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.sensitivity.metric import Summary
from quantspectrum.sensitivity.ranking import rank
from quantspectrum.sensitivity.rescore import most_sensitive, rescored
from quantspectrum.simulation import OpPlan, Part, Simulation
from quantspectrum.statistics import spearman
from scans import (
    BASES,
    TEXT,
    UNSEEN,
    Base,
    logits_with,
    plans_of,
    request_of,
    score,
    score_all,
    scores,
    stop_at,
)

RESCORED: dict[str, Any] = {"base": "fallback", "rescore": 2}

PARTS: tuple[Part, ...] = ("weight", "activation")


def part_score(op: OpScore, part: Part) -> float:
    found = op.weight_score if part == "weight" else op.activation_score
    assert found is not None
    return found


def with_parts(loaded: Loaded, plans: dict[str, OpPlan], parts: Mapping[str, Part]) -> list[Tensor]:
    """Float64 logits of every batch with these parts quantized."""
    found = []
    for batch in TEXT:
        with Simulation(loaded.model, plans) as simulation:
            simulation.activate((), parts)
            found.append(models_tiny.logits(loaded.model, batch).double())
    return found


def errors(references: list[Tensor], perturbed: list[Tensor]) -> list[float]:
    """Relative squared error of every sample."""
    found: list[float] = []
    for batch, reference, other in zip(TEXT, references, perturbed, strict=True):
        mask = batch.inputs["attention_mask"][..., None]
        ratio = ((other - reference) * mask).square().sum((1, 2))
        found += (ratio / (reference * mask).square().sum((1, 2))).tolist()
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static"])
def test_parts_equal_whole_forward_passes(llama: nn.Module, fmt: str, base: Base) -> None:
    loaded = models_tiny.loaded(llama)
    plans = plans_of(loaded, preset(fmt), UNSEEN)
    references = with_parts(loaded, plans, {})
    all_both: dict[str, Part] = dict.fromkeys(plans, "both")
    everything = mean(errors(references, with_parts(loaded, plans, all_both)))
    report = score(llama, fmt, base, attribute=True)
    assert {op.name for op in report.ops} == set(plans)
    for op in report.ops:
        for part, other in (PARTS, PARTS[::-1]):
            if base == "isolate":
                parts: dict[str, Part] = {op.name: part}
            else:
                parts = all_both | {op.name: other}
            found = mean(errors(references, with_parts(loaded, plans, parts)))
            expected = found if base == "isolate" else everything - found
            digits = 1e-6 * everything
            assert part_score(op, part) == pytest.approx(expected, rel=1e-3, abs=digits), op.name


@pytest.mark.parametrize("base", BASES)
def test_where_only_weights_are_quantized_their_score_is_all_of_it(
    llama: nn.Module, base: Base
) -> None:
    report = score(llama, "w8a16", base, attribute=True)
    for op in report.ops:
        assert op.weight_score == op.score
        assert op.activation_score == 0.0


def test_parts_do_not_change_the_score_itself(llama: nn.Module) -> None:
    assert scores(score(llama, attribute=True)) == scores(score(llama))
    for op in score(llama).ops:
        assert op.weight_score is None
        assert op.activation_score is None


def test_small_parts_add_up_about_to_the_whole(llama: nn.Module) -> None:
    """Rounding of weights and of activations is independent, so that squares of both add up."""
    batches = [models_tiny.text_batch((40,) * 8, seed=5, name="many")]
    report = score(llama, selection=batches, attribute=True)
    for op in report.ops:
        both = part_score(op, "weight") + part_score(op, "activation")
        assert op.score == pytest.approx(both, rel=0.15), op.name
    whole = sum(scores(report).values())
    parts = sum(part_score(op, part) for op in report.ops for part in PARTS)
    assert whole == pytest.approx(parts, rel=0.03)


@pytest.mark.parametrize("slots", [1, 8])
def test_every_metric_and_format_has_parts(llama: nn.Module, slots: int) -> None:
    formats, metrics = ("w8a8", "fp8"), ("mse_v2", "kl")
    reports = score_all(llama, formats, metrics=metrics, attribute=True, slots=slots)
    assert len(reports) == 4
    for report in reports:
        alone = score(
            llama,
            report.format.name,
            metrics=(report.lens.partition(":")[2],),
            attribute=True,
            slots=1,
        )
        expected = {op.name: op for op in alone.ops}
        for op in report.ops:
            for part in PARTS:
                found = part_score(expected[op.name], part)
                assert part_score(op, part) == pytest.approx(found, rel=1e-3), op.name


def test_steps_count_the_parts(llama: nn.Module) -> None:
    steps: list[int] = []
    score_all(llama, ("w8a8", "fp8"), attribute=True, step=lambda: steps.append(1))
    assert len(steps) == 2 * 14 * 2 * 3


def op(name: str, group: str | None = None) -> Op:
    return Op(
        name=name, type="Linear", component="language", block=0, group=group or name,
        shape=(2, 2), params=4,
    )  # fmt: skip


def made(*values: float) -> Summary:
    return Summary(score=sum(values) / len(values), stderr=0.1, values=values)


def test_the_most_sensitive_groups_are_those_with_the_largest_sums() -> None:
    ops = [op("a", "g"), op("b"), op("c", "g"), op("d"), op("e", "h"), op("f", "h")]
    values = {"a": 2.0, "b": 3.5, "c": 2.0, "d": 1.0, "e": 5.0, "f": -4.0}
    ranked = rank(ops, {name: made(value) for name, value in values.items()})
    assert set(most_sensitive(ranked, 1)) == {"a", "c"}
    assert set(most_sensitive(ranked, 2)) == {"a", "c", "b"}
    assert set(most_sensitive(ranked, 9)) == set(values)
    assert most_sensitive(ranked, 0) == ()


def test_orders_before_and_after_are_compared_among_what_is_left() -> None:
    before = rank([op(n) for n in "abcde"], {n: made(v) for n, v in zip("abcde", [9, 8, 7, 6, 5], strict=True)})  # fmt: skip
    found = rescored(before, ["a"], {"b": made(1), "c": made(4), "d": made(3), "e": made(2)})
    assert found.restored == ("a",)
    assert [(o.name, o.rank, o.rank_before) for o in found.ops] == [
        ("c", 1, 2),
        ("d", 2, 3),
        ("e", 3, 4),
        ("b", 4, 1),
    ]
    assert found.spearman == spearman([2, 3, 4, 1], [1, 2, 3, 4])
    assert found.ops[0].score == 4


def second(report: SensitivityReport) -> dict[str, float]:
    assert report.rescored is not None
    return {op.name: op.score for op in report.rescored.ops}


@pytest.mark.parametrize(("groups", "most"), [(1, None), (3, None), (1, 5)])
def test_the_second_ranking_has_the_first_groups_restored(
    llama: nn.Module, groups: int, most: int | None
) -> None:
    """By whole passes: what is restored is in high precision, in the reference of all too.

    Under a limit, ops that are not measured stay quantized and out of it.
    """
    loaded = models_tiny.loaded(llama)
    plans = plans_of(loaded, preset("w8a8"), UNSEEN)
    report = score(llama, base="fallback", rescore=groups, max_ops=most)
    assert report.rescored is not None
    measured = [op for op in report.ops if op.kind == "measured"]
    restored = set(report.rescored.restored)
    assert restored == set(most_sensitive(measured, groups))
    assert len({op.group for op in report.ops if op.name in restored}) == groups
    rest = set(plans) - restored
    references = [logits_with(loaded, plans, set(), batch) for batch in TEXT]

    def damage(active: set[str]) -> float:
        return mean(errors(references, [logits_with(loaded, plans, active, b) for b in TEXT]))

    everything = damage(rest)
    found = second(report)
    assert set(found) == {op.name for op in measured} - restored
    for name in found:
        expected = everything - damage(rest - {name})
        assert found[name] == pytest.approx(expected, rel=1e-3, abs=1e-5 * everything), name
    assert damage(set(plans)) > everything


def test_the_second_ranking_says_how_the_order_changed(llama: nn.Module) -> None:
    report = score(llama, base="fallback", rescore=2)
    assert report.rescored is not None
    ops = report.rescored.ops
    assert [op.rank for op in ops] == list(range(1, len(ops) + 1))
    assert [op.score for op in ops] == sorted((op.score for op in ops), reverse=True)
    left = [op.name for op in report.ops if op.name not in report.rescored.restored]
    assert {op.name: op.rank_before for op in ops} == {n: i for i, n in enumerate(left, start=1)}
    found = report.rescored.spearman
    assert found is not None
    assert -1 <= found <= 1
    assert found == spearman([op.rank_before for op in ops], [op.rank for op in ops])


def test_it_is_of_the_first_metric_and_format(llama: nn.Module) -> None:
    more: dict[str, Any] = {"base": "fallback", "rescore": 1}
    reports = score_all(llama, ("w8a8", "w4a16"), metrics=("kl", "mse_v2"), **more)
    assert [report.rescored is not None for report in reports] == [True, False, False, False]
    assert second(reports[0]) == second(score(llama, metrics=("kl",), **more))
    alone = score(llama, base="fallback", metrics=("kl",))
    assert reports[0].ops == alone.ops


def test_it_does_not_change_the_first_ranking(llama: nn.Module) -> None:
    assert score(llama, base="fallback", rescore=1).ops == score(llama, base="fallback").ops


def test_with_everything_restored_there_is_nothing_to_rank(llama: nn.Module) -> None:
    report = score(llama, base="fallback", rescore=100)
    assert report.complete
    assert report.rescored is not None
    assert report.rescored.ops == ()
    assert report.rescored.spearman is None
    assert len(report.rescored.restored) == 14


@pytest.mark.parametrize("step", [29, 41, 53])
def test_a_part_of_it_is_not_passed_off_as_it(llama: nn.Module, step: int) -> None:
    report = score(llama, base="fallback", rescore=1, step=stop_at(step))
    assert report.stopped_by == "interrupted"
    assert report.rescored is None
    assert report.ops == score(llama, base="fallback").ops


def test_it_begins_from_the_base_fallback(llama: nn.Module) -> None:
    with pytest.raises(UserError, match="give --base fallback"):
        score(llama, rescore=1)


def test_ops_that_cannot_be_told_apart_are_tied() -> None:
    values = {
        "one": made(1.0, 2.0, 3.0),
        "other": made(1.0, 2.0, 3.0),
        # Of the mean the next one is below it; of the samples one is above.
        "near": made(2.0, 1.0, 2.0),
        "far": made(-4.0, -5.1, -4.0),
    }
    ranked = rank([op(name) for name in values], values)
    assert [(o.name, o.tied_with_next) for o in ranked] == [
        ("one", True),
        ("other", True),
        ("near", False),
        ("far", None),
    ]


def test_a_difference_in_every_sample_counts_however_they_vary() -> None:
    """Samples are paired: their own spread, far larger than the difference, goes."""
    values = {"a": made(100.0, 1.0, 50.0, 7.0), "b": made(99.0, 0.1, 49.1, 6.0)}
    assert [o.tied_with_next for o in rank([op("a"), op("b")], values)] == [False, None]


def test_without_two_samples_or_a_measured_neighbour_nothing_is_said() -> None:
    one = {"a": made(2.0), "b": made(1.0)}
    assert [o.tied_with_next for o in rank([op("a"), op("b")], one)] == [None, None]
    several = {"a": made(5.0, 6.0), "c": made(1.0, 1.5)}
    ranked = rank([op(n) for n in "abc"], several, estimated={"b": 3.0})
    assert [(o.name, o.tied_with_next) for o in ranked] == [("a", None), ("b", None), ("c", None)]
    uneven = {"a": made(5.0, 6.0), "b": made(1.0, 1.5, 2.0)}
    assert rank([op("a"), op("b")], uneven)[0].tied_with_next is None


@pytest.mark.parametrize("base", BASES)
def test_ops_without_an_effect_tie_and_a_planted_one_does_not(llama: nn.Module, base: Base) -> None:
    with torch.no_grad():
        llama.get_parameter("model.layers.0.mlp.down_proj.weight").zero_()
        llama.get_parameter("model.layers.1.mlp.up_proj.weight")[5] *= 1000
        llama.get_parameter("model.layers.1.mlp.down_proj.weight")[:, 5] /= 1000
    selection = [models_tiny.text_batch((12,) * 8)]
    report = score(llama, base=base, selection=selection)
    by_name = {op.name: op for op in report.ops}
    first = report.ops[0]
    assert first.name == "model.layers.1.mlp.down_proj"
    assert first.tied_with_next is False
    idle = [by_name[f"model.layers.0.mlp.{name}_proj"] for name in ("down", "gate", "up")]
    assert {op.score for op in idle} == {0.0}
    assert [op.rank for op in idle] == list(range(idle[0].rank, idle[0].rank + 3))
    assert [op.tied_with_next for op in idle[:2]] == [True, True]
    assert report.ops[-1].tied_with_next is None


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"attribute": True},
        {"metrics": ("sqnr",)},
        RESCORED,
        RESCORED | {"max_ops": 5},
        RESCORED | {"attribute": True, "formats": ("w8a8", "fp8")},
    ],
    ids=["plain", "parts", "all at once", "second ranking", "of a few", "of several"],
)
def test_as_many_steps_are_made_as_were_told(llama: nn.Module, asked: dict[str, Any]) -> None:
    made: list[None] = []
    reports = score_all(llama, **asked, step=lambda: made.append(None))
    assert len(made) == request_of(**asked).steps(len(reports[0].ops))


def test_a_scan_that_goes_on_makes_as_many_steps(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    total = request_of(**RESCORED).steps(14)
    score(llama, **RESCORED, journal=journal, step=stop_at(total - 3))
    made: list[None] = []
    score(llama, **RESCORED, journal=journal, step=lambda: made.append(None))
    assert len(made) == total
