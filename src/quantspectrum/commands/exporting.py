"""The command ``export``."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.commands.reading import DONE, Args

__all__ = ["export"]


def export(args: Args) -> int:
    """``quantspectrum export``."""
    from quantspectrum.spectrum.exporters import export_profile

    out = Path(args.out)
    assignment, text = export_profile(
        Path(args.spectrum),
        args.profile,
        args.to,
        out,
        report=None if args.report is None else Path(args.report),
        onnx=None if args.onnx is None else Path(args.onnx),
        components=tuple(args.component or ()),
    )
    told = f"{out}: {args.to}, {len(assignment.ops)} ops quantized, {len(assignment.kept)} kept"
    print(text if args.json else told)
    return DONE
