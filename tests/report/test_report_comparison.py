"""Variants against the baseline: numbers, missing parts, refused comparisons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import report_runs as runs

from quantspectrum.artifacts import (
    Accuracy,
    Evaluation,
    PromptResult,
    SampleLoss,
    read_artifact,
    write_artifact,
)
from quantspectrum.errors import UserError
from quantspectrum.report import Comparison, compare_run, recommend, variants_text
from quantspectrum.report.comparison import ComparisonRow
from quantspectrum.report.recommendation import grounds


def losses(*nlls: float, tokens: int = 10) -> list[SampleLoss]:
    return [
        SampleLoss(id=f"s{i}", kind="text", nll=nll, tokens=tokens) for i, nll in enumerate(nlls)
    ]


def small(run: Path, before: Evaluation, after: Evaluation) -> ComparisonRow:
    """Compare one pair of evaluations in a run that holds nothing else."""
    write_artifact(run / "run.json", runs.run_record())
    write_artifact(run / "baseline" / "evaluation.json", before)
    write_artifact(run / "evaluations" / "mild.json", after)
    return compare_run(run).rows[0]


def evaluation(*nlls: float, **more: Any) -> Evaluation:
    return runs.evaluation("x", loss=runs.loss(losses(*nlls)), **({"accuracy": None} | more))


def test_rows_follow_the_spectrum_and_others_come_last(run: Path) -> None:
    shutil.copytree(run / "variants" / "mild", run / "variants" / "own")
    shutil.copy(run / "evaluations" / "mild.json", run / "evaluations" / "zero.json")
    found = compare_run(run)
    names = [row.profile for row in found.rows]
    assert names == ["mild", "medium", "aggressive", "max", "own", "zero"]
    assert found.baseline is not None
    assert found.baseline.ratio == 1.0


def test_the_paired_loss_by_hand(tmp_path: Path) -> None:
    # Differences per token 0.1, 0.1, 0.4 of equal sizes: mean 0.2, se = sqrt(0.03 / 3) = 0.1.
    row = small(tmp_path, evaluation(20.0, 30.0, 40.0), evaluation(21.0, 31.0, 44.0))
    assert row.paired is not None
    assert row.paired.baseline == pytest.approx(3.0)
    assert row.paired.value == pytest.approx(0.2)
    assert row.paired.stderr == pytest.approx(0.1)
    assert row.paired.low == pytest.approx(0.2 - 0.4302653)
    assert (row.paired.n, row.paired.tokens, row.paired.differs) == (3, 30, False)


def test_samples_are_matched_by_id_not_by_place(tmp_path: Path) -> None:
    after = evaluation(21.0, 31.0, 44.0)
    turned = runs.loss(list(after.loss.samples)[::-1])
    row = small(tmp_path, evaluation(20.0, 30.0, 40.0), after.model_copy(update={"loss": turned}))
    assert row.paired is not None
    assert row.paired.stderr == pytest.approx(0.1)


def test_kinds_are_compared_apart(run: Path) -> None:
    row = compare_run(run).rows[2]
    assert row.paired is not None
    assert sorted(row.by_kind) == ["image+text", "text"]
    total = sum(part.value * part.tokens for part in row.by_kind.values())
    assert total / row.paired.tokens == pytest.approx(row.paired.value)


def test_flips_and_accuracy_by_hand(tmp_path: Path) -> None:
    before = Accuracy(exact=0.5, stderr=0.3, correct={"a": True, "b": True, "c": False, "d": False})
    after = Accuracy(
        exact=0.25, stderr=0.3, correct={"a": False, "b": False, "c": True, "d": False}
    )
    row = small(tmp_path, evaluation(2.0, accuracy=before), evaluation(2.0, accuracy=after))
    found = row.paired_accuracy
    assert found is not None
    assert (found.lost, found.won, found.n, found.value) == (2, 1, 4, -0.25)
    # Steps -1, -1, 1, 0: variance 11/12, standard error sqrt(11/48).
    assert found.stderr == pytest.approx((11 / 48) ** 0.5)
    assert not found.differs


def test_only_prompts_that_are_the_same_count(tmp_path: Path) -> None:
    def prompts(*pairs: tuple[str, str]) -> tuple[PromptResult, ...]:
        return tuple(PromptResult(id=q, prompt=q, output=a) for q, a in pairs)

    row = small(
        tmp_path,
        evaluation(2.0, prompts=prompts(("a", "x"), ("b", "y"), ("c", "z"))),
        evaluation(2.0, prompts=prompts(("b", "y "), ("c", "z"), ("d", "w"))),
    )
    assert row.prompts is not None
    assert (row.prompts.compared, row.prompts.changed) == (2, 1)


def test_identical_losses_do_not_differ(tmp_path: Path) -> None:
    row = small(tmp_path, evaluation(2.0, 3.0), evaluation(2.0, 3.0))
    assert row.paired is not None
    assert (row.paired.value, row.paired.stderr, row.paired.differs) == (0, 0, False)


def test_one_sample_gives_no_interval_and_no_recommendation(tmp_path: Path) -> None:
    row = small(tmp_path, evaluation(2.0), evaluation(2.5))
    assert row.paired is not None
    assert row.paired.value == pytest.approx(0.05)
    assert row.paired.high is None
    assert "one sample" in recommend(compare_run(tmp_path))


def test_no_tokens_give_no_comparison(tmp_path: Path) -> None:
    empty = runs.evaluation("x", loss=runs.loss(losses(0.0, tokens=0)), accuracy=None)
    row = small(tmp_path, empty, empty)
    assert (row.paired, row.by_kind) == (None, {})
    assert "no variant has a loss to compare" in recommend(compare_run(tmp_path))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (evaluation(2.0), "made on different samples"),
        (
            runs.evaluation("x", loss=runs.loss(losses(2.0, 3.0, tokens=11)), accuracy=None),
            "has 10 tokens",
        ),
        (evaluation(2.0, 3.0, provenance=runs.provenance(runs.data(sha256="ee" * 32))), "by hash"),
        (
            evaluation(2.0, 3.0, accuracy=Accuracy(exact=1.0, stderr=None, correct={"q": True})),
            "judge the answers",
        ),
    ],
)
def test_different_samples_are_refused(tmp_path: Path, after: Evaluation, said: str) -> None:
    judged = Accuracy(exact=1.0, stderr=None, correct={"s0": True})
    with pytest.raises(UserError, match=said) as caught:
        small(tmp_path, evaluation(2.0, 3.0, accuracy=judged), after)
    assert "baseline/evaluation.json and evaluations/mild.json" in str(caught.value)


def test_a_sample_twice_is_refused(tmp_path: Path) -> None:
    twice = runs.loss([*losses(2.0), *losses(2.0)])
    with pytest.raises(UserError, match="'s0' 2 times"):
        small(tmp_path, evaluation(2.0), evaluation(2.0).model_copy(update={"loss": twice}))


def test_a_written_variant_has_its_own_ratio(run: Path) -> None:
    (run / "evaluations" / "max.json").unlink()
    path = run / "variants" / "max" / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"total_bytes": 300, "baseline_bytes": 1000}))
    row = compare_run(run).rows[-1]
    assert (row.written, row.evaluated, row.disk_bytes, row.ratio) == (True, False, 300, 0.3)


def test_a_comparison_can_be_kept(run: Path, tmp_path: Path) -> None:
    found = compare_run(run)
    write_artifact(tmp_path / "c.json", found)
    assert read_artifact(tmp_path / "c.json", Comparison) == found


def test_takes_the_most_aggressive_profile_within_tolerance(run: Path) -> None:
    said = recommend(compare_run(run))
    assert said.startswith("Take the medium profile (50 % of the groups quantized, 5.61 GB, ")
    assert "95 % interval" in said
    assert said.count(". ") == 0
    assert "samples" not in said
    why = grounds(compare_run(run))
    assert why.startswith("Why medium: it is the smallest profile whose upper 95 % bound")
    assert "within 1 % of the baseline's loss, measured on" in why


def test_the_bound_counts_not_the_estimate(tmp_path: Path) -> None:
    # Mean increase 0.5 % either way; the interval of the second reaches beyond 1 %.
    sure = [20.1, 20.1, 20.1, 20.1]
    unsure = [20.0, 20.2, 19.9, 20.2]
    before = evaluation(20.0, 20.0, 20.0, 20.0)
    small(tmp_path / "a", before, evaluation(*sure))
    assert recommend(compare_run(tmp_path / "a")).startswith("Take the mild profile")
    small(tmp_path / "b", before, evaluation(*unsure))
    said = recommend(compare_run(tmp_path / "b"))
    assert said.startswith("Keep the bfloat16 baseline: no profile")
    assert "mild" in said


def test_a_kind_beyond_tolerance_is_named(tmp_path: Path) -> None:
    def mixed(image: float) -> Evaluation:
        made = [
            SampleLoss(id=f"t{i}", kind="text", nll=1000.0 + i, tokens=500) for i in range(20)
        ] + [
            SampleLoss(id=f"i{i}", kind="image+text", nll=image + 0.001 * i, tokens=5)
            for i in range(20)
        ]
        return runs.evaluation("x", loss=runs.loss(made), accuracy=None)

    small(tmp_path, mixed(10.0), mixed(10.5))
    assert recommend(compare_run(tmp_path)).startswith("Take the mild profile")
    said = grounds(compare_run(tmp_path))
    assert "on image+text alone that bound is +5.00 %, +0.1000 nats per token" in said


@pytest.mark.parametrize(("baseline", "share"), [(0.0101, True), (0.0099, False), (0.0, False)])
def test_of_next_to_no_loss_no_share_is_given(tmp_path: Path, baseline: float, share: bool) -> None:
    """Below 0.01 nats a percentage is of next to nothing; the bound fails either way."""

    def mixed(image: float) -> Evaluation:
        made = [SampleLoss(id=f"t{i}", kind="text", nll=1000.0, tokens=500) for i in range(20)]
        made += [
            SampleLoss(id=f"i{i}", kind="image+text", nll=5 * image, tokens=5) for i in range(20)
        ]
        return runs.evaluation("x", loss=runs.loss(made), accuracy=None)

    small(tmp_path, mixed(baseline), mixed(baseline + 0.005))
    assert recommend(compare_run(tmp_path)).startswith("Take the mild profile")
    said = grounds(compare_run(tmp_path))
    alone = said.partition("on image+text alone that bound is ")[2]
    assert "+0.0050" in alone
    assert "nats per token" in alone
    assert ("%" in alone) == share
    assert ("of a baseline loss of only" in alone) == (not share)


def test_less_than_a_hundredth_of_the_least_loss_is_no_caveat(tmp_path: Path) -> None:
    """Tenfold, and still 1e-5 nats: nothing that anybody could see."""

    def mixed(image: float) -> Evaluation:
        made = [SampleLoss(id=f"t{i}", kind="text", nll=1000.0, tokens=500) for i in range(20)]
        made += [
            SampleLoss(id=f"i{i}", kind="image+text", nll=5 * image, tokens=5) for i in range(20)
        ]
        return runs.evaluation("x", loss=runs.loss(made), accuracy=None)

    small(tmp_path, mixed(1e-6), mixed(1e-5))
    assert "image+text" not in grounds(compare_run(tmp_path))


def test_what_was_not_evaluated_is_named(run: Path) -> None:
    (run / "evaluations" / "max.json").unlink()
    assert "(not evaluated: max)" in grounds(compare_run(run))


def test_without_a_baseline_nothing_is_recommended(run: Path) -> None:
    shutil.rmtree(run / "baseline")
    assert "the baseline was not evaluated" in recommend(compare_run(run))
    assert grounds(compare_run(run)) == ""


def test_the_terminal_table_is_inert_and_aligned(run: Path) -> None:
    lines = variants_text(compare_run(run)).splitlines()
    assert len(lines) == 10
    assert lines[1].startswith("baseline")
    row = ComparisonRow(profile="a\x1b[31m\nb")
    text = variants_text(Comparison(model=None, baseline=None, rows=(row,)))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4
