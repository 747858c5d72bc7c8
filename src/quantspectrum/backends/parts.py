"""Parts of models: what a backend writes where it cannot write the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantspectrum.artifacts import WriterNote
from quantspectrum.backends import compressed_tensors
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan

__all__ = ["Part", "bytes_of", "planned", "text_samples", "told_part", "whole"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a backend writes of a model of which it cannot write the whole.

    It takes text alone.

    Attributes:
        components: The components that are written.
        why: Why the others are not, and what writes them, in half a sentence.
    """

    components: tuple[str, ...]
    why: str


def whole(_loaded: Loaded) -> Part | None:
    """What backends have for ``part`` that write every model as a whole."""
    return None


def planned(
    asked: Mapping[str, OpPlan], loaded: Loaded, part: Part | None, backend: str
) -> dict[str, OpPlan]:
    """Those of a profile's plans that are in the part.

    Raises:
        UserError: There are none.
    """
    if part is None:
        return dict(asked)
    component = loaded.layout.component
    found = {op: plan for op, plan in asked.items() if component(op) in part.components}
    if not found:
        raise UserError(
            f"of this model backend {backend} writes {' and '.join(part.components)} alone, and the "
            f"profile quantizes no op there: {part.why}"
        )
    return found


def bytes_of(loaded: Loaded, part: Part | None) -> int:
    """Bytes of the unquantized model, or of the part that is written."""
    if part is None:
        return compressed_tensors.predicted_bytes(loaded, {})
    component = loaded.layout.component
    return sum(
        parameter.numel() * parameter.element_size()
        for name, parameter in loaded.model.named_parameters()
        if component(name) in part.components
    )


def told_part(note: WriterNote, part: Part | None, left_out: Sequence[str]) -> WriterNote:
    """The note with what of the model, and of the profile, the variant holds."""
    if part is None:
        return note
    found = " and ".join(part.components)
    return note.model_copy(
        update={
            "components": part.components,
            "left_out": tuple(left_out),
            "notes": (*note.notes, f"holds {found} alone: {part.why}"),
        }
    )


def text_samples(samples: Sequence[Sample], backend: str, part: Part | None) -> list[Sample]:
    """The samples that a backend can calibrate on: those without a picture, where its part takes text.

    Raises:
        UserError: There are none.
    """
    if part is None:
        return list(samples)
    found = [sample for sample in samples if sample.image is None]
    if not found:
        raise UserError(
            f"of this model backend {backend} writes {' and '.join(part.components)} alone, which is "
            "calibrated on text, and every calibration sample has a picture; give --data text:FILE"
        )
    return found
