"""Budgets and guard on the command line, on the reports of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from integration.runs import ANSWERS, DATA, run_arguments
from quantspectrum.artifacts import (
    Guard,
    Manifest,
    QualitySearch,
    RunRecord,
    Spectrum,
    read_artifact,
    sha256_file,
)
from quantspectrum.cli import main
from quantspectrum.demo import model_dir

pytestmark = pytest.mark.slow

MODEL = str(model_dir())


def report_of(run: Path) -> str:
    return str(run / "sensitivity" / "native-mse_v2.isolate.json")


def spectrum(run: Path, out: Path, budget: str, *more: str) -> list[str]:
    command = ["spectrum", report_of(run), "--out", str(out), "--max-quality", budget, "--quiet"]
    return [*command, *DATA, *(ANSWERS if budget.startswith("accuracy") else ()), *more]


def guard(run: Path, out: Path, *more: str) -> list[str]:
    command = ["guard", MODEL, "--spectrum", str(run / "spectrum.json"), "--out", str(out)]
    return [*command, "--quiet", *DATA, *more]


def test_a_run_guards_every_profile_on_held_out_samples(finished_run: Path) -> None:
    made = read_artifact(finished_run / "guard.json", Guard)
    assert made.held_out
    assert made.quantity == "kl"
    assert made.spectrum_sha256 == sha256_file(finished_run / "spectrum.json")
    assert [p.name for p in made.profiles] == ["baseline", "mild", "medium", "aggressive", "max"]
    assert {(d.split, d.samples) for d in made.provenance.data} == {("evaluation", 16)}
    for profile in made.profiles[1:4]:
        assert [rival.kind for rival in profile.rivals] == ["uniform", *["random"] * 5, "inverted"]
        assert profile.damage.n == 16
    assert made.profiles[0].damage.value == 0
    assert made.additivity is not None
    assert made.additivity.metric == "mse_v2"
    assert made.additivity.same_unit
    assert 12 <= len(made.additivity.points) <= 17


def test_the_command_gives_the_same_record(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "guard.json"
    assert main(guard(finished_run, out, "--report", report_of(finished_run))) == 0
    made = read_artifact(out, Guard)
    assert made.profiles == read_artifact(finished_run / "guard.json", Guard).profiles
    printed = capsys.readouterr().out
    assert "Uniform" in printed
    assert "log-log line" in printed


def test_without_a_report_nothing_is_added_up(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "guard.json"
    assert main(guard(finished_run, out, "--rivals", "1", "--json")) == 0
    made = read_artifact(out, Guard)
    assert made.additivity is None
    assert not made.held_out
    assert json.loads(capsys.readouterr().out)["kind"] == "guard"


@pytest.mark.parametrize("budget", ["kl 0.0001", "nll +1%", "accuracy -3pt"])
def test_a_budget_adds_a_profile(
    finished_run: Path, tmp_path: Path, budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.json"
    more = ("--model", MODEL, "--quality-name", "mine", "--trials", "8")
    assert main(spectrum(finished_run, out, budget, *more)) == 0
    search = read_artifact(tmp_path / "s.quality.json", QualitySearch)
    made = read_artifact(out, Spectrum)
    assert not made.edited
    assert made.profile("mine") == search.profile
    assert 1 <= len(search.trials) <= 8
    best = max((t for t in search.trials if t.meets), key=lambda t: t.reading.weight_bytes)
    assert best.judged.value <= search.budget.limit
    assert set(best.quantized) == {
        op.group for op in made.candidates if op.name in search.profile.ops
    }
    assert search.held_out_judged is not None
    assert {d.split for d in search.provenance.data} == {"selection", "evaluation"}
    assert (best.reading.accuracy_lost is not None) == budget.startswith("accuracy")
    assert list(tmp_path.glob("*.journal.jsonl")) == []
    assert "On samples it never saw" in capsys.readouterr().out


def test_nothing_within_the_budget_is_the_baseline_and_no_error(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.json"
    assert main(spectrum(finished_run, out, "kl 0", "--model", MODEL, "--trials", "7")) == 0
    assert read_artifact(out, Spectrum).profile("quality").ops == {}
    search = read_artifact(tmp_path / "s.quality.json", QualitySearch)
    assert not any(trial.meets for trial in search.trials)
    assert search.held_out is None
    assert "this is the baseline" in capsys.readouterr().out


def test_a_run_with_a_budget(tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--cut", "max=100%", "--max-quality", "kl 0.0001", "--no-guard", "--trials", "6")
    assert main(run_arguments(out, *more)) == 0
    search = read_artifact(out / "quality.json", QualitySearch)
    manifest = read_artifact(out / "variants/quality/manifest.json", Manifest)
    assert manifest.profile == search.profile
    assert (out / "evaluations/quality.json").is_file()
    assert not (out / "guard.json").exists()
    assert "### Search for the budget" in (out / "report.md").read_text(encoding="utf-8")
    record = read_artifact(out / "run.json", RunRecord)
    names = list(record.stages)
    assert names.index("spectrum") < names.index("quality") < names.index("quantize:quality")
    assert {state.state for state in record.stages.values()} == {"done"}


def test_a_run_whose_budget_allows_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--cut", "max=100%", "--max-quality", "kl 0", "--no-guard", "--trials", "3")
    assert main(run_arguments(out, *more)) == 0
    record = read_artifact(out / "run.json", RunRecord)
    assert {state.state for state in record.stages.values()} == {"done"}
    assert not (out / "variants/quality").exists()
    assert read_artifact(out / "spectrum.json", Spectrum).profile("quality").ops == {}


@pytest.mark.parametrize(
    ("budget", "more", "says"),
    [
        ("kl lots", ("--model", MODEL), "not understood"),
        ("kl 1", (), "--model MODEL"),
        ("kl 1", ("--model", MODEL, "--quality-name", "mild"), "profile called 'mild'"),
        ("kl 1", ("--model", MODEL, "--quality-name", "a/b"), "letters, digits"),
        ("kl 1", ("--model", MODEL, "--samples", "15"), "other samples of the same data"),
        ("kl 1", ("--model", "./nowhere"), "./nowhere does not exist"),
    ],
)
def test_wrong_input_is_one_sentence(
    fails, finished_run: Path, tmp_path: Path, budget: str, more: tuple[str, ...], says: str
) -> None:
    assert says in fails(spectrum(finished_run, tmp_path / "s.json", budget, *more))
    assert not (tmp_path / "s.quality.json").exists()


def test_a_guard_refuses_another_report_and_other_samples(
    fails, finished_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(Path(report_of(finished_run)).read_text() + " ")
    out = tmp_path / "guard.json"
    assert "was not made from" in fails(guard(finished_run, out, "--report", str(other)))
    more = ("--report", report_of(finished_run), "--seed", "1")
    assert "other samples" in fails(guard(finished_run, out, *more))
    assert not out.exists()


def test_a_run_refuses_a_budget_before_it_begins(fails, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "not understood" in fails(run_arguments(out, "--max-quality", "better"))
    named = run_arguments(out, "--max-quality", "kl 1", "--cut", "quality=10%")
    assert "rename yours" in fails(named)
    assert not out.exists()
