"""What the score of each lens says: the quantity, its unit, and what its error is taken over."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Quantity", "quantity_of", "with_unit"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a score says.

    Attributes:
        says: The quantity in words; empty where the lens is not known here.
        unit: Its unit, for axes and column heads; empty where it is not known.
        over: What ``n`` counts and the standard error is over.
        at_once: The scores of all ops come from a few passes, and no op is replayed.
    """

    says: str = ""
    unit: str = ""
    over: str = "samples"
    at_once: bool = False


_NATIVE = {
    "mse_v2": Quantity(says="squared error of the output", unit="relative squared error"),
    "kl": Quantity(
        says="KL divergence of the next-token distribution from the baseline's",
        unit="nats per token",
    ),
    "nll": Quantity(says="change of the loss", unit="nats per token"),
    "visibility": Quantity(
        says="how much of the op's quantization error the loss can see",
        unit="nats per token",
        at_once=True,
    ),
    "sqnr": Quantity(
        says="noise that quantization adds to the op's own output",
        unit="noise to signal",
        at_once=True,
    ),
    "hawq_v2": Quantity(
        says="average Hessian trace times squared weight perturbation",
        unit="loss",
        over="random probes",
        at_once=True,
    ),
}


def quantity_of(lens: str) -> Quantity:
    """What the scores of a lens say; a lens of another framework has a unit of its own."""
    framework, _, metric = lens.partition(":")
    return _NATIVE.get(metric, Quantity()) if framework == "native" else Quantity()


def with_unit(title: str, lens: str) -> str:
    """A heading with the unit of the lens's scores: ``Score (nats per token)``."""
    unit = quantity_of(lens).unit
    return f"{title} ({unit})" if unit else title
