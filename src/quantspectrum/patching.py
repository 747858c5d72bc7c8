"""Replacing a module's forward for a while, and putting back what was there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["replaced_attribute", "replaced_forward"]


@contextmanager
def replaced_attribute(module: nn.Module, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Replace an attribute of the module itself; put back after, also after an exception."""
    attributes = vars(module)
    own = attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if own is None:
            del attributes[name]
        else:
            attributes[name] = own


def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Any:
    """Replace a module's forward."""
    return replaced_attribute(module, "forward", forward)
