"""Every metric of differences against float64 logits of whole forward passes, computed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.artifacts import SensitivityReport
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.sensitivity.metric import mean_and_stderr
from scans import BASES, MIXED, TEXT, UNSEEN, Base, logits_with, plans_of, score, score_all, scores

MEASURED = ("mse_v2", "kl", "nll")
ALL = (*MEASURED, "visibility", "sqnr", "hawq_v2")
PerSample = dict[str, list[float]]


def distances(loaded: Loaded, batch: Batch, reference: Tensor, perturbed: Tensor) -> PerSample:
    """Each metric's own distance of every sample, from float64 logits."""
    mask = batch.inputs["attention_mask"].bool()
    image = batch.inputs["input_ids"] == loaded.layout.image_token_id
    log_p, log_q = (torch.log_softmax(x, -1) for x in (reference, perturbed))
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    text = mask & ~image
    loss = torch.zeros(mask.shape, dtype=torch.float64)
    ids = batch.inputs["input_ids"][:, 1:, None]
    gone = (log_p - log_q)[:, :-1].gather(-1, ids).squeeze(-1)
    loss[:, 1:] = gone
    error = (perturbed - reference).square().sum(-1)
    signal = reference.square().sum(-1)
    found = {
        "mse_v2": (error * mask).sum(1) / (signal * mask).sum(1),
        "kl": (divergence * text).sum(1) / text.sum(1),
        "nll": (loss * batch.target).sum(1) / batch.target.sum(1),
    }
    return {name: values.tolist() for name, values in found.items()}


def brute_force(
    loaded: Loaded, fmt: str, base: Base, selection: list[Batch], calibration: list[Batch]
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Score and standard error by metric and op."""
    plans = plans_of(loaded, preset(fmt), calibration)
    references = [logits_with(loaded, plans, set(), batch) for batch in selection]

    def measured(active: set[str]) -> PerSample:
        found: PerSample = {name: [] for name in MEASURED}
        for batch, reference in zip(selection, references, strict=True):
            perturbed = logits_with(loaded, plans, active, batch)
            for name, values in distances(loaded, batch, reference, perturbed).items():
                found[name] += values
        return found

    everything = measured(set(plans))
    scores: dict[str, dict[str, tuple[float, float | None]]] = {name: {} for name in MEASURED}
    for op in plans:
        values = measured({op} if base == "isolate" else {*plans} - {op})
        for name in MEASURED:
            found = values[name]
            if base == "fallback":
                found = [a - b for a, b in zip(everything[name], found, strict=True)]
            scores[name][op] = mean_and_stderr(found)
    return scores


def assert_close(
    report: SensitivityReport,
    expected: Mapping[str, tuple[float, float | None]],
    *,
    rel: float,
    share: float,
) -> None:
    """Compare, to within ``rel`` of each number or ``share`` of the largest."""
    assert {op.name for op in report.ops} == expected.keys()
    digits = share * max(abs(score) for score, _ in expected.values())
    for op in report.ops:
        score, stderr = expected[op.name]
        assert op.score == pytest.approx(score, rel=rel, abs=digits), op.name
        assert op.stderr == pytest.approx(stderr, rel=rel, abs=digits), op.name


# Probabilities are kept as float16 logarithms, exact to 0.4 %.
DIGITS = {"mse_v2": (1e-4, 1e-5), "kl": (4e-3, 1e-4), "nll": (4e-3, 2e-3)}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", ["w8a8", "w4a16"])
def test_metrics_of_one_scan_equal_whole_forward_passes(
    llama: nn.Module, fmt: str, base: Base
) -> None:
    expected = brute_force(models_tiny.loaded(llama), fmt, base, TEXT, UNSEEN)
    reports = score_all(llama, fmt, base, metrics=MEASURED)
    assert [report.lens for report in reports] == [f"native:{name}" for name in MEASURED]
    for name, report in zip(MEASURED, reports, strict=True):
        rel, share = DIGITS[name]
        assert_close(report, expected[name], rel=rel, share=share)


@pytest.mark.parametrize("base", BASES)
def test_pictures_and_texts_together_equal_whole_forward_passes(vl: nn.Module, base: Base) -> None:
    """A batch of text runs no vision op, and pictures' own positions are no part of ``kl``."""
    expected = brute_force(models_tiny.loaded(vl), "w8a8", base, MIXED, UNSEEN)
    for name, report in zip(
        MEASURED, score_all(vl, "w8a8", base, metrics=MEASURED, selection=MIXED), strict=True
    ):
        rel, share = DIGITS[name]
        assert_close(report, expected[name], rel=rel, share=share)
        assert {op.n for op in report.ops} == {4}


def test_divergence_at_pictures_is_told_apart(vl: nn.Module) -> None:
    loaded, batch = models_tiny.loaded(vl), MIXED[1]
    plans = plans_of(loaded, preset("w8a8"), UNSEEN)
    report = score(vl, metrics=("kl",), selection=[batch])
    reference = torch.log_softmax(logits_with(loaded, plans, set(), batch), -1)
    image = batch.inputs["input_ids"] == models_tiny.IMAGE
    for op in (report.ops[0], report.ops[-1]):
        perturbed = torch.log_softmax(logits_with(loaded, plans, {op.name}, batch), -1)
        divergence = (reference.exp() * (reference - perturbed)).sum(-1)
        assert op.raw["image_tokens"] == int(image.sum())
        assert op.raw["image_kl"] == pytest.approx(float(divergence[image].mean()), rel=4e-3)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("metric", MEASURED)
def test_a_metric_scores_the_same_alone_as_among_others(
    llama: nn.Module, metric: str, base: Base
) -> None:
    together = score_all(llama, "w8a8", base, metrics=MEASURED)[MEASURED.index(metric)]
    assert score(llama, "w8a8", base, metrics=(metric,)).ops == together.ops


@pytest.mark.parametrize("base", BASES)
def test_formats_of_one_call_score_as_in_calls_of_their_own(llama: nn.Module, base: Base) -> None:
    formats = ("w8a8", "fp8", "w4a16")
    metrics = MEASURED if base == "fallback" else ALL
    more = {"metrics": metrics, "probes": 2}
    reports = score_all(llama, formats, base, **more)
    keys = [(report.lens, report.format.name) for report in reports]
    assert keys == [(f"native:{name}", fmt) for name in metrics for fmt in formats]
    alone = {
        (report.lens, report.format.name): report
        for fmt in formats
        for report in score_all(llama, fmt, base, **more)
    }
    for report in reports:
        assert report.ops == alone[report.lens, report.format.name].ops
    by_format = {fmt: report.ops[0].score for fmt, report in zip(formats, reports, strict=False)}
    assert len(set(by_format.values())) == 3


def outlier_column(model: nn.Module, op: str) -> None:
    """One column of weights is 1,000 times what it was, and what goes into it a thousandth."""
    with torch.no_grad():
        model.get_parameter(f"{op.replace('o_proj', 'v_proj')}.weight")[3] /= 1000
        # Two query heads of 16 share the first key-value head.
        model.get_parameter(f"{op}.weight")[:, [3, 19]] *= 1000


def outlier_channel(model: nn.Module, op: str) -> None:
    """One input channel is 1,000 times what it was, and its weights a thousandth."""
    with torch.no_grad():
        model.get_parameter(f"{op.replace('down', 'up')}.weight")[5] *= 1000
        model.get_parameter(f"{op}.weight")[:, 5] /= 1000


@pytest.mark.parametrize(
    ("plant", "op", "blind"),
    [
        # Of the weights alone nothing is wrong where an activation is.
        (outlier_channel, "model.layers.0.mlp.down_proj", {"hawq_v2"}),
        (outlier_channel, "model.layers.1.mlp.down_proj", {"hawq_v2"}),
        (outlier_column, "model.layers.0.self_attn.o_proj", set()),
        (outlier_column, "model.layers.1.self_attn.o_proj", set()),
    ],
)
def test_every_metric_that_should_see_a_planted_op_ranks_it_first(
    llama: nn.Module, plant: Callable[[nn.Module, str], None], op: str, blind: set[str]
) -> None:
    plant(llama, op)
    for report in score_all(llama, metrics=ALL, probes=4):
        name = report.lens.partition(":")[2]
        # A change of the loss may have either sign.
        order = sorted(report.ops, key=lambda found: -abs(found.score))
        if name in blind:
            assert order[0].name != op
        else:
            assert order[0].name == op, name
            assert abs(order[0].score) > 2 * abs(order[1].score), name


def rows_of(batch: Batch) -> list[Batch]:
    return [
        Batch(
            inputs={key: value[row : row + 1] for key, value in batch.inputs.items()},
            target=batch.target[row : row + 1],
            sample_ids=batch.sample_ids[row : row + 1],
            kinds=batch.kinds[row : row + 1],
        )
        for row in range(len(batch.sample_ids))
    ]


@pytest.mark.parametrize("base", BASES)
def test_splitting_into_batches_changes_nothing(llama: nn.Module, base: Base) -> None:
    """Weights alone: no rounding of an activation can fall to the other side."""
    batch = models_tiny.text_batch((10, 10, 10, 10))
    more = {"base": base, "metrics": MEASURED, "formats": "w8a16"}
    whole = score_all(llama, selection=[batch], **more)
    split = score_all(llama, selection=rows_of(batch), **more)
    for one, other in zip(whole, split, strict=True):
        expected = {op.name: (op.score, op.stderr) for op in one.ops}
        assert_close(other, expected, rel=1e-3, share=1e-4)
        assert {op.n for op in other.ops} == {4}


@pytest.mark.parametrize("slots", [1, 4])
def test_the_order_of_ops_and_batches_changes_nothing(llama: nn.Module, slots: int) -> None:
    loaded = models_tiny.loaded(llama)
    table = list_ops(llama, loaded.layout)
    turned = OpTable(
        candidates=tuple(reversed(table.candidates)), kept=table.kept, skipped=table.skipped
    )
    for one, other in zip(
        score_all(llama, metrics=ALL[:-1], slots=slots),
        score_all(llama, metrics=ALL[:-1], slots=slots, table=turned, selection=TEXT),
        strict=True,
    ):
        if slots == 1:
            assert one.ops == other.ops
        found = {op.name: op.score for op in other.ops}
        for op in one.ops:
            assert found[op.name] == pytest.approx(op.score, rel=1e-3, abs=1e-9), op.name
    reordered = score(llama, slots=slots, selection=TEXT[::-1])
    assert scores(reordered) == pytest.approx(scores(score(llama, slots=slots)), rel=1e-12)


def test_metrics_do_not_depend_on_which_ops_are_asked_for(llama: nn.Module) -> None:
    """With all others in high precision an op's score is its own."""
    loaded = models_tiny.loaded(llama)
    whole = list_ops(llama, loaded.layout)
    few = replace(whole, candidates=whole.candidates[5:9])
    for one, other in zip(
        score_all(llama, metrics=ALL[:-1]),
        score_all(llama, metrics=ALL[:-1], table=few),
        strict=True,
    ):
        expected = {op.name: op.score for op in one.ops}
        assert {op.name: op.score for op in other.ops} == {
            op.name: expected[op.name] for op in few.candidates
        }
