"""What scores the ops of a model: the native engine, other frameworks, rules of thumb, files.

A lens that is not native is a function from a :class:`~quantspectrum.lenses.request.LensRequest` to
:class:`~quantspectrum.lenses.request.LensScores`. A new one is one file with an entry in
:data:`LENSES`; it is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from quantspectrum.errors import UserError
from quantspectrum.lenses.request import Lens

__all__ = ["LENSES", "lens_named"]

LENSES: Mapping[str, str] = {
    "inc:hawq_v2": "quantspectrum.lenses.inc:HAWQ_V2",
    "inc:mse_v2": "quantspectrum.lenses.inc:MSE_V2",
    "inc:tune": "quantspectrum.lenses.inc:TUNE",
    "heuristic:down-proj": "quantspectrum.lenses.heuristic:DOWN_PROJ",
    "heuristic:ends": "quantspectrum.lenses.heuristic:ENDS",
    "heuristic:range": "quantspectrum.lenses.heuristic:RANGE",
    "heuristic:size": "quantspectrum.lenses.heuristic:SIZE",
    "autoround:scheme": "quantspectrum.lenses.autoround:SCHEME",
    "modelopt:gradient": "quantspectrum.lenses.modelopt:GRADIENT",
    "modelopt:kl_div": "quantspectrum.lenses.modelopt:KL_DIV",
}
"""Name of a lens to where it is, as ``module:name``."""


def lens_named(name: str) -> Lens:
    """Return the lens of that name; ``native:METRIC`` is none of these.

    Raises:
        UserError: There is none; the message lists those there are.
    """
    kind, _, rest = name.partition(":")
    if kind == "import" and rest:
        from quantspectrum.lenses.imported import ImportedLens

        return ImportedLens(file=Path(rest))
    if name not in LENSES:
        known = ", ".join(["native:METRIC", *sorted(LENSES), "import:FILE"])
        raise UserError(f"unknown lens {name!r}; the lenses are: {known}")
    module, _, attribute = LENSES[name].partition(":")
    lens: Lens = getattr(import_module(module), attribute)
    return lens
