"""Calling models of any kind alike."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quantspectrum.errors import UserError

__all__ = ["call_options", "output_of", "run_model"]


def run_model(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """A model's forward pass and what it predicts; see :func:`output_of`."""
    return output_of(model(**inputs, **call_options(model)))


def call_options(model: nn.Module) -> dict[str, Any]:
    """Options of a forward pass that is not continued: no cache, for models that know of one."""
    known = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in known else {}


def output_of(result: Any) -> Tensor:
    """What a model predicts: its logits, else the first floating-point tensor it gives.

    Raises:
        UserError: It gives none.
    """
    logits = getattr(result, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    values = result.values() if isinstance(result, Mapping) else result
    for value in (values,) if isinstance(values, Tensor) else values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise UserError("the model gives no tensor of numbers, so nothing can be compared")
