"""The command ``agree``."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.commands.reading import DONE, Args, json_path, show

__all__ = ["agree"]


def agree(args: Args) -> int:
    """``quantspectrum agree``."""
    from quantspectrum.agreement import agree_files, agreement_markdown
    from quantspectrum.artifacts import write_artifact, write_text

    out = json_path(args.out) if args.out else None
    found = agree_files([Path(report) for report in args.reports], seed=args.seed)
    text = agreement_markdown(found)
    if out is not None:
        write_artifact(out, found)
        write_text(out.with_suffix(".md"), text)
    show(args, found, text)
    return DONE
