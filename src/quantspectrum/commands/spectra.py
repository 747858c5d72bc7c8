"""The command ``spectrum``."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.commands.reading import DONE, Args, json_path, show

__all__ = ["spectrum"]


def spectrum(args: Args) -> int:
    """``quantspectrum spectrum``."""
    from quantspectrum import stages

    out = json_path(args.out)
    made = stages.spectrum(Path(args.report), out, cuts=args.cut or ())
    lines = [
        f"{p.name:<12} {p.groups:>6} {len(p.ops):>6} {p.predicted_damage:>12.4e}"
        for p in made.profiles
    ]
    head = f"{'profile':<12} {'groups':>6} {'ops':>6} {'predicted':>12}"
    show(args, made, "\n".join([head, *lines, "", str(out)]))
    return DONE
