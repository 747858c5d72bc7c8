"""The whole way on the embedded model: what a run leaves behind, and that the parts agree."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from integration.runs import run_arguments
from quantspectrum.artifacts import (
    Evaluation,
    Manifest,
    RunRecord,
    SensitivityReport,
    Spectrum,
    read_artifact,
)
from quantspectrum.cli import main

pytestmark = pytest.mark.slow

PROFILES = ("mild", "medium", "aggressive", "max")
GOLDEN = Path(__file__).parent / "golden" / "demo_ranking.json"


def report_of(run: Path) -> SensitivityReport:
    return read_artifact(run / "sensitivity" / "native-mse_v2.isolate.json", SensitivityReport)


def test_every_stage_is_done_and_leaves_its_file(finished_run: Path) -> None:
    record = read_artifact(finished_run / "run.json", RunRecord)
    assert {state.state for state in record.stages.values()} == {"done"}
    expected = ["baseline/evaluation.json", "spectrum.json", "report.html", "report.md"]
    expected += [f"variants/{name}/manifest.json" for name in PROFILES]
    expected += [f"evaluations/{name}.json" for name in PROFILES]
    assert [name for name in expected if not (finished_run / name).is_file()] == []
    assert list(finished_run.rglob("*.journal.jsonl")) == []
    assert list(finished_run.rglob(".*")) == []


def test_report_covers_every_op(finished_run: Path) -> None:
    report = report_of(finished_run)
    coverage = report.coverage
    assert report.complete
    assert coverage.found == coverage.scored + len(coverage.kept) + len(coverage.skipped)
    assert {op.component for op in report.ops} == {"vision", "merger", "language"}
    assert [op.rank for op in report.ops] == list(range(1, len(report.ops) + 1))
    scores = [op.score for op in report.ops]
    assert scores == sorted(scores, reverse=True)


def test_data_sets_are_disjoint(finished_run: Path) -> None:
    evaluation = read_artifact(finished_run / "baseline/evaluation.json", Evaluation)
    identities = report_of(finished_run).provenance.data + evaluation.provenance.data
    splits = {identity.split: identity.sha256 for identity in identities}
    assert set(splits) == {"calibration", "selection", "evaluation", "prompts"}
    assert len(set(splits.values())) == 4


def test_profiles_nest_and_keep_fused_ops_together(finished_run: Path) -> None:
    spectrum = read_artifact(finished_run / "spectrum.json", Spectrum)
    chosen = [set(profile.ops) for profile in spectrum.profiles]
    assert all(a <= b for a, b in itertools.pairwise(chosen))
    assert chosen[0] == set()
    assert chosen[-1] == {op.name for op in spectrum.candidates}
    groups: dict[str, set[str]] = {}
    for op in spectrum.candidates:
        groups.setdefault(op.group, set()).add(op.name)
    for ops in chosen:
        assert all(members <= ops or not members & ops for members in groups.values())


@pytest.mark.parametrize("profile", PROFILES)
def test_variant_holds_int8_for_exactly_the_profiles_ops(finished_run: Path, profile: str) -> None:
    manifest = read_artifact(finished_run / f"variants/{profile}/manifest.json", Manifest)
    with safe_open(finished_run / f"variants/{profile}/model.safetensors", "pt") as file:
        names = list(file.keys())
        kinds = {name: file.get_slice(name).get_dtype() for name in names}
    int8 = {name.removesuffix(".weight") for name, kind in kinds.items() if kind == "I8"}
    assert int8 == set(manifest.profile.ops)
    assert manifest.verification is not None
    assert manifest.verification.relative_l2 <= 1e-6
    on_disk = {
        path.name: path.stat().st_size
        for path in (finished_run / f"variants/{profile}").iterdir()
        if path.name != "manifest.json"
    }
    assert manifest.files == on_disk


def test_plain_transformers_loads_a_variant_and_answers(finished_run: Path) -> None:
    directory = finished_run / "variants" / "medium"
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(directory)
    evaluation = read_artifact(finished_run / "evaluations/medium.json", Evaluation)
    prompt = next(p for p in evaluation.prompts if p.image is None)
    messages = [{"role": "user", "content": [{"type": "text", "text": prompt.prompt}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    answer = processor.batch_decode(
        tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert answer[0].strip() == prompt.output


def test_variants_are_measured_on_the_baselines_samples_and_shrink(finished_run: Path) -> None:
    baseline = read_artifact(finished_run / "baseline/evaluation.json", Evaluation)
    previous = baseline.resources.disk_bytes
    for profile in PROFILES:
        evaluation = read_artifact(finished_run / f"evaluations/{profile}.json", Evaluation)
        assert [s.id for s in evaluation.loss.samples] == [s.id for s in baseline.loss.samples]
        assert evaluation.loss.tokens == baseline.loss.tokens
        assert evaluation.resources.kernel == "emulated"
        assert evaluation.resources.disk_bytes < previous
        previous = evaluation.resources.disk_bytes
    assert baseline.resources.kernel == "native"


def test_running_again_changes_nothing_but_the_report(finished_run: Path) -> None:
    kept = {
        path: path.stat().st_mtime_ns
        for path in finished_run.rglob("*")
        if path.is_file() and not path.name.startswith("report.")
    }
    assert main(run_arguments(finished_run)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_golden_ranking(finished_run: Path) -> None:
    """Counts and order as recorded; QUANTSPECTRUM_REGENERATE=1 writes the record anew.

    Other processors add in another order, which moves scores in the last digits: neighbours
    closer than 5 % may swap, nothing else may.
    """
    report = report_of(finished_run)
    found = {
        "found": report.coverage.found,
        "scored": report.coverage.scored,
        "ops": [[op.name, op.score] for op in report.ops],
    }
    if os.environ.get("QUANTSPECTRUM_REGENERATE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert (found["found"], found["scored"]) == (golden["found"], golden["scored"])
    scores = {op.name: op.score for op in report.ops}
    assert set(scores) == {name for name, _ in golden["ops"]}
    largest = golden["ops"][0][1]
    for name, score in golden["ops"]:
        assert scores[name] == pytest.approx(score, rel=0.05, abs=1e-4 * largest), name
    order = {op.name: op.rank for op in report.ops}
    for index, (name, score) in enumerate(golden["ops"]):
        for other, lower in golden["ops"][index + 1 :]:
            if score - lower > 0.05 * abs(score) + 1e-4 * largest:
                assert order[name] < order[other], f"{name} before {other}"
