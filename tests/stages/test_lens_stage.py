"""Lenses that are not native: the same request for all, and reports that hide nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from quantspectrum import lenses
from quantspectrum.artifacts import FrameworkNote, SensitivityReport, read_artifact
from quantspectrum.cli import main
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError
from quantspectrum.lenses import LENSES, lens_named
from quantspectrum.lenses.imported import match_names
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.stages import (
    DataRequest,
    OpsRequest,
    lens_paths,
    lens_sensitivity,
    parse_lens_options,
)

SMALL = {"data": ("demo",), "calibration": 4, "samples": 4, "eval_samples": 1, "batch_size": 4}
LANGUAGE = "*.language_model.*"


@pytest.fixture(scope="module")
def demo() -> Loaded:
    return load_model(ModelSpec(model=str(model_dir()), device="cpu"))


def no_bar(_steps: int) -> Callable[[], None]:
    return lambda: None


def scored(demo: Loaded, out: Path, lens: str, **more: Any) -> SensitivityReport:
    return lens_sensitivity(
        demo,
        out,
        lens=lens,
        data=DataRequest(**SMALL),
        ops=OpsRequest(include=(LANGUAGE,)),
        progress=no_bar,
        **more,
    )


@pytest.mark.parametrize("name", sorted(lens for lens in LENSES if lens.startswith("heuristic")))
def test_a_rule_ranks_every_candidate(demo: Loaded, tmp_path: Path, name: str) -> None:
    out = tmp_path / "report.json"
    report = scored(demo, out, name, format_name="w8a8-static")
    assert report == read_artifact(out, SensitivityReport)
    assert out.with_suffix(".md").is_file()
    table = list_ops(demo.model, demo.layout, include=(LANGUAGE,))
    assert {op.name for op in report.ops} == {op.name for op in table.candidates}
    assert [op.score for op in report.ops] == sorted((op.score for op in report.ops), reverse=True)
    assert report.complete
    assert report.framework is not None
    assert (report.framework.asked, report.framework.covered) == (len(report.ops),) * 2
    assert all(op.input_range is not None for op in report.ops)
    assert not list(tmp_path.glob(".*"))


def test_what_the_rules_say(demo: Loaded, tmp_path: Path) -> None:
    by_range = scored(demo, tmp_path / "a.json", "heuristic:range", format_name="w8a8-static")
    for op in by_range.ops:
        assert op.input_range is not None
        assert op.score == pytest.approx(max(map(abs, op.input_range)))
    by_size = scored(demo, tmp_path / "b.json", "heuristic:size")
    assert [-op.params for op in by_size.ops] == [op.score for op in by_size.ops]
    ends = scored(demo, tmp_path / "c.json", "heuristic:ends")
    blocks = {op.block for op in ends.ops if op.block is not None}
    assert {op.block for op in ends.ops if op.rank == 1} <= {min(blocks), max(blocks)}
    down = scored(demo, tmp_path / "d.json", "heuristic:down-proj")
    first = [op.name.endswith("down_proj") for op in down.ops]
    assert first == sorted(first, reverse=True)
    assert any(first)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Says what it is told to."""

    BASES: ClassVar[tuple[Any, ...]] = ("fallback",)
    FORMATS: ClassVar[tuple[str, ...]] = ("inc",)
    ENVIRONMENT: ClassVar[str | None] = None
    OPTIONS: ClassVar[Mapping[str, str]] = {"depth": "how deep"}
    scores: Mapping[str, float]
    missing: Mapping[str, str] = field(default_factory=dict)
    stopped_by: str | None = None

    def score(self, _loaded: Loaded, table: OpTable, _request: LensRequest) -> LensScores:
        return LensScores(
            scores=self.scores,
            missing=self.missing,
            framework=FrameworkNote(
                name="planted", asked=len(table.candidates), covered=len(self.scores)
            ),
            n=4,
            stopped_by=self.stopped_by,
        )


def plant(monkeypatch: pytest.MonkeyPatch, lens: Planted) -> None:
    for place in ("lenses.scoring", "stages.lenses"):
        monkeypatch.setattr(f"quantspectrum.{place}.lens_named", {"planted": lens}.__getitem__)


def test_an_op_that_was_passed_over_is_listed(
    demo: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [op.name for op in list_ops(demo.model, demo.layout, include=(LANGUAGE,)).candidates]
    plant(monkeypatch, Planted(scores={names[0]: 2.0, names[2]: 3.0}, missing={names[1]: "no way"}))
    report = scored(demo, tmp_path / "report.json", "planted")
    assert (report.base, report.format.name) == ("fallback", "inc")
    assert [op.name for op in report.ops] == [names[2], names[0]]
    assert not report.complete
    skipped = {note.name: note.reason for note in report.coverage.skipped}
    assert set(names[1:]) - {names[2]} <= skipped.keys()
    assert skipped[names[1]] == "no way"
    assert skipped[names[3]] == "the lens gave it no score"


@pytest.mark.parametrize(
    ("scores", "more", "match"),
    [
        ({"nowhere": 1.0}, {}, "scored nowhere, which is no candidate"),
        ({"first": float("nan")}, {}, "the score nan"),
        ({}, {"base": "isolate"}, "knows no base isolate; give --base fallback"),
        ({}, {"format_name": "fp8"}, "cannot score format fp8; it can: inc"),
        ({}, {"options": {"width": "3"}}, "no option 'width'; its options are: depth"),
    ],
)
def test_what_makes_no_sense_is_refused(
    demo: Loaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: dict[str, float],
    more: dict[str, Any],
    match: str,
) -> None:
    first = list_ops(demo.model, demo.layout, include=(LANGUAGE,)).candidates[0].name
    named = {first if name == "first" else name: score for name, score in scores.items()}
    plant(monkeypatch, Planted(scores=named))
    with pytest.raises(UserError, match=match):
        scored(demo, tmp_path / "report.json", "planted", **more)
    assert not (tmp_path / "report.json").exists()


def test_an_unknown_lens_is_told() -> None:
    with pytest.raises(UserError, match=r"unknown lens 'awq:x'; the lenses are: native:METRIC"):
        lens_named("awq:x")


def test_several_lenses_write_several_files(tmp_path: Path) -> None:
    paths = lens_paths(tmp_path / "r.json", ["heuristic:range", "import:some/scores.json"])
    assert [path.name for path in paths.values()] == [
        "r.heuristic-range.json",
        "r.import-scores.json",
    ]
    with pytest.raises(UserError, match="same file"):
        lens_paths(tmp_path / "r.json", ["import:a/s.json", "import:b/s.json"])


@pytest.mark.parametrize("text", ["depth", "=3", "depth=1 depth=2"])
def test_options_are_names_and_values(text: str) -> None:
    with pytest.raises(UserError, match="NAME=VALUE"):
        parse_lens_options(text.split())


def test_every_registered_lens_is_there() -> None:
    for name in lenses.LENSES:
        if name.startswith("heuristic"):
            assert lens_named(name).BASES


def test_a_file_of_scores_is_a_lens(demo: Loaded, tmp_path: Path) -> None:
    table = list_ops(demo.model, demo.layout, include=(LANGUAGE,))
    # Published under the names of an older layout: `model.layers…` instead of
    # `model.language_model.layers…`.
    state = {
        "candidate_stats": {
            f"group {number}": {
                "module_names": [op.name.replace("language_model.", "") for op in some],
                "formats": ["NONE(effective-bits: 16.0)", "INT8_DEFAULT(effective-bits: 8.0)"],
                "scores": [0.0, float(number)],
                "costs": [2.0, 1.0],
            }
            for number, some in enumerate(
                [table.candidates[:3], *([op] for op in table.candidates[3:-1])], start=1
            )
        }
    }
    file = tmp_path / "state.json"
    file.write_text(json.dumps(state))
    report = scored(demo, tmp_path / "report.json", f"import:{file}")
    found = {op.name: op for op in report.ops}
    assert set(found) == {op.name for op in table.candidates[:-1]}
    for op in table.candidates[:3]:
        assert found[op.name].score == pytest.approx(1 / 3)
        assert found[op.name].raw == {"group_score": 1.0, "group_ops": 3}
    assert found[table.candidates[3].name].score == 2.0
    assert not report.complete
    assert report.coverage.skipped[-1].name == table.candidates[-1].name


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds neither"),
        ('{"some.op": 1.0}', "names none of the model's"),
        ('{"candidate_stats": {"g": {"formats": ["A", "B"], "scores": [1, 2]}}}', "2 scores"),
        ('{"candidate_stats": {"g": {"scores": [1, 2]}}}', "lacks formats or scores"),
    ],
)
def test_a_file_that_is_none_is_told(demo: Loaded, tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "scores.json"
    file.write_text(text)
    with pytest.raises(UserError, match=match):
        scored(demo, tmp_path / "report.json", f"import:{file}")


def test_names_match_by_their_endings_where_that_is_unique() -> None:
    ops = [
        "model.language_model.layers.0.q",
        "model.language_model.layers.1.q",
        "visual.blocks.0.q",
    ]
    found = match_names(["model.layers.0.q", "layers.1.q", "blocks.7.q", "visual.blocks.0.q"], ops)
    assert found == {
        "model.layers.0.q": ops[0],
        "layers.1.q": ops[1],
        "visual.blocks.0.q": ops[2],
    }
    assert match_names(["a.layers.0.q", "b.layers.0.q"], ops) == {}
    assert match_names(["0.q"], ["a.layers.0.q", "b.layers.0.q"]) == {}


def test_the_command_line_scores_with_a_lens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "range.json"
    asked = ["sensitivity", str(model_dir()), "--out", str(out), "--lens", "heuristic:range"]
    asked += ["--data", "demo", "--samples", "2", "--calibration", "2", "--eval-samples", "1"]
    assert main([*asked, "--quiet", "--device", "cpu"]) == 0
    assert str(out) in capsys.readouterr().out
    assert read_artifact(out, SensitivityReport).lens == "heuristic:range"
    assert main([*asked, "--metric", "kl"]) == 1
    assert "not both" in capsys.readouterr().err


def test_ranges_are_observed_alike(demo: Loaded, tmp_path: Path) -> None:
    report = scored(demo, tmp_path / "r.json", "heuristic:ends", format_name="w8a8-static")
    from quantspectrum.data.encode import encode_for

    batches = encode_for(
        demo, DataRequest(**SMALL).splits(True).calibration, batch_size=4, max_length=1024
    )
    names = [op.name for op in report.ops]
    assert {op.name: op.input_range for op in report.ops} == observe_ranges(
        demo.model, names, batches, demo.device
    )
