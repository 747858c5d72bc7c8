"""report.md: the report for a repository, with every text from data made inert."""

from __future__ import annotations

import re
from collections.abc import Iterable

from quantspectrum.artifacts import SensitivityReport
from quantspectrum.report import coverage, damage, prose, provenance, ranking, rescored, variants
from quantspectrum.report.comparison import Comparison
from quantspectrum.report.engine import engine_table
from quantspectrum.report.further import NO_CHECKS, agreement_view, check_views
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import plural
from quantspectrum.report.overview import overview_table
from quantspectrum.report.parts import parts_sentence
from quantspectrum.report.prompts import Answer, PromptBlock, prompt_blocks, prompts_sentence
from quantspectrum.report.recommendation import grounds, recommend
from quantspectrum.report.tables import Column, Document, Table

__all__ = ["document_markdown", "inert", "markdown_table", "render_markdown", "second_ranking"]

_SHORT = 20
"""Rows of a ranking that are always shown; the whole of it folds away."""

_PLAIN_NAME = re.compile(r"[\w.\-/:*@]+", re.ASCII)

_MARKS = {"same": ("", ""), "changed": ("<mark>", "</mark>"), "gone": ("<del>", "</del>")}


def inert(text: str) -> str:
    """Text on one line that no Markdown renderer reads as markup, HTML or a link."""
    line = " ".join(text.split())
    line = "".join(character for character in line if character.isprintable())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", line)
    return re.sub(r"://|(?<=www)\.", lambda match: f"&#{ord(match[0][0])};{match[0][1:]}", line)


def markdown_table(table: Table, rows: int | None = None) -> str:
    """Pipe table under its caption, numbers aligned right; the first ``rows`` rows of it."""
    lines = [
        _line(inert(column.title) for column in table.columns),
        _line("---:" if column.kind == "number" else "---" for column in table.columns),
        *(
            _line(_cell(cell, column) for cell, column in zip(row, table.columns, strict=True))
            for row in table.rows[:rows]
        ),
    ]
    return f"{inert(table.caption)}\n\n" + "\n".join(lines)


def document_markdown(made: Document) -> str:
    """A document as a Markdown file."""
    parts = [f"# {inert(made.title)}", *(inert(said) for said in made.sentences)]
    for heading, table in made.tables:
        parts += [f"## {inert(heading)}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def folded(summary: str, text: str) -> str:
    """Text behind a line that opens it."""
    return f"<details><summary>{inert(summary)}</summary>\n\n{text}\n\n</details>"


def code_block(text: str) -> str:
    """Fenced code whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str, column: Column) -> str:
    if column.kind == "name" and _PLAIN_NAME.fullmatch(text):
        return f"`{text}`"
    return inert(text)


def render_markdown(files: RunFiles, comparison: Comparison) -> str:
    """Render the whole of report.md; the same records give the same bytes."""
    parts = [
        f"# Quantization spectrum: {inert(prose.title(comparison))}",
        inert(prose.model_sentence(comparison)),
        f"**{inert(recommend(comparison))}**",
        *(inert(said) for said in (grounds(comparison),) if said),
        *(f"> **Warning.** {inert(said)}" for said in prose.warnings(files)),
        "## Sensitivity",
        *_sensitivity(files),
        "## Agreement and checks",
        *_checks(files),
        "## Variants",
        *_variants(comparison),
        "## Prompts",
        *_prompts(prompt_blocks(files)),
        "## Environment and how to repeat it",
        prose.AGAIN,
        code_block(provenance.command_line(files.run)),
        markdown_table(provenance.stages_table(files.run)),
        folded("Environment", markdown_table(provenance.environment_table(files.run.environment))),
        folded("Records", markdown_table(provenance.provenance_table(files))),
    ]
    return "\n\n".join(parts) + "\n"


def _checks(files: RunFiles) -> Iterable[str]:
    """Agreement of the lenses, and whether the ranking earned its profiles."""
    agreement = agreement_view(files)
    for view in (agreement, *check_views(files)):
        yield f"### {view.title}"
        if view.caption and view is not agreement:
            yield inert(view.caption)
        if view.figure is None and view.missing:
            yield inert(view.missing)
        yield from (markdown_table(table) for table in view.tables)
    if files.guard is None:
        yield NO_CHECKS


def _variants(comparison: Comparison) -> Iterable[str]:
    yield from (inert(note) for note in prose.variant_notes(comparison))
    for heading, table in variants.variant_tables(comparison):
        yield f"### {heading}"
        if heading == variants.LATENCY and prose.emulated_note(comparison):
            yield f"> **{inert(prose.emulated_note(comparison))}**"
        yield markdown_table(table)


def _sensitivity(files: RunFiles) -> Iterable[str]:
    if not files.reports:
        yield prose.NO_REPORT
    overview = overview_table(files.reports, files.source)
    if overview is not None:
        yield markdown_table(overview)
    for number, (name, report) in enumerate(files.reports.items()):
        yield f"### {inert(name)}"
        said = inert(coverage.coverage_sentence(report))
        yield said if coverage.is_whole(report) else f"> **{said}**"
        yield inert(ranking.header_sentence(report))
        if not report.ops:
            yield prose.NOTHING_SCORED
            continue
        yield from _ranking(files, name, report, whole=number == 0)
        yield from _unscored(report, whole=number == 0)
        yield from second_ranking(report, whole=False)
        engine = engine_table(report)
        if engine is not None:
            yield folded("How it was measured", markdown_table(engine))


def _ranking(
    files: RunFiles, name: str, report: SensitivityReport, *, whole: bool
) -> Iterable[str]:
    """The ranking's first rows; all of them for one report, as the others have files of their own."""
    if ties := ranking.ties_sentence(report):
        yield inert(ties)
    if said := parts_sentence(report):
        yield inert(said)
    parts = coverage.components_table(report)
    if parts is not None:
        yield markdown_table(parts)
    table = ranking.ranking_table(report)
    yield markdown_table(table, _SHORT)
    if len(table.rows) > _SHORT:
        scored = f"All {plural(len(table.rows), 'scored op')}"
        elsewhere = f"{scored} are in sensitivity/{name}.md."
        yield folded(scored, markdown_table(table)) if whole else inert(elsewhere)
    spectrum = files.spectrum_of(name)
    curve = damage.damage_curve(report, spectrum)
    cuts = damage.cut_table(curve, spectrum, report.lens)
    if cuts is not None:
        yield markdown_table(cuts)


def _unscored(report: SensitivityReport, *, whole: bool) -> Iterable[str]:
    reasons = coverage.reasons_table(report)
    if reasons is not None:
        yield markdown_table(reasons)
    if reasons is not None and whole:
        unscored = coverage.coverage_table(report)
        yield folded(
            f"{plural(len(unscored.rows), 'op')} without a score", markdown_table(unscored)
        )


def second_ranking(report: SensitivityReport, *, whole: bool) -> Iterable[str]:
    """What the second ranking says, and the ops that moved most; ``whole`` lists all of it."""
    said = rescored.rescored_sentences(report)
    if not said:
        return
    yield inert(said)
    tables = [rescored.moved_table(report)]
    tables += [rescored.rescored_table(report)] if whole else []
    yield from (markdown_table(table) for table in tables if table is not None)


def _prompts(blocks: list[PromptBlock]) -> Iterable[str]:
    if not blocks:
        yield prose.NO_PROMPTS
        return
    yield inert(prompts_sentence(blocks))
    yield prose.PROMPTS + " Pictures are in report.html."
    for block in blocks:
        yield f"### {inert(block.id)}"
        yield f"Prompt: {inert(block.prompt)}"
        if block.reference:
            yield f"Reference: {inert(block.reference)}"
        lines = [_line(("Profile", "Answer")), _line(("---", "---"))]
        shown = (answer for answer in block.answers if answer.changed is not False)
        lines += [_line((inert(answer.label), _answer(answer))) for answer in shown]
        yield "\n".join(lines)
        if block.same:
            yield inert(f"Word for word the same: {', '.join(block.same)}.")


def _answer(answer: Answer) -> str:
    marked = (
        f"{before}{inert(piece.text)}{after}"
        for piece in answer.pieces
        if piece.text.strip()
        for before, after in (_MARKS[piece.state],)
    )
    return " ".join(marked) or "*empty answer*"
