"""Two runs side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_runs as runs
from report_pages import HOSTILE, column, parse

from quantspectrum.artifacts import Evaluation, read_artifact, write_artifact
from quantspectrum.cli import main
from quantspectrum.errors import UserError
from quantspectrum.report import compare_run
from quantspectrum.report.two_runs import compare_two, write_two
from quantspectrum.report.two_tables import unpaired


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return runs.write_full_run(tmp_path / "a"), runs.write_full_run(tmp_path / "b")


def test_the_same_samples_are_paired(two: tuple[Path, Path]) -> None:
    path = two[1] / "evaluations" / "mild.json"
    other = runs.evaluation("mild", 0.3, 1)
    write_artifact(path, other)
    before = read_artifact(two[0] / "evaluations" / "mild.json", Evaluation)
    found = compare_two(*two)
    table = dict(found.tables)["Variants"]
    assert set(column(table, "Paired")) == {"yes"}
    row = table.rows[column(table, "Profile").index("mild")]
    # Known answer: the difference of the sums over the tokens both share.
    change = float(row[5].replace("−", "-"))
    assert change == pytest.approx(other.loss.loss - before.loss.loss, rel=0.02)
    assert row[7] == "yes"
    assert column(table, "Differs")[column(table, "Profile").index("max")] == "no"


def test_the_figure_is_in_nats_with_its_intervals(two: tuple[Path, Path]) -> None:
    found = compare_two(*two).figure
    assert found is not None
    rows = [row for row in compare_run(two[0]).rows if row.paired is not None]
    drawn = found["data"][0]
    assert drawn["y"] == [row.paired.value for row in rows if row.paired]
    highs = [y + up for y, up in zip(drawn["y"], drawn["error_y"]["array"], strict=True)]
    assert highs == pytest.approx([row.paired.high for row in rows if row.paired])
    assert "nats" in found["layout"]["yaxis"]["title"]["text"]


def test_other_data_are_not_paired(two: tuple[Path, Path]) -> None:
    for path in (two[1] / "baseline/evaluation.json", *(two[1] / "evaluations").glob("*.json")):
        one = read_artifact(path, Evaluation)
        data = tuple(d.model_copy(update={"sha256": "11" * 32}) for d in one.provenance.data)
        changed = one.provenance.model_copy(update={"data": data})
        write_artifact(path, one.model_copy(update={"provenance": changed}))
    found = compare_two(*two)
    said = next(said for said in found.sentences if said.startswith("NOT PAIRED"))
    assert "name different evaluation data (by hash). Losses of the two runs" in said
    table = dict(found.tables)["Variants"]
    assert column(table, "Paired")[0] == "NO"


def test_rankings_and_settings(two: tuple[Path, Path]) -> None:
    write_artifact(two[1] / "run.json", runs.run_record(request={"model": "other", "seed": 3}))
    found = dict(compare_two(*two).tables)
    assert [value[:4] for value in column(found["Rankings"], "Spearman")] == ["1.00", "1.00"]
    assert "--seed" in column(found["Differences of settings and environment"], "Setting")


def test_files_are_written_and_inert(two: tuple[Path, Path], tmp_path: Path) -> None:
    hostile = two[1] / "evaluations" / "x.json"
    write_artifact(hostile, runs.evaluation("x", 0.1, 1))
    write_artifact(two[1] / "run.json", runs.run_record(request={"model": HOSTILE}))
    assert main(["compare", str(two[0]), str(two[1]), "--out", str(tmp_path / "out")]) == 0
    page = parse((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert len(page.scripts) == 3
    assert "PWNED" in page.text
    assert (tmp_path / "out" / "compare.md").read_text(encoding="utf-8").count("<script>") == 0


def test_a_run_without_anything_is_compared_too(two: tuple[Path, Path], tmp_path: Path) -> None:
    write_artifact(tmp_path / "empty" / "run.json", runs.run_record(stages={}))
    found = write_two(two[0], tmp_path / "empty", tmp_path / "out")
    assert any("Not both baselines" in said for said in found.sentences)


def test_a_run_is_not_compared_with_itself(two: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="same run"):
        compare_two(two[0], two[0])


def test_the_reason_for_not_pairing_is_said_whole() -> None:
    one = runs.evaluation("baseline")
    fewer = runs.loss(list(one.loss.samples)[:-1])
    why = unpaired(one, one.model_copy(update={"loss": fewer}))
    assert why is not None
    n, last = len(one.loss.samples), one.loss.samples[-1].id
    assert why.endswith(f"on different samples ({n} and {n - 1}; {last!r} is in one of them only)")
