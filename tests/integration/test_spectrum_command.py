"""``spectrum`` from the command line, and budgets and kept ops in ``run``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.runs import SMALL, run_arguments
from quantspectrum.artifacts import Manifest, RunRecord, Spectrum, read_artifact, write_artifact
from quantspectrum.cli import main
from spectrum.spectrum_cases import latency_table, report

Fails = Callable[..., str]

SCORES = [("l.q", "l.qk", 0.1), ("l.k", "l.qk", 0.2), ("l.o", "l.o", 0.5), ("l.d", "l.d", 0.4)]


@pytest.fixture
def reports(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{fmt}.json" for fmt in ("w8a8", "w4a16")]
    for path, factor in zip(paths, (1, 3), strict=True):
        scores = [(name, group, factor * score) for name, group, score in SCORES]
        write_artifact(path, report(path.stem, scores))
    return [str(path) for path in paths]


def test_cuts_and_budgets_in_one_spectrum(
    reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "spectrum.json"
    rules = ["--cut", "half=50%", "--budget", "small=bytes:99.8%", "--budget", "safe=damage:1"]
    assert main(["spectrum", *reports, "--out", str(out), *rules, "--keep", "o=bf16"]) == 0
    made = read_artifact(out, Spectrum)
    assert {profile.name for profile in made.profiles} == {"half", "small", "safe"}
    sizes = [profile.predicted_bytes or 0 for profile in made.profiles]
    assert sizes == sorted(sizes, reverse=True), "the mildest first"
    assert all("l.o" not in profile.ops for profile in made.profiles)
    printed = capsys.readouterr().out
    for profile in made.profiles:
        assert f"{profile.name}: {profile.rule}" in printed


def test_cuts_alone_are_told_of_budgets_of_bytes(
    reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "spectrum.json")
    hint = "--budget NAME=bytes:60% follows damage per byte"
    assert main(["spectrum", reports[0], "--out", out]) == 0
    assert hint in capsys.readouterr().out
    assert main(["spectrum", reports[0], "--out", out, "--budget", "s=bytes:99.8%"]) == 0
    assert hint not in capsys.readouterr().out


def test_the_record_is_printed_as_json(
    reports: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "spectrum.json"
    command = ["spectrum", *reports, "--out", str(out), "--budget", "a=damage:0.9", "--json"]
    assert main(command) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(out.read_text())


def test_a_budget_of_latency_reads_the_table(reports: list[str], tmp_path: Path) -> None:
    times = {((128, 128), "bf16", 1): 2e-3, ((128, 128), "w8a8", 1): 1e-3}
    write_artifact(tmp_path / "latency.json", latency_table(times))
    out = tmp_path / "spectrum.json"
    command = ["spectrum", *reports, "--out", str(out), "--budget", "l=latency:75%"]
    assert main([*command, "--latency", str(tmp_path / "latency.json")]) == 0
    assert set(read_artifact(out, Spectrum).profile("l").ops.values()) == {"w8a8"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "small"], "is not one of NAME=bytes:60%"),
        (["--budget", "small=bytes:1%"], "cannot go below"),
        (["--budget", "l=latency:50%"], "give --latency FILE"),
        (["--budget", "l=latency:50%", "--latency", "none.json"], "none.json does not exist"),
        (["--keep", "l.q=bf16"], "--keep tears l.qk apart"),
        (["--keep", "l.q"], "is not PATTERN=FORMAT"),
        (["--cut", "a=1", "--budget", "a=damage:1"], "are both called 'a'"),
    ],
)
def test_a_wrong_rule_is_told_in_one_sentence(
    reports: list[str], tmp_path: Path, fails: Fails, options: list[str], message: str
) -> None:
    out = tmp_path / "spectrum.json"
    assert message in fails(["spectrum", *reports, "--out", str(out), *options])
    assert not out.exists()


def test_reports_that_do_not_belong_together_are_refused(
    reports: list[str], tmp_path: Path, fails: Fails
) -> None:
    other = tmp_path / "other.json"
    write_artifact(other, report("fp8", SCORES, base="fallback"))
    command = ["spectrum", *reports, str(other), "--out", str(tmp_path / "s.json")]
    command += ["--budget", "half=bytes:70%"]
    assert "have other bases (isolate and fallback)" in fails(command)


def test_a_run_refuses_a_wrong_rule_before_it_measures(tmp_path: Path, fails: Fails) -> None:
    out = tmp_path / "run"
    assert "is not one of NAME=bytes" in fails(run_arguments(out, "--budget", "x=bytes:lots"))
    assert not (out / "run.json").exists()


@pytest.mark.slow
def test_a_run_with_a_budget_and_kept_ops(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--budget", "small=bytes:70%", "--budget", "none=bytes:100%"]
    options += ["--cut", "all=100%", "--keep", "mlp.down_proj=bf16"]
    assert main(run_arguments(out, *options)) == 0
    made = read_artifact(out / "spectrum.json", Spectrum)
    assert {profile.name for profile in made.profiles} == {"all", "small", "none"}
    assert made.profiles[0].name == "none"
    assert all(".mlp.down_proj" not in op for profile in made.profiles for op in profile.ops)
    for name in ("all", "small"):
        manifest = read_artifact(out / f"variants/{name}/manifest.json", Manifest)
        predicted = made.profile(name).predicted_bytes
        assert predicted is not None
        # Headers of the files are no weights.
        weights = manifest.files["model.safetensors"]
        assert abs(weights - predicted) < 0.02 * weights
    stages = read_artifact(out / "run.json", RunRecord).stages
    assert {state.state for state in stages.values()} == {"done"}
    assert main(run_arguments(out, *options)) == 0


@pytest.mark.slow
def test_a_run_from_before_budgets_goes_on(finished_run: Path, tmp_path: Path) -> None:
    record = json.loads((finished_run / "run.json").read_text())
    for option in ("budget", "keep", "latency"):
        del record["request"][option]
    kept = (finished_run / "run.json").read_text()
    try:
        (finished_run / "run.json").write_text(json.dumps(record))
        assert (
            main(["run", record["request"]["model"], "--out", str(finished_run), "--quiet", *SMALL])
            == 0
        )
    finally:
        (finished_run / "run.json").write_text(kept)
