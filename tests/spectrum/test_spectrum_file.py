"""A spectrum on disk: its hash, hand edits, older files and the documented schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.artifacts import Spectrum, read_artifact, write_artifact
from quantspectrum.errors import UserError
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.rules import parse_budgets
from spectrum.spectrum_cases import report

ROOT = Path(__file__).parents[2]

SCORES = [("a.q", "a.qk", 0.1), ("a.k", "a.qk", 0.2), ("a.o", "a.o", 0.5), ("a.d", "a.d", 0.4)]

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = build_spectrum(
        [
            report("w8a8", SCORES, stderr=0.1),
            report("w4a16", [(n, g, 3 * s) for n, g, s in SCORES]),
        ],
        report_sha256=["1", "2"],
        cuts={"half": 0.5, "max": 1.0},
        budgets=parse_budgets(["small=damage:1.2"]),
    )
    write_artifact(tmp_path / "spectrum.json", made)
    return tmp_path / "spectrum.json"


def edited(path: Path, edit: Edit) -> Path:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw, indent=3))
    return path


def test_what_is_read_is_what_was_written(path: Path) -> None:
    found = read_artifact(path, Spectrum)
    raw = json.loads(path.read_text())
    assert not found.edited
    assert found.content_sha256 == found.content_hash() == raw["content_sha256"]
    assert raw["schema_version"] == 2
    write_artifact(path.with_name("again.json"), found)
    assert path.with_name("again.json").read_text() == path.read_text()


def test_layout_and_the_order_of_keys_are_no_content(path: Path) -> None:
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(raw.items()))))
    assert not read_artifact(path, Spectrum).edited


def test_every_profile_says_its_rule_in_words_and_numbers(path: Path) -> None:
    raw = json.loads(path.read_text())
    rules = {profile["name"]: profile["rule"] for profile in raw["profiles"]}
    assert rules["half"] == "the 2 least sensitive of 3 groups in w8a8 (cut 50%)"
    assert rules["small"].startswith("fewest weight bytes with predicted damage at most 1.2: ")
    for profile in raw["profiles"]:
        assert {"predicted_damage", "predicted_bytes", "groups", "share"} <= profile.keys()
    assert raw["profiles"][0]["ties"] == {"groups": 3, "judged": 3}


def test_an_edit_is_accepted_marked_and_its_figures_computed_again(path: Path) -> None:
    def keep_o(raw: dict[str, Any]) -> None:
        (profile,) = [p for p in raw["profiles"] if p["name"] == "max"]
        del profile["ops"]["a.o"]
        profile["ops"]["a.d"] = "w4a16"

    before = read_artifact(path, Spectrum)
    found = read_artifact(edited(path, keep_o), Spectrum)
    assert found.edited
    profile = found.profile("max")
    assert profile.ops == {"a.q": "w8a8", "a.k": "w8a8", "a.d": "w4a16"}
    assert profile.groups == 2
    assert profile.share == pytest.approx(2 / 3)
    assert profile.predicted_damage == pytest.approx(0.3 + 3 * 0.4)
    assert profile.predicted_bytes != before.profile("max").predicted_bytes
    assert profile.rule.startswith("edited by hand (was: the 3 least")
    assert found.profile("half") == before.profile("half")
    write_artifact(path, found)
    again = read_artifact(path, Spectrum)
    assert again == found
    assert again.edited, "once edited, always said"


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw.update(lens="native:mse_v2"),
        lambda raw: raw["profiles"][0].update(predicted_damage=0.0),
        lambda raw: raw.update(content_sha256="0" * 64),
        lambda raw: raw.pop("content_sha256"),
        lambda raw: raw["damages"]["a.o"].update(w8a8=0.0),
        lambda raw: raw["profiles"].reverse(),
    ],
)
def test_every_kind_of_change_is_seen(path: Path, edit: Edit) -> None:
    found = read_artifact(edited(path, edit), Spectrum)
    assert found.edited
    assert found.profile("half").predicted_damage == pytest.approx(0.7)


def test_the_mark_cannot_be_taken_off_alone(path: Path) -> None:
    write_artifact(path, read_artifact(edited(path, lambda raw: raw.update(lens="x")), Spectrum))
    found = read_artifact(edited(path, lambda raw: raw.update(edited=False)), Spectrum)
    assert found.edited


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda raw: raw["profiles"][0]["ops"].update({"a.x": "w8a8"}),
            r"profile half: 'a\.x' is no candidate of this spectrum; give an op listed",
        ),
        (
            lambda raw: raw["profiles"][0]["ops"].update({"a.o": "fp8"}),
            r"profile half: format 'fp8' of a\.o is not defined here; the formats are: w8a8, w4a16",
        ),
        (
            lambda raw: raw["profiles"][0]["ops"].pop("a.q"),
            r"profile half: a serving engine fuses the ops of a\.qk, .* give all of them one format",
        ),
        (
            lambda raw: raw["profiles"][1].update(name="half"),
            r"two profiles are called 'half'; rename one",
        ),
        (
            lambda raw: raw["damages"]["a.qk"].pop("w8a8"),
            r"nothing was scored of a\.qk in w8a8",
        ),
    ],
)
def test_an_edit_that_contradicts_itself_is_refused(path: Path, edit: Edit, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read_artifact(edited(path, edit), Spectrum)
    assert str(path) in str(refused.value)


def test_a_file_of_schema_version_1_is_read_as_it_is(path: Path) -> None:
    def older(raw: dict[str, Any]) -> None:
        raw["schema_version"] = 1
        for key in ("content_sha256", "edited", "reports", "damages", "format_ranges"):
            del raw[key]
        for profile in raw["profiles"]:
            for key in ("rule", "predicted_bytes", "negative_groups", "ties", "optimum"):
                del profile[key]

    before = read_artifact(path, Spectrum)
    found = read_artifact(edited(path, older), Spectrum)
    assert not found.edited
    assert found.schema_version == 2
    assert [p.ops for p in found.profiles] == [p.ops for p in before.profiles]
    assert found.profile("max").predicted_damage == before.profile("max").predicted_damage
    write_artifact(path, found)
    assert read_artifact(path, Spectrum) == found


def test_a_version_of_the_future_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match="schema version 3, this release reads 2"):
        read_artifact(edited(path, lambda raw: raw.update(schema_version=3)), Spectrum)


def test_the_documented_schema_is_that_of_the_record() -> None:
    shown = json.loads((ROOT / "docs/spectrum.schema.json").read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, ROOT / "tools/spectrum_schema.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == shown
    assert shown["properties"]["schema_version"]["const"] == 2


def test_the_guide_names_every_key() -> None:
    guide = (ROOT / "docs/spectrum.md").read_text(encoding="utf-8")
    shown = json.loads((ROOT / "docs/spectrum.schema.json").read_text(encoding="utf-8"))
    keys = [*shown["properties"], *shown["$defs"]["Profile"]["properties"]]
    assert [key for key in keys if f"`{key}`" not in guide] == []


def test_the_decisions_tell_what_the_bench_measured() -> None:
    result = json.loads((ROOT / "bench/results/resolve.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs/decisions.md").read_text(encoding="utf-8").split())
    assert result["worst_stage_s"] <= 0.5
    assert all(row["proved"] for row in result["budgets"])
    less = [
        100 * (1 - row["solved_damage"] / row["cut_damage"])
        for row in result["one_format_against_the_cut"]
    ]
    assert f"predicts {int(min(less))} to {round(max(less))} % less damage" in text
    assert (
        f"{result['ops']} ops of the 3B in {'five' if len(result['formats']) == 5 else '?'}" in text
    )
    assert result["language_ops"] == 252
