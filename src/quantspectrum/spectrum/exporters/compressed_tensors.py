"""compressed-tensors: the ``quantization_config`` that stands in a checkpoint's ``config.json``.

Names are those of the modules once the model is loaded, which transformers matches as they are and
vLLM maps to its own, for Qwen2.5-VL too (:mod:`quantspectrum.quantization_config`).
"""

from __future__ import annotations

import json

from quantspectrum.quantization_config import quantization_config
from quantspectrum.spectrum.exporters.assignment import Assignment, only_types

__all__ = ["SUFFIX", "TARGET", "export"]

TARGET = "compressed-tensors"
SUFFIX = ".json"


def export(assignment: Assignment) -> str:
    """The ``quantization_config`` as JSON.

    Raises:
        UserError: The format of checkpoints has no spelling for a format of the profile, or the
            Linears that are no candidates are not known.
    """
    only_types(assignment, TARGET, ("Linear",))
    ops = {op.name: op.format.name for op in assignment.ops}
    config = quantization_config(
        [*ops, *assignment.kept_linears(TARGET)],
        ops,
        assignment.formats,
        in_features={op.name: op.shape[1] for op in assignment.ops},
    )
    return json.dumps(config, indent=1) + "\n"
