"""What write_report writes: complete, self-contained, the same each time, and honest about gaps."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import report_runs as runs
from report_pages import Page, markdown_page, parse

from quantspectrum.artifacts import (
    Coverage,
    DecodeLatency,
    Evaluation,
    RunnerRun,
    Spectrum,
    StageState,
    read_artifact,
    write_artifact,
)
from quantspectrum.errors import UserError
from quantspectrum.report import compare_run, write_report
from quantspectrum.report.inputs import read_run
from quantspectrum.report.prompts import PICTURE_BUDGET, prompt_blocks
from quantspectrum.report.variants import variant_tables
from quantspectrum.report.views import ROWS_FIRST

LIMIT = 8_000_000


def html(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def figures(page: Page) -> list[str]:
    return sorted(json.loads(page.scripts[0])["figures"])


def edit(path: Path, **changes: object) -> None:
    evaluation = read_artifact(path, Evaluation)
    write_artifact(path, evaluation.model_copy(update=changes))


def test_a_whole_run(reported: Path) -> None:
    page = parse(html(reported))
    lens = ["damage", "heatmap-{}-0", "heatmap-{}-1", "ranking"]
    expected = [name.format(i) if "{}" in name else f"{name}-{i}" for i in (0, 1) for name in lens]
    assert figures(page) == sorted(["tradeoff", "agreement-figure", *expected])
    parts = ["sensitivity", "agreement", "variants", "prompts", "ops", "coverage", "origin"]
    found = {"every-op", "find-op", "found-ops", "op-list"}
    assert sorted(set(page.attributes("id")) - {"figures"}) == sorted(
        [*figures(page), *parts, *found]
    )
    for said in (
        "Take the medium profile",
        "Complete: 415 ops found: 414 scored",
        "model.language_model.layers.35.mlp.down_proj",
        "the head is kept in high precision",
        "emulated INT8: not a speed measurement",
        "What is the capital of France?",
        "NVIDIA H100",
        "n = 64 samples",
    ):
        assert said in page.text
        assert said in markdown_page((reported / "report.md").read_text(encoding="utf-8")).text


def test_emulated_times_are_marked_wherever_they_stand(reported: Path) -> None:
    markdown = (reported / "report.md").read_text(encoding="utf-8")
    for text in (parse(html(reported)).text, markdown):
        # 34.4 ms is the mild variant's prefill; 31.4 ms the baseline's.
        assert text.count("34.4") == text.count("34.4 (emulated)") > 0
        assert "31.4 (emulated)" not in text


def test_the_same_records_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "elsewhere")
    write_report(run)
    first = [(run / name).read_bytes() for name in ("report.html", "report.md")]
    write_report(run)
    write_report(other)
    assert first == [(run / name).read_bytes() for name in ("report.html", "report.md")]
    assert first == [(other / name).read_bytes() for name in ("report.html", "report.md")]


def test_it_loads_nothing_from_anywhere(reported: Path) -> None:
    page = parse(html(reported))
    assert page.attributes("src")
    assert all(value.startswith("data:image/png;base64,") for value in page.attributes("src"))
    assert all(value.startswith("#") for value in page.attributes("href"))
    targets = {f"#{name}" for name in page.attributes("id")}
    # The script makes the parts of the ops, at the places that its data name.
    targets |= {f"#{place}" for place in json.loads(page.scripts[0])["places"].values()}
    assert set(page.attributes("href")) <= targets
    assert not {"link", "iframe", "object", "embed", "base", "form"} & page.names()
    style = (Path(write_report.__code__.co_filename).parent / "templates/report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_names_the_scripts_that_run(reported: Path) -> None:
    page = parse(html(reported))
    (policy,) = (attrs["content"] or "" for _, attrs in page.tags if "http-equiv" in attrs)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "http" not in policy
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in page.scripts[1:]
    ]
    assert rules["script-src"].split() == hashes


def test_the_page_stays_small(run: Path) -> None:
    big = runs.picture() + "A" * 300_000
    for path in [run / "baseline" / "evaluation.json", *(run / "evaluations").glob("*.json")]:
        prompts = [
            runs.prompts(0)[0].model_copy(update={"id": f"p{i}", "image": big}) for i in range(20)
        ]
        edit(path, prompts=tuple(prompts))
    write_report(run)
    page = parse(html(run))
    assert (run / "report.html").stat().st_size < LIMIT
    assert sum(map(len, page.attributes("src"))) <= PICTURE_BUDGET
    assert "The picture is left out to keep this page small." in page.text


def test_long_tables_end_with_a_note(tmp_path: Path) -> None:
    report = runs.report(runs.qwen_ops(300, 0))
    write_report(runs.write_full_run(tmp_path, report, second=False))
    page = parse(html(tmp_path))
    assert f"{len(report.ops) - ROWS_FIRST} more rows are in the records of the run." in page.text
    assert (tmp_path / "report.html").stat().st_size < LIMIT


def test_only_run_json_is_needed(tmp_path: Path) -> None:
    write_artifact(tmp_path / "run.json", runs.run_record(stages={}))
    found = write_report(tmp_path)
    page = parse(html(tmp_path))
    assert (found.model, found.baseline, found.rows) == (None, None, ())
    assert figures(page) == []
    for said in (
        "Model not recorded",
        "the baseline was not evaluated",
        "This run has no sensitivity report",
        "No evaluation of this run has prompts",
        "This run has no profiles, variants or evaluations.",
    ):
        assert said in page.text
        assert said in (tmp_path / "report.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json"):
        write_report(tmp_path / "nothing")


def drop(*names: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        for name in names:
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def no_vision(run: Path) -> None:
    shutil.rmtree(run)
    runs.write_full_run(run, runs.report(runs.qwen_ops(4, 0)))


def partial(run: Path) -> None:
    shutil.rmtree(run)
    report = runs.report(runs.qwen_ops(4, 2)).model_copy(
        update={
            "complete": False,
            "stopped_by": "time budget",
            "coverage": Coverage(found=60, scored=42, skipped=runs.notes() * 18),
        }
    )
    runs.write_full_run(run, report)


def estimated(run: Path) -> None:
    shutil.rmtree(run)
    runs.write_full_run(run, runs.detailed(runs.report(runs.qwen_ops(4, 2)), estimated=20))


def older_shape(run: Path) -> None:
    shutil.rmtree(run)
    runs.write_full_run(run, runs.report(runs.qwen_ops(4, 2)))


def nothing_scored(run: Path) -> None:
    shutil.rmtree(run)
    runs.write_full_run(run, runs.report([]))


def no_accuracy(run: Path) -> None:
    for path in [run / "baseline" / "evaluation.json", *(run / "evaluations").glob("*.json")]:
        edit(path, accuracy=None, prompts=())


def no_errors(run: Path) -> None:
    for path in [run / "baseline" / "evaluation.json", *(run / "evaluations").glob("*.json")]:
        made = runs.samples()[:1]
        edit(path, loss=runs.loss(made, None), accuracy=None)


def failed(run: Path) -> None:
    stages = {
        "baseline": StageState(state="done"),
        "quantize:max": StageState(state="failed", error="No space left on device"),
        "evaluate:max": StageState(state="pending"),
        "evaluate:mild": StageState(state="running"),
    }
    write_artifact(run / "run.json", runs.run_record(stages=stages))
    drop("variants/max", "evaluations/max.json")(run)


def no_latency(run: Path) -> None:
    for path in [run / "baseline" / "evaluation.json", *(run / "evaluations").glob("*.json")]:
        resources = read_artifact(path, Evaluation).resources
        edit(path, resources=resources.model_copy(update={"latency": ()}))


def with_runners(run: Path) -> None:
    ran = RunnerRun(
        runner="torchao",
        versions={"torchao": "0.18.0"},
        device="cuda",
        device_name="a GPU",
        dtype="bfloat16",
        weights="the variant's own codes and scales, 9 ops",
        kernels={"aten::_int_mm": 18},
        latency=(
            DecodeLatency(
                batch_size=16,
                prompt_tokens=77,
                new_tokens=8,
                repeats=3,
                prefill_ms=12.34,
                per_token_ms=1.234,
            ),
        ),
        load_s=1.0,
    )
    edit(run / "evaluations" / "max.json", runners=(ran,))


def same_everywhere(run: Path) -> None:
    for path in (run / "evaluations").glob("*.json"):
        base = read_artifact(run / "baseline" / "evaluation.json", Evaluation)
        edit(path, loss=base.loss, accuracy=base.accuracy, resources=base.resources)


MISSING: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no baseline": (
        drop("baseline"),
        ("baseline/evaluation.json is missing", "no change can be given", "max: emulated INT8"),
    ),
    "no evaluations": (
        drop("evaluations"),
        ("no variant has a loss to compare", "Written but not evaluated: mild, medium, agg"),
    ),
    "no variants": (
        drop("evaluations", "variants"),
        ("Not written, so not evaluated: mild, medium, aggressive, max.",),
    ),
    "one evaluation": (
        drop("evaluations/max.json", "evaluations/mild.json", "evaluations/aggressive.json"),
        ("Take the medium profile", "(not evaluated: mild, aggressive, max)"),
    ),
    "no spectrum": (
        drop("spectrum.json"),
        ("No spectrum was made from this report", "Take the medium profile (50 % of the groups"),
    ),
    "no spectrum, no variants": (
        drop("spectrum.json", "variants"),
        ("Take the medium profile (5.61 GB, 0.75× the baseline",),
    ),
    "no sensitivity": (drop("sensitivity"), ("This run has no sensitivity report",)),
    "no vision": (no_vision, ("No vision op was scored, so there is no heatmap of a vision",)),
    "partial report": (
        partial,
        ("INCOMPLETE: this scan stopped early (time budget).", "18 ops without a score"),
    ),
    "estimates": (
        estimated,
        (
            "Partly estimated sensitivity reports (all 2): 40 of their 80 scores are estimates.",
            "PARTLY ESTIMATED, as asked: 20 of 40 scores are estimates from native:visibility.",
            "20 more pairs cannot be judged, for want of an error.",
        ),
    ),
    "reports of the older shape": (older_shape, ("standard errors taken as independent",)),
    "nothing scored": (nothing_scored, ("No op was scored.",)),
    "no accuracy": (no_accuracy, ("No accuracy was measured.", "No evaluation of this run has p")),
    "no standard errors": (
        no_errors,
        ("fewer than two samples", "unknown (one sample)", "one sample gives the loss increase no"),
    ),
    "no latency": (no_latency, ("No latency was measured.",)),
    "real kernels": (
        with_runners,
        (
            "torchao 0.18.0 (cuda, bfloat16): the variant's own codes and scales, 9 ops",
            "aten::_int_mm",
        ),
    ),
    "a failed stage": (
        failed,
        (
            "The stage quantize:max failed: No space left on device",
            "Not done, so missing from this report: evaluate:max, evaluate:mild.",
            "Not written, so not evaluated: max.",
        ),
    ),
    "nothing changes": (same_everywhere, ("Take the max profile", "rule of three")),
}

# What report.md leaves out: it has no figures, so no words about them.
ONLY_IN_HTML = ("No spectrum was made", "No vision op was scored", "18 ops without a score")


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said(run: Path, name: str) -> None:
    change, expected = MISSING[name]
    change(run)
    write_report(run)
    page = parse(html(run))
    markdown = markdown_page((run / "report.md").read_text(encoding="utf-8")).text
    for said in expected:
        assert said in page.text
        if not said.startswith(ONLY_IN_HTML):
            assert said in markdown
    for text in (page.text, markdown):
        assert not re.search(r"\b(None|nan|inf|Undefined)\b", text)
    assert set(figures(page)) <= set(page.attributes("id"))


def test_a_prompt_of_a_variant_alone_is_shown(run: Path) -> None:
    edit(run / "baseline" / "evaluation.json", prompts=())
    blocks = prompt_blocks(read_run(run))
    assert len(blocks) == 3
    assert all(answer.changed is None for block in blocks for answer in block.answers)


def test_the_command_asks_for_the_same(reported: Path) -> None:
    page = parse(html(reported))
    assert (
        "quantspectrum run Qwen/Qwen2.5-VL-3B-Instruct --dtype auto "
        "--data coco:captions_val2017.json --data 'text:a b.txt' --eval-samples 64 --out RUN"
    ) in page.text


def test_the_command_is_quoted(tmp_path: Path) -> None:
    request = {"model": "a; rm -rf b", "include": ["$(x)"], "quiet": True, "seed": 0}
    write_artifact(tmp_path / "run.json", runs.run_record(request=request))
    write_report(tmp_path)
    text = parse(html(tmp_path)).text
    line = next(line for line in text.splitlines() if line.startswith("quantspectrum run"))
    assert shlex.split(line) == [
        "quantspectrum", "run", "a; rm -rf b", "--include", "$(x)", "--quiet", "--seed", "0",
        "--out", "RUN",
    ]  # fmt: skip


def test_the_spectrums_own_report_comes_first(run: Path) -> None:
    (run / "sensitivity" / "native-mse_v2.isolate.json").rename(run / "sensitivity" / "a.json")
    assert list(read_run(run).reports) == ["native-mse_v2.fallback", "a"]


def test_a_record_that_cannot_be_read_is_named(run: Path) -> None:
    (run / "spectrum.json").write_text("{")
    with pytest.raises(UserError, match=r"spectrum\.json"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_no_per_cent_sign_wraps_away_from_its_number(run: Path) -> None:
    asked = "Is 5 % more than 4 %?"
    for path in (run / "baseline/evaluation.json", *(run / "evaluations").glob("*.json")):
        one = read_artifact(path, Evaluation)
        prompts = tuple(p.model_copy(update={"prompt": asked}) for p in one.prompts)
        write_artifact(path, one.model_copy(update={"prompts": prompts}))
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert body.count("\u00a0%") > 20
    # What a model was asked and answered stays as it was.
    assert asked in body
    assert not re.search(r"\d %", body.replace(asked, ""))
    assert "\u00a0%" not in (run / "report.md").read_text(encoding="utf-8")


def test_rules_stand_in_a_table_of_their_own(run: Path) -> None:
    path = run / "spectrum.json"
    made = read_artifact(path, Spectrum)
    rule = "least predicted damage with at most 60 % of the bytes " * 3
    profiles = (*made.profiles[:-1], made.profiles[-1].model_copy(update={"rule": rule}))
    write_artifact(path, made.model_copy(update={"profiles": profiles}))
    tables = dict(variant_tables(compare_run(run)))
    assert all(one.title != "Rule" for one in tables["Profiles"].columns)
    assert tables["Rules of the profiles"].rows == ((profiles[-1].name, rule),)
    write_report(run)
    for name in ("report.md", "report.html"):
        assert rule.strip() in (run / name).read_text(encoding="utf-8").replace("\u00a0", " ")
