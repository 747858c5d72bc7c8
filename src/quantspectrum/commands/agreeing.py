"""Commands over rankings: ``agree`` and ``truth``."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.commands.reading import DONE, Args, json_path, show
from quantspectrum.progress import Reporter

__all__ = ["agree", "truth"]


def agree(args: Args) -> int:
    """``quantspectrum agree``."""
    from quantspectrum.agreement import agree_files
    from quantspectrum.artifacts import write_artifact, write_text
    from quantspectrum.report.agreements import agreement_document
    from quantspectrum.report.markdown import document_markdown
    from quantspectrum.report.tables import document_text

    out = json_path(args.out) if args.out else None
    found = agree_files([Path(report) for report in args.reports], seed=args.seed)
    made = agreement_document(found)
    if out is not None:
        write_artifact(out, found)
        write_text(out.with_suffix(".md"), document_markdown(made))
    show(args, found, document_text(made))
    return DONE


def truth(args: Args) -> int:
    """``quantspectrum truth``."""
    from quantspectrum import stages
    from quantspectrum.artifacts import RunRecord, read_artifact
    from quantspectrum.models.loading import ModelSpec, load_model
    from quantspectrum.report.tables import document_text
    from quantspectrum.report.truth import truth_document

    run = Path(args.run)
    asked = read_artifact(run / "run.json", RunRecord).request
    reports = sorted((run / "sensitivity").glob("*.json"))
    reporter = Reporter(args.quiet)
    out = json_path(args.out) if args.out else run / "truth.json"
    found = stages.truth(
        load_model(ModelSpec(**{k: asked[k] for k in ModelSpec.__dataclass_fields__})),
        [*reports, *(Path(report) for report in args.report or ())],
        out,
        data=stages.DataRequest(**{k: asked[k] for k in stages.DataRequest.model_fields}),
        ops=stages.OpsRequest(**{k: asked[k] for k in stages.OpsRequest.model_fields}),
        format_name=args.format,
        progress=lambda steps: reporter.progress("truth", steps),
    )
    show(args, found, f"{document_text(truth_document(found))}\n\n{out}")
    return DONE
