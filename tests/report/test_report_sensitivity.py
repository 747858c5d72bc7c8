"""What is said of a whole report: its coverage, how it was measured, the second ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import report_runs as runs
from report_pages import column, markdown_page
from report_runs import of

from quantspectrum.artifacts import (
    Coverage,
    OpNote,
    SensitivityReport,
    read_artifact,
    write_artifact,
)
from quantspectrum.report import sensitivity_markdown
from quantspectrum.report.coverage import (
    blind_sentence,
    components_table,
    coverage_sentence,
    partial_sentence,
)
from quantspectrum.report.engine import engine_table
from quantspectrum.report.ranking import ranking_table
from quantspectrum.report.rescored import moved_table, rescored_sentences, rescored_table


class TestCoverage:
    def test_what_stopped_a_scan_and_what_is_estimated_come_first(self) -> None:
        made = runs.detailed(
            of(3.0, 2.0, 1.0), estimated=2, complete=False, stopped_by="time budget"
        )
        said = coverage_sentence(made)
        assert said.startswith(
            "INCOMPLETE: this scan stopped early (time budget); 2 of 3 scores are estimates from "
            "native:visibility. What follows is partial. 3 ops found"
        )
        assert markdown_page(sensitivity_markdown(made)).text.startswith(f"\n{said}")

    def test_estimates_that_were_asked_for_come_first_too(self) -> None:
        made = runs.detailed(of(2.0, 1.0), estimated=1)
        said = coverage_sentence(made)
        assert said.startswith("PARTLY ESTIMATED, as asked: 1 of 2 scores are estimates from nati")
        assert sensitivity_markdown(made).startswith("> **PARTLY ESTIMATED")
        assert sensitivity_markdown(of(1.0)).startswith("# Sensitivity of Qwen")

    def test_ops_that_changed_nothing_are_named(self) -> None:
        assert blind_sentence(of(2.0, 1.0)) is None
        blind = [op.model_copy(update={"stderr": 0.0}) for op in of(2.0, 0.0, 0.0).ops]
        made = of(2.0, 0.0, 0.0).model_copy(update={"ops": tuple(blind)})
        said = coverage_sentence(made)
        assert said.startswith("Complete: ")
        assert f"2 of 3 ops changed nothing that was compared, {blind[1].name} first" in said
        assert "changed nothing" in sensitivity_markdown(made)
        rule_of_thumb = made.model_copy(update={"lens": "heuristic:ends"})
        assert blind_sentence(rule_of_thumb) is None

    def test_one_sentence_for_all_reports(self) -> None:
        whole = of(1.0)
        stopped = runs.detailed(of(2.0, 1.0), estimated=1, complete=False, stopped_by="time budget")
        assert partial_sentence({"a": whole}) is None
        assert partial_sentence({}) is None
        assert partial_sentence({"a": stopped}) == (
            "Partial sensitivity report (a): this scan stopped early (time budget); 1 of their 2 "
            "scores are estimates."
        )
        both = partial_sentence({"a": stopped, "b": stopped, "c": whole})
        assert both is not None
        assert both.startswith("Partial sensitivity reports (a, b): this scan stopped early (time")
        every = partial_sentence({"a": stopped, "b": stopped})
        assert every is not None
        assert every.startswith("Partial sensitivity reports (all 2): ")
        asked = partial_sentence({"a": runs.detailed(of(2.0, 1.0), estimated=1)})
        assert asked == (
            "Partly estimated sensitivity report (a): 1 of their 2 scores are estimates."
        )

    def test_components_by_hand(self) -> None:
        ops = [
            runs.scored(runs.op("v.0", "vision", 0, "g0", (1,)), 3.0, rank=1),
            runs.scored(runs.op("l.0", "language", 0, "g1", (1,)), 1.5, rank=2),
            runs.scored(runs.op("v.1", "vision", 1, "g2", (1,)), 1.5, rank=3).model_copy(
                update={"kind": "estimated"}
            ),
        ]
        kept = OpNote(name="head", type="Linear", reason="r", component="head")
        skipped = OpNote(name="v.9", type="Conv3d", reason="r", component="vision")
        covered = Coverage(found=5, scored=3, estimated=1, kept=(kept,), skipped=(skipped,))
        made = of().model_copy(update={"ops": tuple(ops), "coverage": covered})
        table = components_table(made)
        assert table is not None
        assert table.rows == (
            ("vision", "1", "1", "0", "1", "4.50e0", "75 %", "v.0"),
            ("language", "1", "0", "0", "0", "1.50e0", "25 %", "l.0"),
            ("head", "0", "0", "1", "0", "—", "—", "—"),
        )

    def test_no_op_no_components(self) -> None:
        assert components_table(of()) is None
        table = components_table(of(0.0))
        assert column(table, "Of the sum") == ["—"]


class TestEngine:
    def rows(self, lens: str = "native:kl", **changes: Any) -> dict[str, str]:
        note = runs.ENGINE.model_copy(update=changes)
        table = engine_table(of(1.0, lens=lens, engine=note))
        assert table is not None
        return dict(table.rows)

    def test_how_it_ran(self) -> None:
        assert self.rows() == {
            "Ops": "each replayed from the block that holds it",
            "Read": "the output head's input; differences were turned into logits in float32",
            "Together": "up to 7 ops of a block a replay (8 slots, one of them unperturbed)",
            "Data": "4 batches of at most 8 samples",
            "Captured tensors": "at most 1.23 GB on the device, 45.0 MB on disk",
            "Time": "calibration 2.5 s, passes over all ops 0.0 s, scan 51.0 s, second ranking "
            "5 min",
        }

    def test_whole_passes_say_why(self) -> None:
        rows = self.rows(replay=False, whole_because="the model's structure is not known", slots=1)
        assert rows["Ops"] == "whole forward passes, because the model's structure is not known"
        assert rows["Together"] == "one op a replay"
        assert "not recorded" in self.rows(replay=False)["Ops"]
        assert self.rows(head_read=False)["Read"] == "the logits, subtracted in float32"

    def test_nothing_captured_and_nothing_timed(self) -> None:
        rows = self.rows(captured_bytes={"device": 0}, seconds={})
        assert (rows["Captured tensors"], rows["Time"]) == ("none", "not recorded")

    def test_metrics_of_all_ops_at_once_replay_none(self) -> None:
        rows = self.rows("native:sqnr")
        assert rows["Ops"].startswith("all at once")
        assert "Together" not in rows

    def test_a_report_without_a_note(self) -> None:
        assert engine_table(of(1.0)) is None


class TestSecondRanking:
    def made(self, ranks: list[int] | None = None) -> SensitivityReport:
        report = of(5.0, 4.0, 3.0, 2.0, 1.0)
        return report.model_copy(update={"rescored": runs.rescored(report, 1, ranks)})

    def test_what_was_restored_and_how_the_order_held(self) -> None:
        # Former ranks 4, 1, 2, 3: sum of squared differences 12, so 1 - 6 * 12 / (4 * 15) = -0.2.
        said = rescored_sentences(self.made([4, 1, 2, 3]))
        assert said.startswith(
            "Ranked again with 1 op in high precision (the 1 most sensitive group): "
            "model.language_model.layers.0.mlp.down_proj. "
        )
        assert said.endswith(
            "Spearman's rank correlation of the 4 other ops before and after: −0.200; 4 changed "
            "rank."
        )

    def test_the_ops_that_moved_most_come_first(self) -> None:
        table = moved_table(self.made([4, 1, 3, 2]))
        assert column(table, "Rank") == ["1", "4", "2"]
        assert column(table, "Rank before") == ["4", "2", "1"]
        assert column(table, "Moved") == ["+3", "−2", "−1"]
        assert column(rescored_table(self.made([4, 1, 3, 2])), "Moved") == ["+3", "−1", "—", "−2"]

    def test_an_order_that_held(self) -> None:
        assert moved_table(self.made()) is None
        assert "1.000; 0 changed rank." in rescored_sentences(self.made())

    def test_too_few_ops_to_compare(self) -> None:
        report = of(2.0, 1.0)
        alone = report.model_copy(update={"rescored": runs.rescored(report, 1)})
        assert rescored_sentences(alone).endswith("1 other op is too few to compare orders.")
        none = report.model_copy(update={"rescored": runs.rescored(report, 2)})
        assert rescored_sentences(none).endswith("0 other ops are too few to compare orders.")
        assert rescored_table(none) is None

    def test_many_restored_ops_are_counted(self) -> None:
        report = runs.report(runs.qwen_ops(4, 0))
        report = report.model_copy(update={"rescored": runs.rescored(report, 10)})
        assert " and 2 more. Spearman" in rescored_sentences(report)

    def test_without_one_nothing_is_said(self) -> None:
        report = of(1.0)
        assert (rescored_sentences(report), moved_table(report)) == ("", None)
        assert rescored_table(report) is None
        assert "Ranked again" not in sensitivity_markdown(report)


def full_report() -> SensitivityReport:
    """Everything a report can hold at once."""
    made = runs.report(runs.qwen_ops(4, 3))
    skipped = OpNote(
        name="model.visual.patch_embed.proj", type="Conv3d", reason="it lies", component="vision"
    )
    covered = made.coverage.model_copy(
        update={"found": made.coverage.found + 1, "skipped": (skipped,)}
    )
    made = runs.detailed(
        made.model_copy(update={"coverage": covered}), estimated=7, rescored=runs.rescored(made, 3)
    )
    ops = [op.model_copy(update={"weight_score": 1e-3}) for op in made.ops]
    return made.model_copy(update={"ops": tuple(ops)})


def test_the_markdown_lists_every_op_of_every_kind() -> None:
    report = full_report()
    text = sensitivity_markdown(report)
    page = markdown_page(text).text
    for op in report.ops:
        assert f"| {op.rank} | `{op.name}` | {op.component} |" in text
    for note in (*report.coverage.kept, *report.coverage.skipped):
        assert f"| `{note.name}` | {note.component} | {note.type} | {note.reason} |" in text
    second = page[page.index("Ranked again") : page.index("Without a score")]
    assert report.rescored is not None
    assert [op.name for op in report.rescored.ops if op.name not in second] == []
    for said in (*report.rescored.restored, "How it was measured", "scan 51.0 s", "Components"):
        assert said in page
    assert text == sensitivity_markdown(report)


def test_a_file_of_the_older_shape_still_reads(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_artifact(path, full_report())
    raw = json.loads(path.read_text())
    for key in ("estimator", "engine", "rescored"):
        del raw[key]
    del raw["coverage"]["estimated"]
    for op in raw["ops"]:
        for key in ("kind", "tied_with_next", "weight_score", "activation_score"):
            del op[key]
    for note in (*raw["coverage"]["kept"], *raw["coverage"]["skipped"]):
        del note["component"], note["block"]
    path.write_text(json.dumps(raw))
    report = read_artifact(path, SensitivityReport)
    text = sensitivity_markdown(report)
    assert text.startswith("# Sensitivity of ")
    assert "None" not in text
    assert "How it was measured" not in text
    assert column(ranking_table(report), "Kind") == ["measured"] * len(report.ops)
