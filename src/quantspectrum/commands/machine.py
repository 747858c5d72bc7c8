"""The command ``doctor``."""

from __future__ import annotations

from quantspectrum.commands.reading import DONE, Args
from quantspectrum.progress import Reporter

__all__ = ["doctor"]


def doctor(args: Args) -> int:
    """``quantspectrum doctor``."""
    from quantspectrum.doctor import examine

    if args.install:
        from quantspectrum.isolation import install_environment

        for name in args.install:
            install_environment(name, say=Reporter(args.quiet).say)
    findings = examine()
    if args.json:
        import json

        print(json.dumps([finding.model_dump() for finding in findings], indent=1))
        return DONE
    for finding in findings:
        mark = "ok " if finding.works else "-- "
        print(f"{mark} {finding.kind:<11} {finding.name:<22} {finding.detail}")
    return DONE
