"""Agreement of reports: labels, groups, components, what is left out, and the command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from quantspectrum.agreement import agree, agree_files
from quantspectrum.agreement.agree import group_scores, labels_of, members_of
from quantspectrum.artifacts import (
    Agreement,
    Coverage,
    Environment,
    ModelIdentity,
    OpScore,
    Provenance,
    SensitivityReport,
    read_artifact,
    write_artifact,
)
from quantspectrum.cli import main
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.report.agreements import agreement_document
from quantspectrum.report.markdown import document_markdown
from quantspectrum.report.tables import document_text

MODEL = ModelIdentity(
    id="m",
    model_type="llama",
    config_hash="0" * 64,
    weights_fingerprint="1" * 64,
    dtype="float32",
    parameters=1,
)
ENVIRONMENT = Environment(
    tool_version="0",
    git_sha=None,
    python="3.11",
    platform="Linux",
    packages={},
    device="cpu",
    device_name="cpu",
    cpus=1,
)


def report_of(
    scores: Mapping[str, float],
    *,
    lens: str = "native:kl",
    model: ModelIdentity = MODEL,
    base: str = "isolate",
    fmt: str = "w8a8",
) -> SensitivityReport:
    """Ops named ``component.block.op``; ``q`` and ``k`` of a block are one group."""
    ops = []
    for rank, (name, score) in enumerate(sorted(scores.items(), key=lambda e: -e[1]), start=1):
        component, block, op = name.split(".")
        ops.append(
            OpScore(
                name=name,
                type="Linear",
                component=component,
                block=int(block),
                group=f"{component}.{block}.qk" if op in "qk" else name,
                shape=(2, 2),
                params=4,
                score=score,
                n=4,
                rank=rank,
                raw={"twice": 2 * score},
            )
        )
    return SensitivityReport(
        lens=lens,
        base=base,
        format=preset(fmt),
        provenance=Provenance(created="now", environment=ENVIRONMENT, model=model, wall_s=1.5),
        complete=True,
        coverage=Coverage(found=len(ops), scored=len(ops)),
        ops=tuple(ops),
    )


NAMES = [f"{c}.{b}.{o}" for c in ("language", "vision") for b in range(4) for o in "qkd"]
RISING = {name: float(number) for number, name in enumerate(NAMES, start=1)}


def pair(found: Agreement, unit: str, component: str = "all") -> object:
    (one,) = [p for p in found.pairs if (p.unit, p.component) == (unit, component)]
    return one


def test_equal_and_opposite_rankings() -> None:
    falling = {name: -score for name, score in RISING.items()}
    same = agree([report_of(RISING), report_of(RISING)], ["a", "b"])
    other = agree([report_of(RISING), report_of(falling)], ["a", "b"])
    for unit, n in (("op", 24), ("group", 16)):
        for component in ("all", "language", "vision"):
            one, two = pair(same, unit, component), pair(other, unit, component)
            assert one.spearman.value == one.kendall.value == pytest.approx(1)
            if component != "all":
                assert one.n == n / 2
        assert one.top == {} or set(one.top.values())
        assert two.kendall.value is not None
    assert pair(other, "op").spearman.value == pytest.approx(-1)
    assert pair(same, "op").top["10"].value == 1
    assert pair(other, "op").top["10"].value == 0


def test_groups_are_sums_and_only_of_what_both_score() -> None:
    report = report_of(RISING)
    sums = group_scores(report, members_of([report]))
    assert sums["language.0.qk"] == RISING["language.0.q"] + RISING["language.0.k"]
    less = {name: score for name, score in RISING.items() if name != "vision.3.d"}
    found = agree([report, report_of(less)], ["a", "b"])
    assert pair(found, "op").n == 23
    assert found.left_out == {"vision.3.d": ("native:kl #1",)}


def test_a_group_of_which_one_report_lacks_an_op_is_not_compared() -> None:
    whole = report_of(RISING)
    less = report_of({name: score for name, score in RISING.items() if name != "vision.3.q"})
    assert "vision.3.qk" not in group_scores(less, members_of([whole, less]))
    found = agree([whole, less], ["a", "b"])
    assert pair(found, "op").n == len(RISING) - 1
    groups = {op.group for op in whole.ops}
    assert pair(found, "group").n == len(groups) - 1
    assert "vision.3.qk" not in {one.group for one in found.disagreements}


def test_the_largest_disagreement_comes_first_with_what_each_saw() -> None:
    moved = dict(RISING) | {"language.0.d": 100.0}
    found = agree([report_of(RISING), report_of(moved, lens="inc:mse_v2")], ["a", "b"])
    first = found.disagreements[0]
    assert first.group == "language.0.d"
    assert first.places["inc:mse_v2"] == 0
    assert first.scores == {"native:kl": 3.0, "inc:mse_v2": 100.0}
    assert first.raw["inc:mse_v2"] == {"twice": 200.0}
    made = agreement_document(found)
    text = document_markdown(made)
    assert "| `language.0.d` |" in text
    assert "`inc:mse_v2`" in text
    assert "\nlanguage.0.d " in document_text(made)


def test_labels_tell_reports_apart() -> None:
    one = report_of(RISING)
    assert labels_of([one, report_of(RISING, lens="x")]) == ["native:kl", "x"]
    assert labels_of([one, report_of(RISING, base="fallback")]) == [
        "native:kl isolate",
        "native:kl fallback",
    ]
    assert labels_of([one, report_of(RISING, fmt="fp8")]) == [
        "native:kl w8a8",
        "native:kl fp8",
    ]


def test_what_cannot_be_compared_is_told() -> None:
    one = report_of(RISING)
    other = MODEL.model_copy(update={"weights_fingerprint": "2" * 64})
    with pytest.raises(UserError, match="score the same weights"):
        agree([one, report_of(RISING, model=other)], ["a", "b"])
    with pytest.raises(UserError, match="two or more"):
        agree([one], ["a"])
    with pytest.raises(UserError, match="no op in common"):
        agree([one, report_of({"other.0.d": 1.0})], ["a", "b"])


def test_the_command_writes_a_record_and_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    write_artifact(paths[0], report_of(RISING))
    write_artifact(paths[1], report_of(RISING, lens="heuristic:size"))
    out = tmp_path / "agreement.json"
    assert main(["agree", *map(str, paths), "--out", str(out)]) == 0
    assert "heuristic:size" in capsys.readouterr().out
    assert read_artifact(out, Agreement) == agree_files(paths)
    assert "Spearman" in out.with_suffix(".md").read_text()
    assert main(["agree", str(paths[0])]) == 1
    assert "two or more" in capsys.readouterr().err
