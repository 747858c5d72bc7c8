"""report.html: one file, no network, inert to whatever the data says.

Every text passes Jinja's escaping; figures travel as JSON in which no ``<``, ``>`` or ``&`` is
left; the page's policy runs only the scripts whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from quantspectrum.report import prose, provenance, variants
from quantspectrum.report.comparison import Comparison
from quantspectrum.report.further import NO_CHECKS, agreement_view, check_views
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.op_pages import histograms_note, op_ids, op_pages
from quantspectrum.report.overview import overview_table
from quantspectrum.report.prompts import prompt_blocks, prompts_sentence
from quantspectrum.report.recommendation import grounds, recommend
from quantspectrum.report.theme import DARK
from quantspectrum.report.views import ROWS_FIRST, coverage_views, lens_views, tradeoff_view

__all__ = ["no_break", "page_parts", "render_html", "script_json", "template"]

_PERCENT = re.compile(r"(\d) %")

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(files: RunFiles, comparison: Comparison) -> str:
    """Render the whole page; the same records give the same bytes."""
    tradeoff, lenses = tradeoff_view(comparison), lens_views(files)
    places, prompts = op_ids(files), prompt_blocks(files)
    agreement, checked = agreement_view(files), check_views(files)
    views = [tradeoff, *(view for lens in lenses for view in lens.figures), agreement, *checked]
    return template("report.html.j2").render(
        **page_parts(),
        figures=script_json(
            {
                "dark": DARK,
                "places": places,
                "ops": op_pages(files),
                "figures": {v.id: v.figure for v in views if v.figure},
            }
        ),
        max_rows=ROWS_FIRST,
        op_ids=places,
        agreement=agreement,
        checked=checked,
        no_checks=NO_CHECKS if files.guard is None else "",
        histograms_note=histograms_note(files),
        title=prose.title(comparison),
        model=prose.model_sentence(comparison),
        recommendation=recommend(comparison),
        grounds=grounds(comparison),
        warnings=prose.warnings(files),
        tradeoff=tradeoff,
        variants=variants.variant_tables(comparison),
        variant_notes=prose.variant_notes(comparison),
        emulated=prose.emulated_note(comparison),
        overview=overview_table(files.reports, files.source),
        lenses=lenses,
        covered=coverage_views(files),
        no_lens=prose.NO_REPORT,
        prompts=prompts,
        prompts_found=prompts_sentence(prompts),
        no_prompts=prose.NO_PROMPTS,
        latency=variants.LATENCY,
        again=prose.AGAIN,
        command=provenance.command_line(files.run),
        origin=(
            provenance.stages_table(files.run),
            provenance.environment_table(files.run.environment),
            provenance.provenance_table(files),
        ),
    )


def page_parts() -> dict[str, Any]:
    """What every page carries: policy, style, Plotly and the script."""
    library, script = get_plotlyjs(), (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    return {
        "policy": policy(library, script),
        "style": Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "library": Markup(library),
        "script": Markup(script),
    }


def template(name: str) -> Template:
    """A template that escapes every text, and fails on what it is not given."""
    environment = Environment(
        finalize=no_break,
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Texts that must stay as they are: what a model answered, and what a shell is to read.
    environment.filters["literal"] = escape
    return environment.get_template(name)


def no_break(value: Any) -> Any:
    """A text in which no per cent sign wraps away from its number; markup is left as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _PERCENT.sub("\\1\u00a0%", value)


def policy(*scripts: str) -> str:
    """Content security policy: nothing but these scripts, inline styles and data: pictures."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> Markup:
    """JSON that may stand inside ``<script>``: no tag, comment or line separator can end it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
