"""``quantspectrum sensitivity``: reports by metric and format, limits, and what it says when it stops."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import models_tiny
from quantspectrum.artifacts import SensitivityReport, read_artifact
from quantspectrum.cli import main
from quantspectrum.data.pictures import disc
from quantspectrum.lenses import native
from quantspectrum.sensitivity.scan import Scan

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a decoder, and a model that also sees pictures."""
    out = tmp_path_factory.mktemp("small")
    words = random.Random(0)
    letters = "abcdefghij klmnopqrstuvwxyz "
    lines = ["".join(words.choice(letters) for _ in range(1000)) for _ in range(24)]
    (out / "text.txt").write_text("\n".join(lines))
    models_tiny.save(models_tiny.causal_lm(), out / "llama")
    models_tiny.save(models_tiny.qwen2_5_vl(), out / "vl")
    return out


@pytest.fixture
def command(folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def made(*more: str, model: str = "llama") -> list[str]:
        few = ("--calibration", "2", "--samples", "4", "--eval-samples", "2")
        small = ("--batch-size", "2", "--max-length", "24", "--device", "cpu", "--quiet")
        where = (str(folder / model), "--out", str(tmp_path / "s.json"))
        data = ("--data", f"text:{folder / 'text.txt'}")
        return ["sensitivity", *where, *data, *few, *small, *more]

    return made


def reports(folder: Path) -> dict[str, SensitivityReport]:
    return {p.name: read_artifact(p, SensitivityReport) for p in sorted(folder.glob("*.json"))}


def test_one_report(command: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    assert main(command()) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    (report,) = reports(tmp_path).values()
    assert (report.lens, report.format.name, report.base) == ("native:mse_v2", "w8a8", "isolate")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "s.md"]
    lines = captured.out.splitlines()
    assert lines[0] == "rank        score  op"
    assert lines[1].split() == ["1", f"{report.ops[0].score:.4e}", report.ops[0].name]
    assert lines[-1] == str(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--metric", "kl", "--metric", "sqnr"], {"s.kl.json", "s.sqnr.json"}),
        (["--format", "fp8", "--format", "w8a8"], {"s.fp8.json", "s.w8a8.json"}),
        (
            ["--metric", "kl", "--format", "fp8", "--metric", "mse_v2", "--format", "w4a16"],
            {"s.kl.fp8.json", "s.kl.w4a16.json", "s.mse_v2.fp8.json", "s.mse_v2.w4a16.json"},
        ),
        (["--metric", "kl", "--metric", "kl"], {"s.json"}),
    ],
    ids=["metrics", "formats", "both", "one twice"],
)
def test_a_report_for_each_metric_and_format(
    command: Callable[..., list[str]], tmp_path: Path, capsys, more: list[str], names: set[str]
) -> None:
    assert main(command(*more)) == 0
    made = reports(tmp_path)
    assert set(made) == names
    for name, report in made.items():
        assert report.complete
        said = {report.lens.partition(":")[2], report.format.name}
        assert set(name.split(".")[1:-1]) <= said
        assert (tmp_path / name).with_suffix(".md").is_file()
    assert list(tmp_path.glob("*.jsonl")) == []
    out = capsys.readouterr().out
    assert all(str(tmp_path / name) in out for name in names)
    assert len({(r.lens, r.format.name) for r in made.values()}) == len(names)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[native.NativeRequest]:
    """What the native lens is asked, as it is."""
    asked: list[native.NativeRequest] = []
    own = native.score_ops

    def noting(loaded, table, request, *, step):  # type: ignore[no-untyped-def]
        asked.append(request)
        return own(loaded, table, request, step=step)

    monkeypatch.setattr("quantspectrum.stages.scoring.score_ops", noting)
    return asked


def test_every_option_reaches_the_scan(
    command: Callable[..., list[str]], tmp_path: Path, asked: list[native.NativeRequest]
) -> None:
    given = [
        *("--metric", "kl", "--base", "fallback", "--attribute", "--max-ops", "3"),
        *("--time-budget", "5m", "--confidence-batches", "1", "--rescore", "2", "--slots", "2"),
        *("--memory-limit", "2MiB", "--cut", "half=50%", "--seed", "5"),
    ]
    assert main(command(*given)) == 0
    (request,) = asked
    assert (request.metrics, request.base, request.attribute) == (("kl",), "fallback", True)
    assert (request.max_ops, request.time_budget, len(request.selection)) == (3, 300.0, 1)
    assert (request.rescore, request.slots, request.memory_limit) == (2, 2, 2 * 2**20)
    assert (request.cuts, request.seed) == ((0.5,), 5)
    (report,) = reports(tmp_path).values()
    assert report.coverage.estimated == 11
    assert report.rescored is not None


def test_probes_reach_the_traces(
    command: Callable[..., list[str]], asked: list[native.NativeRequest]
) -> None:
    assert main(command("--metric", "hawq_v2", "--probes", "3")) == 0
    assert [request.probes for request in asked] == [3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--time-budget", "soon"], "'soon' is not a duration such as 90s, 5m or 1h"),
        (["--time-budget", "-5m"], "'-5m' is not a duration"),
        (["--time-budget", "0"], "'0' is not a duration"),
        (["--memory-limit", "4 apples"], "'4 apples' is not a size such as 4GiB"),
        (["--memory-limit", "0"], "'0' is not a size"),
        (["--base", "isolate", "--base", "fallback"], "a report is of one base"),
        (["--metric", "visibility", "--base", "fallback"], "use --base isolate"),
        (["--rescore", "2"], "give --base fallback"),
        (["--base", "fallback", "--rescore", "8"], "--rescore 8 restores all 8 groups"),
        (["--metric", "sqnr", "--max-ops", "2"], "sqnr measures all ops at once"),
        (["--metric", "hawq_v2", "--attribute"], "hawq_v2 measures all ops at once"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    fails: Fails, command: Callable[..., list[str]], tmp_path: Path, more: list[str], message: str
) -> None:
    # `--option=value`, so that a value may begin with a dash.
    joined = [f"{a}={b}" for a, b in zip(more[::2], more[1::2], strict=False)]
    given = joined if len(more) % 2 == 0 else [*joined, more[-1]]
    assert message in fails(command(*given))
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize(
    ("more", "notes"),
    [
        (("--max-ops", "14"), ["--max-ops 14 limited nothing: there are 14 candidates"]),
        (
            ("--confidence-batches", "2"),
            ["--confidence-batches 2 limited nothing: all 4 samples were used"],
        ),
        (("--max-ops", "13", "--confidence-batches", "1"), []),
        (("--lens", "heuristic:size"), []),
    ],
)
def test_a_limit_that_limits_nothing_is_told(
    command: Callable[..., list[str]],
    more: tuple[str, ...],
    notes: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(*more)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
    assert lines == [f"quantspectrum: note: {note}" for note in notes]


def test_a_second_ranking_without_its_base_is_refused_in_a_run_too(
    fails: Fails, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    given = ["run", *command("--rescore", "2")[1:]]
    given[given.index("--out") + 1] = str(tmp_path / "run")
    assert "give --base fallback" in fails(given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--metric", "--format", "--base", "--slots", "--probes"])
def test_unknown_choices_are_wrong_usage(command: Callable[..., list[str]], option: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(command(option, "none"))
    assert exit_.value.code == 2


def test_a_part_of_the_model_is_said_to_be_one_before_all_else(
    command: Callable[..., list[str]], tmp_path: Path, capsys
) -> None:
    assert main(command(model="vl")) == 3
    captured = capsys.readouterr()
    (report,) = reports(tmp_path).values()
    found, scored = report.coverage.found, report.coverage.scored
    assert captured.err.splitlines()[0] == (
        f"quantspectrum: INCOMPLETE: native:mse_v2, {scored} of {found} ops scored, "
        f"{len(report.coverage.skipped)} skipped (reasons are in the report)"
    )
    assert "the selection data never reaches it" in (tmp_path / "s.md").read_text()
    # Nothing is left to go on with.
    assert list(tmp_path.glob("*.jsonl")) == []


def test_time_that_runs_out_is_said(
    command: Callable[..., list[str]], tmp_path: Path, capsys
) -> None:
    assert main(command("--time-budget", "0.0001", "--metric", "kl", "--metric", "mse_v2")) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "quantspectrum: INCOMPLETE: native:kl",
        "quantspectrum: INCOMPLETE: native:mse_v2",
    ]
    assert all("14 of 15 ops scored, 14 of them estimated" in line for line in lines)
    assert all("(time budget)" in line for line in lines)
    assert {report.stopped_by for report in reports(tmp_path).values()} == {"time budget"}


def test_interrupted_it_exits_3_and_goes_on(
    command: Callable[..., list[str]],
    tmp_path: Path,
    capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(command("--slots", "1", "--json")) == 0
    expected = json.loads(capsys.readouterr().out)
    (tmp_path / "s.json").unlink()
    own, left = Scan._keep, iter(range(9))

    def keep(self, *args):  # type: ignore[no-untyped-def]
        if next(left, None) is None:
            raise KeyboardInterrupt
        own(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Scan, "_keep", keep)
        assert main(command("--slots", "1")) == 3
    assert "9 of 15 ops scored, 5 skipped (interrupted)" in capsys.readouterr().err
    assert (tmp_path / "s.journal.jsonl").is_file()
    assert main(command("--slots", "1", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["ops"] == expected["ops"]
    assert list(tmp_path.glob("*.jsonl")) == []


def test_weights_that_are_offloaded_have_no_traces(
    fails: Fails, command: Callable[..., list[str]]
) -> None:
    message = fails(command("--metric", "hawq_v2", "--device-map", "cpu-offload"))
    assert "load without --device-map" in message


def test_a_run_says_first_of_all_that_it_covers_a_part(
    command: Callable[..., list[str]], tmp_path: Path, capsys
) -> None:
    """All stages are done, and the figures are of the part that was scored."""
    given = ["run", *command("--max-new-tokens", "4", "--cut", "half=50%", model="vl")[1:]]
    given[given.index("--out") + 1] = str(tmp_path / "run")
    assert main(given) == 3
    captured = capsys.readouterr()
    first = captured.err.splitlines()[0]
    assert first.startswith("quantspectrum: INCOMPLETE: native:mse_v2, 14 of 28 ops scored, 12 sk")
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_refuses_a_metric_without_the_base_before_it_begins(
    folder: Path, tmp_path: Path, capsys
) -> None:
    where = ["run", str(folder / "llama"), "--out", str(tmp_path / "run"), "--quiet"]
    bases = ["--base", "isolate", "--base", "fallback", "--metric", "visibility"]
    assert main([*where, *bases, "--data", f"text:{folder / 'text.txt'}"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "visibility looks at each op by itself; use --base isolate" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left_out", [False, True])
def test_ops_that_lead_to_no_output_that_is_compared_are_named(
    tmp_path: Path, capsys, left_out: bool
) -> None:
    model = str(models_tiny.save(models_tiny.detector(), tmp_path / "detector"))
    (tmp_path / "photos").mkdir()
    for i in range(6):
        disc(40, (40 * i, 90, 200)).save(tmp_path / f"photos/{i}.png")
    few = ("--calibration", "2", "--samples", "2", "--eval-samples", "2", "--batch-size", "2")
    where = ("--data", f"images:{tmp_path / 'photos'}", "--out", str(tmp_path / "s.json"))
    more = ("--exclude", "bbox_predictor") if left_out else ()
    capsys.readouterr()  # Saving shows a bar of its own.
    assert main(["sensitivity", model, *where, *few, "--device", "cpu", "--quiet", *more]) == 0
    told = capsys.readouterr().err
    assert told.startswith("quantspectrum: 3 of ") == (not left_out)
    assert ("bbox_predictor" in told) == (not left_out)
