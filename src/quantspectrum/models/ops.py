"""Finding a model's ops: which may be quantized, which are kept, which cannot be handled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from quantspectrum.artifacts import Op, OpNote
from quantspectrum.errors import UserError
from quantspectrum.models.adapter import Layout, fused_siblings, group_name
from quantspectrum.models.placement import tied_names
from quantspectrum.models.raw import raw_parameters
from quantspectrum.patterns import NAME_PARTS, best_match, check_patterns, specificity

__all__ = ["OP_TYPES", "OpTable", "list_ops"]

OP_TYPES = ("Linear", "Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True, kw_only=True)
class OpTable:
    """Every op of a model, once: to be scored, kept by a rule, or skipped because it must be."""

    candidates: tuple[Op, ...]
    kept: tuple[OpNote, ...]
    skipped: tuple[OpNote, ...]

    @property
    def found(self) -> int:
        """Number of ops in the model."""
        return len(self.candidates) + len(self.kept) + len(self.skipped)


def list_ops(
    model: nn.Module,
    layout: Layout,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    types: Sequence[str] = ("Linear",),
) -> OpTable:
    """List a model's ops in module order, then the parameters that may be ops of no module.

    By default every ``Linear`` but the output head is a candidate; embeddings and norms are no
    ops. ``include`` limits the candidates to what it matches and can name the head or a
    convolution to bring it in; ``exclude`` takes ops out. Where both match, the more specific
    pattern wins, and ``exclude`` on a tie (see :mod:`quantspectrum.patterns`). Ops a serving
    engine fuses stay together: one left out keeps its siblings out.

    Raises:
        UserError: A pattern matches no op, or a type is unknown.
    """
    for kind in types:
        if kind not in OP_TYPES:
            raise UserError(f"unknown op type {kind!r}; the types are: {', '.join(OP_TYPES)}")
    modules = {name: m for name, m in model.named_modules() if _is_op(m)}
    raw = dict(raw_parameters(model, modules))
    check_patterns([*modules, *raw], [*include, *exclude])
    tied = _tied_parameters(model)
    candidates: dict[str, nn.Module] = {}
    kept: list[OpNote] = []
    skipped: list[OpNote] = []
    for name, module in modules.items():
        if reason := _unsupported(name, module, tied):
            skipped.append(_note(name, module, layout, reason))
        elif reason := _kept_reason(name, module, layout, include, exclude, types):
            kept.append(_note(name, module, layout, reason))
        else:
            candidates[name] = module
    for name, module in list(candidates.items()):
        left_out = [s for s in fused_siblings(name, layout)[1] if s in modules]
        left_out = [s for s in left_out if s not in candidates]
        if left_out:
            reason = f"a serving engine fuses it with {left_out[0]}, which is not quantized"
            kept.append(_note(name, module, layout, reason))
    skipped += [_note(name, None, layout, reason) for name, reason in raw.items()]
    fused_out = {note.name for note in kept}
    ops = [_op(n, m, layout) for n, m in candidates.items() if n not in fused_out]
    return OpTable(candidates=tuple(ops), kept=tuple(kept), skipped=tuple(skipped))


def _is_op(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Conv1D)


def _tied_parameters(model: nn.Module) -> set[str]:
    """Names of parameters that share their values with another module's."""
    tied = tied_names(model)
    held = Counter(tied.values())
    return {name for name, first in tied.items() if held[first] > 1}


def _unsupported(name: str, module: nn.Module, tied: set[str]) -> str | None:
    if isinstance(module, Conv1D):
        return "its weight is stored transposed (transformers Conv1D), which no format here covers"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    if f"{name}.weight" in tied:
        return "its weight is tied to another module's"
    plain = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not any(type(module).forward is kind.forward for kind in plain):
        return f"{type(module).__name__} computes its output in its own way"
    return None


def _kept_reason(
    name: str,
    module: nn.Module,
    layout: Layout,
    include: Sequence[str],
    exclude: Sequence[str],
    types: Sequence[str],
) -> str | None:
    included = best_match(name, include)
    excluded = best_match(name, exclude)
    wanted = specificity(name, include[included]) if included is not None else 0
    unwanted = specificity(name, exclude[excluded]) if excluded is not None else 0
    if unwanted and unwanted >= wanted:
        return f"excluded by {exclude[excluded or 0]!r}"
    if include and not wanted:
        return "not included"
    # Only a pattern that ends where the op's name ends names the op itself, and not its parent.
    asked_for = wanted >= NAME_PARTS and f".{name}".endswith(f".{include[included or 0]}")
    if name == layout.head and not asked_for:
        return "the output head stays in high precision unless included by name"
    if _op_type(module) not in types and not asked_for:
        return f"{_op_type(module)} stays in high precision unless its type is asked for"
    return None


def _op_type(module: nn.Module) -> str:
    return next(t for t in OP_TYPES if isinstance(module, getattr(nn, t)))


def _note(name: str, module: nn.Module | None, layout: Layout, reason: str) -> OpNote:
    return OpNote(
        name=name,
        type=type(module).__name__ if module is not None else "Parameter",
        reason=reason,
        component=layout.component(name),
        block=layout.block(name),
    )


def _op(name: str, module: nn.Module, layout: Layout) -> Op:
    return Op(
        name=name,
        type=_op_type(module),
        component=layout.component(name),
        block=layout.block(name),
        group=group_name(name, layout),
        shape=tuple(module.get_parameter("weight").shape),
        params=sum(p.numel() for p in module.parameters(recurse=False)),
    )
