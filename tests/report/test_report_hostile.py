"""Nothing in the data can become markup, script, a link or a request, in either report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_runs as runs
from hypothesis import given
from hypothesis import strategies as st
from report_pages import HOSTILE, markdown_page, parse

from quantspectrum.artifacts import (
    Coverage,
    OpNote,
    PromptResult,
    Provenance,
    StageState,
    write_artifact,
)
from quantspectrum.report import sensitivity_markdown, write_report
from quantspectrum.report.html import script_json
from quantspectrum.report.markdown import code_block, inert
from quantspectrum.report.prompts import Answer, PromptBlock, compare_words, prompts_sentence

PROFILE = "<img src=x onerror=alert(1)>|`**b**"


def provenance() -> Provenance:
    model = runs.MODEL.model_copy(
        update={"id": HOSTILE, "revision": HOSTILE, "model_type": HOSTILE, "dtype": HOSTILE}
    )
    environment = runs.ENVIRONMENT.model_copy(
        update={"device_name": HOSTILE, "platform": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    )
    data = runs.data().model_copy(update={"source": HOSTILE})
    return runs.provenance(data, model=model, environment=environment, created=HOSTILE)


def write_hostile_run(run: Path) -> Path:
    """Every text a record can hold is hostile."""
    ops = [runs.op(f"{HOSTILE}{i}", HOSTILE, i if i else None, HOSTILE, (1,)) for i in range(3)] + [
        runs.op(f"a.{i}.{HOSTILE}", f"c{HOSTILE}", i, HOSTILE, (1,)) for i in range(3)
    ]
    notes = (OpNote(name=f"a.9.{HOSTILE}", type=HOSTILE, reason=HOSTILE, component=HOSTILE),)
    engine = runs.ENGINE.model_copy(
        update={
            "replay": False,
            "whole_because": HOSTILE,
            "captured_bytes": {HOSTILE: 1},
            "seconds": {HOSTILE: 1.0},
        }
    )
    made = runs.report(ops)
    made = runs.detailed(
        made,
        estimated=2,
        lens=HOSTILE,
        complete=False,
        stopped_by=HOSTILE,
        estimator=HOSTILE,
        engine=engine,
        rescored=runs.rescored(made, 2, [4, 1, 2, 3]),
        provenance=provenance(),
        coverage=Coverage(found=8, scored=6, estimated=2, kept=notes, skipped=notes),
    )
    prompts = tuple(
        PromptResult(
            id=HOSTILE + str(i), prompt=HOSTILE, output=HOSTILE, reference=HOSTILE, image=uri
        )
        for i, uri in enumerate(
            (
                "javascript:alert(1)",
                "data:text/html;base64,PHNjcmlwdD4=",
                "data:image/svg+xml;base64,PHN2Zz4=",
                'data:image/png;base64,AAAA" onerror="alert(1)',
                "data:image/png;base64,AAAA\n",
                "http://evil.example/x.png",
            )
        )
    )
    request = {"model": HOSTILE, HOSTILE: HOSTILE, "data": [HOSTILE, "```"]}
    stages = {HOSTILE: StageState(state="failed", error=HOSTILE), "x": StageState(state="pending")}
    write_artifact(run / "run.json", runs.run_record(request=request, stages=stages))
    before = runs.evaluation("baseline", prompts=prompts, provenance=provenance())
    after = runs.evaluation(
        HOSTILE,
        0.001,
        provenance=provenance(),
        prompts=tuple(p.model_copy(update={"output": "</p>" + HOSTILE}) for p in prompts),
    )
    spectrum = runs.spectrum(made)
    profile = spectrum.profiles[-1].model_copy(update={"name": PROFILE})
    spectrum = spectrum.model_copy(
        update={"profiles": (profile,), "model": provenance().model, "lens": HOSTILE}
    )
    write_artifact(run / "baseline" / "evaluation.json", before)
    write_artifact(run / "evaluations" / f"{PROFILE}.json", after)
    write_artifact(run / "sensitivity" / f"{PROFILE}.json", made)
    write_artifact(run / "sensitivity" / "second.json", made)
    write_artifact(run / "spectrum.json", spectrum)
    write_artifact(run / "variants" / PROFILE / "manifest.json", runs.manifest(profile, 5_000_000))
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_hostile_run(tmp_path_factory.mktemp("hostile") / "run")
    write_report(run)
    return run


def test_the_page_has_the_tags_it_would_have_without(hostile: Path, reported: Path) -> None:
    page = parse((hostile / "report.html").read_text(encoding="utf-8"))
    tame = parse((reported / "report.html").read_text(encoding="utf-8"))
    assert page.names() - tame.names() <= {"em"}
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert [tag for tag, _ in page.tags].count("style") == 1
    # No picture of the hostile ones is let through, and no handler is set.
    assert page.attributes("src") == []
    known = {name for _, attrs in tame.tags for name in attrs}
    assert {name for _, attrs in page.tags for name in attrs} <= known
    assert not [name for name in known if name.startswith("on")]
    assert "<script>document.title='PWNED'</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    # Every new place a text can come from is there: none was left out to be safe.
    for said in ("estimated (<script>", "Ranked again with 2 ops", "because <script>"):
        assert said in page.text


def test_scripts_are_ours_and_the_figures_survive(hostile: Path, reported: Path) -> None:
    page = parse((hostile / "report.html").read_text(encoding="utf-8"))
    tame = parse((reported / "report.html").read_text(encoding="utf-8"))
    figures = page.scripts[0]
    assert not set("<>&\u2028\u2029") & set(figures)
    assert {"tradeoff", "ranking-0", "damage-0"} <= set(json.loads(figures)["figures"])
    assert page.scripts[1:] == tame.scripts[1:]


def test_markdown_stays_text(hostile: Path) -> None:
    text = (hostile / "report.md").read_text(encoding="utf-8")
    page = markdown_page(text)
    allowed = {"h1", "h2", "h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    allowed |= {"code", "pre", "blockquote", "details", "summary", "mark", "del", "em"}
    assert page.names() <= allowed
    assert {name for _, attrs in page.tags for name in attrs} <= {"style", "class"}
    assert "<img src=x onerror=alert(1)>" in page.text
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_every_markdown_row_has_as_many_cells_as_its_head(hostile: Path) -> None:
    text = (hostile / "report.md").read_text(encoding="utf-8")
    for page in (text, sensitivity_markdown(runs.report())):
        width = None
        for line in page.splitlines():
            if not line.startswith("| "):
                width = None
                continue
            cells = line.replace("\\\\", "").replace("\\|", "").count("|") - 1
            width = width or cells
            assert cells == width, line


def test_the_sensitivity_report_stays_text(hostile: Path) -> None:
    from quantspectrum.report.inputs import read_run

    report = next(iter(read_run(hostile).reports.values()))
    page = markdown_page(sensitivity_markdown(report))
    allowed = {"h1", "h2", "p", "strong", "blockquote", "code"}
    assert page.names() <= allowed | {"table", "thead", "tbody", "tr", "th", "td"}


@given(st.text())
def test_inert_text_renders_as_itself(text: str) -> None:
    page = markdown_page(f"x {inert(text)} x")
    assert page.names() == {"p"}
    shown = "".join(c for c in " ".join(text.split()) if c.isprintable())
    assert " ".join(page.text.split()) == " ".join(f"x {shown} x".split())


@given(st.text(alphabet="`a\n~", max_size=20))
def test_a_code_block_holds_its_text(text: str) -> None:
    page = markdown_page(code_block(text) + "\n\nafter")
    assert page.names() == {"pre", "code", "p"}
    assert page.text.rstrip().endswith("after")


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_survives_and_ends_nothing(value: object) -> None:
    text = str(script_json(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


@given(st.text(alphabet="ab \n\u00a0", max_size=30), st.text(alphabet="ab \n\u00a0", max_size=30))
def test_pieces_of_an_answer_join_to_the_answer(before: str, after: str) -> None:
    pieces = compare_words(before, after)
    assert "".join(p.text for p in pieces if p.state != "gone") == after
    kept = " ".join(" ".join(p.text for p in pieces if p.state == "same").split())
    if before.split() == after.split():
        assert kept == " ".join(after.split())
        assert all(p.state == "same" for p in pieces)


def test_marked_words_by_hand() -> None:
    pieces = compare_words("a red dog runs", "a blue dog  runs fast")
    assert [(p.text, p.state) for p in pieces] == [
        ("a", "same"),
        (" ", "same"),
        ("blue", "changed"),
        (" dog  runs", "same"),
        (" ", "same"),
        ("fast", "changed"),
    ]
    gone = compare_words("a red dog", "a dog")
    assert [(p.text, p.state) for p in gone] == [
        ("a", "same"),
        ("red", "gone"),
        (" dog", "same"),
    ]


def test_prompts_that_changed_are_counted_and_the_same_are_named() -> None:
    def block(*changed: bool) -> PromptBlock:
        answers = tuple(
            Answer(label=name, pieces=(), changed=change)
            for name, change in zip(("mild", "max"), changed, strict=True)
        )
        before = Answer(label="baseline", pieces=(), changed=None)
        return PromptBlock(
            id="p", prompt="?", reference=None, image=None, note=None, answers=(before, *answers)
        )

    blocks = [block(False, False), block(False, True)]
    assert blocks[1].same == ("mild",)
    assert prompts_sentence(blocks) == "Answers that changed: mild 0 of 2, max 1 of 2."
    assert prompts_sentence(blocks[:1]) == "No profile changes an answer to any of 1 prompt."
    assert prompts_sentence([]) == "There is nothing to compare the answers with."
