from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

import models_tiny
from quantspectrum.artifacts import OpScore, SensitivityReport, read_artifact, write_artifact
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import Format, preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.simulation import OpPlan, Simulation
from quantspectrum.spectrum.build import build_spectrum

Base = Literal["isolate", "fallback"]
BASES: tuple[Base, ...] = ("isolate", "fallback")
TEXT = [models_tiny.text_batch(), models_tiny.text_batch((5, 9, 4), seed=1, name="more")]
MIXED = [models_tiny.text_batch(vision=True), models_tiny.image_batch()]
UNSEEN = [models_tiny.text_batch((8, 8), seed=2, name="unseen")]
LANGUAGE = "model.language_model.layers"


def nothing() -> None:
    pass


def request_of(
    fmt: Format,
    base: Base,
    selection: Sequence[Batch] = TEXT,
    calibration: Sequence[Batch] | None = None,
    journal: Path | None = None,
) -> NativeRequest:
    return NativeRequest(
        format=fmt,
        base=base,
        calibration=UNSEEN if calibration is None else calibration,
        selection=selection,
        data=models_tiny.identities(*selection),
        seed=7,
        journal=journal,
    )


def score(
    model: nn.Module,
    fmt: str = "w8a8",
    base: Base = "isolate",
    *,
    step: Callable[[], None] = nothing,
    table: OpTable | None = None,
    **more: Any,
) -> SensitivityReport:
    loaded = models_tiny.loaded(model)
    table = table or list_ops(loaded.model, loaded.layout)
    return score_ops(loaded, table, request_of(preset(fmt), base, **more), step=step)


def stop_at(count: int) -> Callable[[], None]:
    """A step that interrupts the scan when it is called for the ``count``-th time."""
    calls = itertools.count(1)

    def step() -> None:
        if next(calls) == count:
            raise KeyboardInterrupt

    return step


def brute_force(
    loaded: Loaded, ops: Sequence[str], request: NativeRequest
) -> dict[str, tuple[float, float | None]]:
    """Score and standard error of every op by whole forward passes, nothing replayed."""
    ranges = observe_ranges(loaded.model, ops, request.calibration, loaded.device)
    plans = {op: OpPlan(format=request.format, input_range=ranges[op]) for op in ops}

    def errors(active: set[str]) -> list[float]:
        found: list[float] = []
        for batch in request.selection:
            reference = models_tiny.logits(loaded.model, batch)
            with Simulation(loaded.model, plans) as simulation:
                simulation.activate(active)
                perturbed = models_tiny.logits(loaded.model, batch)
            mask = batch.inputs["attention_mask"].bool()
            found += mse_v2.measure(reference, perturbed, mask)["sse"]
        return found

    signals: list[float] = []
    for batch in request.selection:
        mask = batch.inputs["attention_mask"].bool()
        signals += mse_v2.signal(models_tiny.logits(loaded.model, batch), mask)
    everything = errors(set(ops)) if request.base == "fallback" else None
    active = (lambda op: {op}) if request.base == "isolate" else (lambda op: set(ops) - {op})
    return {
        op: mse_v2.summarize(request.base, errors(active(op)), everything, signals)[:2]
        for op in ops
    }


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", models_tiny.FORMATS)
def test_scores_equal_whole_forward_passes(llama: nn.Module, fmt: str, base: Base) -> None:
    loaded = models_tiny.loaded(llama)
    table = list_ops(llama, loaded.layout)
    request = request_of(preset(fmt), base)
    report = score_ops(loaded, table, request, step=nothing)
    expected = brute_force(loaded, [op.name for op in table.candidates], request)
    assert {op.name: (op.score, op.stderr) for op in report.ops} == expected


@pytest.mark.parametrize("base", BASES)
def test_scores_of_images_equal_whole_forward_passes(vl: nn.Module, base: Base) -> None:
    loaded = models_tiny.loaded(vl)
    table = list_ops(vl, loaded.layout)
    request = request_of(preset("w8a8-static-affine"), base, MIXED, [models_tiny.image_batch()])
    report = score_ops(loaded, table, request, step=nothing)
    expected = brute_force(loaded, [op.name for op in table.candidates], request)
    assert {op.name: (op.score, op.stderr) for op in report.ops} == expected


def test_a_report_says_what_was_done(llama: nn.Module, tmp_path: Path) -> None:
    report = score(llama, "w8a8-static", "fallback")
    assert (report.lens, report.base, report.format) == (
        "native:mse_v2",
        "fallback",
        preset("w8a8-static"),
    )
    assert report.complete
    assert report.stopped_by is None
    assert (report.coverage.found, report.coverage.scored) == (15, 14)
    assert [note.name for note in report.coverage.kept] == ["lm_head"]
    assert report.coverage.skipped == ()
    assert report.provenance.seed == 7
    assert report.provenance.data == models_tiny.identities(*TEXT)
    assert report.provenance.model == models_tiny.loaded(llama).identity
    assert {op.n for op in report.ops} == {5}
    assert all(op.stderr is not None and op.stderr >= 0 for op in report.ops)
    write_artifact(tmp_path / "report.json", report)
    assert read_artifact(tmp_path / "report.json", SensitivityReport) == report


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
    images = [models_tiny.image_batch()]
    report = score(vl, "w8a8-static", base, selection=images, calibration=images)
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
@pytest.mark.parametrize("stop", [1, 2, 5, 14, 15, 20, 28])
def test_an_interrupted_scan_reports_what_it_has(llama: nn.Module, stop: int, base: Base) -> None:
    report = score(llama, base=base, step=stop_at(stop))
    assert not report.complete
    assert report.stopped_by == "interrupted"
    candidates = list_ops(llama, models_tiny.loaded(llama).layout).candidates
    missing = {op.group for op in candidates[stop:]}
    scored = {op.name for op in report.ops}
    # Every whole group has its scores; half a group may have or not.
    assert scored >= {op.name for op in candidates if op.group not in missing}
    assert scored <= {op.name for op in candidates[:stop]}
    assert len(scored) == report.coverage.scored
    assert {op.n for op in report.ops} <= {2 if stop < 28 else 5}
    noted = [*report.coverage.kept, *report.coverage.skipped]
    listed = [op.name for op in report.ops] + [note.name for note in noted]
    assert len(set(listed)) == len(listed) == report.coverage.found == 15
    assert all("interrupted" in note.reason for note in report.coverage.skipped)
    assert models_tiny.forwards(llama) == {}
    assert models_tiny.hooks(llama) == 0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static"])
@pytest.mark.parametrize("stop", [1, 5, 14, 20, 28])
def test_a_resumed_scan_equals_an_uninterrupted_one(
    llama: nn.Module, tmp_path: Path, stop: int, fmt: str, base: Base
) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    expected = score(llama, fmt, base)
    assert not score(llama, fmt, base, journal=journal, step=stop_at(stop)).complete
    resumed = score(llama, fmt, base, journal=journal)
    assert resumed.complete
    assert resumed.ops == expected.ops
    assert resumed.coverage == expected.coverage


def measured(journal: Path) -> int:
    """How many ops and batches a journal holds."""
    if not journal.exists():
        return 0
    entries = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    return len({(e["batch"], e["op"]) for e in entries if not e["op"].startswith("<")})


def test_a_scan_interrupted_again_and_again_gets_there(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    expected = score(llama, base="fallback").ops
    for known in range(0, 28, 3):
        assert measured(journal) == known
        # Steps for what is there already come first, then one for each of three new ops.
        report = score(llama, base="fallback", journal=journal, step=stop_at(known + 3))
    assert report.complete
    assert report.ops == expected


def test_a_killed_scan_resumes(llama: nn.Module, tmp_path: Path) -> None:
    """The journal ends in the middle of a line, as after a power cut."""
    journal = tmp_path / "scan.journal.jsonl"
    expected = score(llama, journal=journal).ops
    raw = journal.read_bytes()
    journal.write_bytes(raw[: len(raw) // 2])
    assert score(llama, journal=journal).ops == expected


def test_steps_are_ops_times_batches_when_resumed_too(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, journal=journal, step=stop_at(17))
    steps: list[int] = []
    score(llama, journal=journal, step=lambda: steps.append(1))
    assert len(steps) == 2 * 14


def shortened(batch: Batch) -> Batch:
    """The same samples cut to fewer tokens, as a smaller ``--max-length`` gives them."""
    return Batch(
        inputs={key: value[:, :4] for key, value in batch.inputs.items()},
        target=batch.target[:, :4],
        sample_ids=batch.sample_ids,
        kinds=batch.kinds,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"fmt": "w8a8-static"},
        {"base": "fallback"},
        {"selection": TEXT[:1]},
        {"selection": TEXT[::-1]},
        {"selection": [shortened(batch) for batch in TEXT]},
        {"model": models_tiny.causal_lm(seed=1)},
        {"model": models_tiny.causal_lm("qwen2")},
        {"table": ["q_proj", "k_proj", "v_proj"]},
    ],
    ids=["format", "base", "fewer", "order", "length", "weights", "family", "ops"],
)
def test_the_journal_of_another_scan_is_refused(
    llama: nn.Module, tmp_path: Path, change: dict[str, Any]
) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, journal=journal, step=stop_at(3))
    model = change.pop("model", llama)
    if "table" in change:
        layout = models_tiny.loaded(model).layout
        change["table"] = list_ops(model, layout, include=change["table"])
    with pytest.raises(UserError, match="was made for another"):
        score(model, journal=journal, **change)


def test_ranges_from_samples_cut_shorter_are_another_scan(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, "w8a8-static", journal=journal, step=stop_at(3))
    with pytest.raises(UserError, match="was made for another"):
        score(
            llama,
            "w8a8-static",
            journal=journal,
            calibration=[shortened(batch) for batch in UNSEEN],
        )


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
        score_ops(variant, table, request_of(preset("w8a8"), "isolate"), step=nothing)

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
    found = report.coverage
    assert found.found == found.scored + len(found.kept) + len(found.skipped)


@pytest.mark.parametrize("base", BASES)
def test_samples_of_both_kinds_count_for_every_op(vl: nn.Module, base: Base) -> None:
    report = score(vl, base=base, selection=MIXED)
    assert report.complete
    assert {op.n for op in report.ops} == {4}
    assert {op.component for op in report.ops} == {"vision", "merger", "language"}


def test_interrupting_does_not_tear_fused_ops_apart(llama: nn.Module) -> None:
    """Where a serving engine merges ops, a profile made from part of a scan has all or none."""
    table = list_ops(llama, models_tiny.loaded(llama).layout)
    members: dict[str, set[str]] = {}
    for op in table.candidates:
        members.setdefault(op.group, set()).add(op.name)
    torn = []
    for stop in range(1, 15):
        report = score(llama, step=stop_at(stop))
        try:
            spectrum = build_spectrum(report, report_sha256="")
        except UserError:
            # Refusing such a report keeps the promise too.
            continue
        for profile in spectrum.profiles:
            torn += [
                (stop, profile.name, group)
                for group, names in members.items()
                if 0 < len(names & set(profile.ops)) < len(names)
            ]
    assert torn == []


def test_scores_are_finite_and_of_sensible_size(llama: nn.Module) -> None:
    ops: tuple[OpScore, ...] = score(llama).ops
    assert all(math.isfinite(op.score) and 0 < op.score < 0.1 for op in ops)
