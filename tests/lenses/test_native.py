from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import models_tiny
from quantspectrum.artifacts import OpScore, SensitivityReport, read_artifact, write_artifact
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.lenses.native import score_ops
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.sensitivity.metric import mean_and_stderr
from quantspectrum.simulation import OpPlan
from scans import (
    BASES,
    MIXED,
    TEXT,
    UNSEEN,
    Base,
    by_whole_passes,
    logits_with,
    nothing,
    plans_of,
    request_of,
    score,
)

LANGUAGE = "model.language_model.layers"
IMAGES = [models_tiny.image_batch()]


def numbers(report: SensitivityReport) -> dict[str, tuple[float, float | None, dict[str, float]]]:
    return {op.name: (op.score, op.stderr, op.raw) for op in report.ops}


def brute_force(
    loaded: Loaded, fmt: str, base: Base, selection: list[Batch], calibration: list[Batch]
) -> dict[str, tuple[float, float | None]]:
    """Score and standard error of every op from explicit float64 logits of whole passes."""
    plans = plans_of(loaded, preset(fmt), calibration)

    def errors(active: set[str]) -> list[float]:
        found: list[float] = []
        for batch in selection:
            mask = batch.inputs["attention_mask"][..., None]
            reference = logits_with(loaded, plans, set(), batch) * mask
            difference = logits_with(loaded, plans, active, batch) * mask - reference
            ratio = difference.square().sum((1, 2)) / reference.square().sum((1, 2))
            found += ratio.tolist()
        return found

    if base == "isolate":
        return {op: mean_and_stderr(errors({op})) for op in plans}
    everything = errors(set(plans))
    return {
        op: mean_and_stderr(
            [total - rest for total, rest in zip(everything, errors({*plans} - {op}), strict=True)]
        )
        for op in plans
    }


def assert_close(
    report: SensitivityReport, expected: dict[str, tuple[float, float | None]]
) -> None:
    assert {op.name for op in report.ops} == expected.keys()
    # Of a difference of two sums, the last digits are those of the sums.
    digits = 1e-5 * max(abs(score) for score, _ in expected.values())
    for op in report.ops:
        score, stderr = expected[op.name]
        assert op.score == pytest.approx(score, rel=1e-4, abs=digits), op.name
        assert op.stderr == pytest.approx(stderr, rel=1e-4, abs=digits), op.name


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_scores_equal_whole_forward_passes(llama: nn.Module, fmt: str, base: Base) -> None:
    report = score(llama, fmt, base)
    assert_close(report, brute_force(models_tiny.loaded(llama), fmt, base, TEXT, UNSEEN))
    # Of replays and whole passes through the same arithmetic not even the last digit differs.
    assert numbers(report) == numbers(score(by_whole_passes(llama), fmt, base))
    assert report.engine is not None
    assert report.engine.replay


@pytest.mark.parametrize("base", BASES)
def test_scores_of_images_equal_whole_forward_passes(vl: nn.Module, base: Base) -> None:
    fmt = "w8a8-static-affine"
    report = score(vl, fmt, base, selection=MIXED, calibration=IMAGES)
    assert_close(report, brute_force(models_tiny.loaded(vl), fmt, base, MIXED, IMAGES))
    whole = score(by_whole_passes(vl), fmt, base, selection=MIXED, calibration=IMAGES)
    assert numbers(report) == numbers(whole)


def test_a_report_says_what_was_done(llama: nn.Module, tmp_path: Path) -> None:
    report = score(llama, "w8a8-static", "fallback")
    assert (report.lens, report.base, report.format) == (
        "native:mse_v2",
        "fallback",
        preset("w8a8-static"),
    )
    assert report.complete
    assert report.stopped_by is None
    assert report.estimator is None
    assert report.rescored is None
    assert (report.coverage.found, report.coverage.scored) == (15, 14)
    assert report.coverage.estimated == 0
    assert [note.name for note in report.coverage.kept] == ["lm_head"]
    assert report.coverage.skipped == ()
    assert report.provenance.seed == 7
    assert report.provenance.data == models_tiny.identities(*TEXT)
    assert report.provenance.model == models_tiny.loaded(llama).identity
    assert {op.n for op in report.ops} == {5}
    assert {op.kind for op in report.ops} == {"measured"}
    assert all(op.stderr is not None and op.stderr >= 0 for op in report.ops)
    write_artifact(tmp_path / "report.json", report)
    assert read_artifact(tmp_path / "report.json", SensitivityReport) == report


def test_a_report_says_how_it_was_measured(llama: nn.Module) -> None:
    note = score(llama, slots=8).engine
    assert note is not None
    assert (note.replay, note.whole_because, note.head_read) == (True, None, True)
    assert (note.slots, note.batches, note.batch_size) == (8, 2, 3)
    assert note.captured_bytes["host"] > 0
    assert note.captured_bytes["disk"] == 0
    assert set(note.seconds) == {"calibration", "passes", "scan"}
    whole = score(by_whole_passes(llama), slots=8).engine
    assert whole is not None
    assert (whole.replay, whole.whole_because) == (False, "the model's structure is not known")


def test_ranks_follow_the_scores(llama: nn.Module) -> None:
    ops = score(llama).ops
    assert [op.rank for op in ops] == list(range(1, 15))
    assert [op.score for op in ops] == sorted((op.score for op in ops), reverse=True)


def test_only_static_formats_carry_ranges(llama: nn.Module) -> None:
    names = [op.name for op in list_ops(llama, models_tiny.loaded(llama).layout).candidates]
    ranges = observe_ranges(llama, names, UNSEEN, torch.device("cpu"))
    assert {op.name: op.input_range for op in score(llama, "w8a8-static").ops} == ranges
    assert {op.input_range for op in score(llama, "w8a8").ops} == {None}


def outlier_input(model: nn.Module, block: str) -> None:
    """Let one channel between up and down be 1,000 times what it was; the model's function stays."""
    up, down = (model.get_submodule(f"{block}.mlp.{name}_proj") for name in ("up", "down"))
    with torch.no_grad():
        up.get_parameter("weight")[5] *= 1000
        if up.bias is not None:
            up.get_parameter("bias")[5] *= 1000
        down.get_parameter("weight")[:, 5] /= 1000


def outlier_weight(model: nn.Module, block: str) -> None:
    """Let one column of o_proj be 1,000 times what it was; v_proj makes up for it."""
    value, output = (model.get_submodule(f"{block}.self_attn.{name}_proj") for name in ("v", "o"))
    with torch.no_grad():
        value.get_parameter("weight")[3] /= 1000
        if value.bias is not None:
            value.get_parameter("bias")[3] /= 1000
        # Two query heads of 16 share the first key-value head.
        output.get_parameter("weight")[:, [3, 19]] *= 1000


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
@pytest.mark.parametrize(
    ("plant", "op"), [(outlier_input, "mlp.down_proj"), (outlier_weight, "self_attn.o_proj")]
)
@pytest.mark.parametrize("block", ["model.layers.0", "model.layers.1"])
def test_a_planted_outlier_ranks_first(
    block: str, plant: Callable[[nn.Module, str], None], op: str, fmt: str, base: Base
) -> None:
    model = models_tiny.causal_lm("qwen2")
    before = models_tiny.logits(model, TEXT[0])
    plant(model, block)
    after = models_tiny.logits(model, TEXT[0])
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4)
    report = score(model, fmt, base)
    assert report.ops[0].name == f"{block}.{op}"
    assert report.ops[0].score > 3 * report.ops[1].score


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("block", ["model.visual.blocks.0", f"{LANGUAGE}.1"])
def test_a_planted_outlier_ranks_first_in_either_component(
    vl: nn.Module, block: str, base: Base
) -> None:
    outlier_input(vl, block)
    report = score(vl, "w8a8-static", base, selection=IMAGES, calibration=IMAGES)
    assert report.ops[0].name == f"{block}.mlp.down_proj"


@pytest.mark.parametrize("base", BASES)
def test_the_order_of_ops_changes_nothing(llama: nn.Module, base: Base) -> None:
    loaded = models_tiny.loaded(llama)
    table = list_ops(llama, loaded.layout)
    turned = OpTable(
        candidates=tuple(reversed(table.candidates)), kept=table.kept, skipped=table.skipped
    )
    assert score(llama, base=base, table=turned).ops == score(llama, base=base, table=table).ops


@pytest.mark.parametrize("base", BASES)
def test_the_same_scan_twice_gives_the_same_scores(llama: nn.Module, base: Base) -> None:
    assert score(llama, base=base).ops == score(llama, base=base).ops


def test_a_sample_counts_the_same_in_any_batch(llama: nn.Module) -> None:
    """Padding and company change nothing but the last digits of the sums."""
    batch = models_tiny.text_batch((7, 12))
    rows = [
        Batch(
            inputs={key: value[row : row + 1, :length] for key, value in batch.inputs.items()},
            target=batch.target[row : row + 1, :length],
            sample_ids=batch.sample_ids[row : row + 1],
            kinds=("text",),
        )
        for row, length in enumerate((7, 12))
    ]
    together = {op.name: op for op in score(llama, selection=[batch]).ops}
    for op in score(llama, selection=rows).ops:
        # A tie between two codes may fall either way when a product differs in its last digit.
        assert op.score == pytest.approx(together[op.name].score, rel=0.1)
        assert op.n == together[op.name].n == 2


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static"])
def test_the_model_is_left_as_it_was(vl: nn.Module, fmt: str, base: Base) -> None:
    weights, before = models_tiny.weights(vl), models_tiny.logits(vl, MIXED[1])
    score(vl, fmt, base, selection=MIXED, calibration=MIXED)
    assert models_tiny.forwards(vl) == {}
    assert models_tiny.hooks(vl) == 0
    assert torch.equal(models_tiny.logits(vl, MIXED[1]), before)
    for name, parameter in vl.named_parameters():
        assert parameter.data_ptr() == weights[name][0]
        assert torch.equal(parameter, weights[name][1])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static"])
def test_nan_weights_are_the_users_to_mend(llama: nn.Module, fmt: str, base: Base) -> None:
    with torch.no_grad():
        llama.get_parameter("model.layers.0.mlp.up_proj.weight")[1, 1] = float("nan")
    with pytest.raises(UserError, match=r"not finite.*check the checkpoint"):
        score(llama, fmt, base)
    assert models_tiny.forwards(llama) == {}
    assert models_tiny.hooks(llama) == 0


def test_no_candidate_is_the_users_to_mend(llama: nn.Module) -> None:
    table = list_ops(llama, models_tiny.loaded(llama).layout, exclude=["*"])
    with pytest.raises(UserError, match="no op is left to score"):
        score(llama, table=table)


def test_a_checkpoint_that_is_quantized_already_is_refused(
    llama: nn.Module, tmp_path: Path
) -> None:
    loaded = models_tiny.loaded(llama)
    write(loaded, {"model.layers.0.mlp.up_proj": OpPlan(format=preset("w8a8"))}, tmp_path)
    variant = load_model(ModelSpec(model=str(tmp_path), device="cpu"))

    def scan() -> None:
        table = list_ops(variant.model, variant.layout)
        score_ops(variant, table, request_of("w8a8"), step=nothing)

    with pytest.raises(UserError, match="quantized"):
        scan()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("fmt", "reason"),
    [
        ("w8a8", "the selection data never reaches it"),
        ("w8a8-static", "the calibration data never reaches it"),
    ],
)
def test_vision_ops_without_pictures_are_skipped_with_a_reason(
    vl: nn.Module, fmt: str, reason: str, base: Base
) -> None:
    text = [models_tiny.text_batch(vision=True)]
    report = score(vl, fmt, base, selection=text, calibration=text)
    assert not report.complete
    assert report.stopped_by is None
    assert {op.component for op in report.ops} == {"language"}
    skipped = report.coverage.skipped
    assert len(skipped) == 2 * 5 + 2
    assert all(".visual." in note.name and note.reason == reason for note in skipped)
    assert [note.component for note in skipped] == ["vision"] * 10 + ["merger"] * 2
    assert [note.block for note in skipped] == [0] * 5 + [1] * 5 + [None] * 2
    found = report.coverage
    assert found.found == found.scored + len(found.kept) + len(found.skipped)


@pytest.mark.parametrize("base", BASES)
def test_samples_of_both_kinds_count_for_every_op(vl: nn.Module, base: Base) -> None:
    report = score(vl, base=base, selection=MIXED)
    assert report.complete
    assert {op.n for op in report.ops} == {4}
    assert {op.component for op in report.ops} == {"vision", "merger", "language"}


def test_scores_are_finite_and_of_sensible_size(llama: nn.Module) -> None:
    ops: tuple[OpScore, ...] = score(llama).ops
    assert all(math.isfinite(op.score) and 0 < op.score < 0.1 for op in ops)
