"""RMS norms, gated MLPs and rotary embeddings of any decoder in one pass each, where they are known.

Only on a GPU, and only where nothing asks for gradients. A class is recognised by its parts, and believed
only after its own forward and the fused one agreed on random input: a norm that adds one to its weight,
say, is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from quantspectrum import kernels
from quantspectrum.kernels.layers import LONGEST_ROW, rms_norm, rotary, swiglu
from quantspectrum.models.placement import execution_device, inner_forward_slot, is_placed
from quantspectrum.patching import replaced_attribute

__all__ = ["faster_decoder"]

CLOSE = 0.01
"""Largest accepted distance of the fused result from the module's own, relative L2."""

ROTARY = "apply_rotary_pos_emb"


@contextmanager
def faster_decoder(model: nn.Module) -> Iterator[None]:
    """Compute a model's norms, gated MLPs and rotary embeddings in one pass each while entered."""
    with ExitStack() as stack:
        for module, name, fused in _replacements(model):
            stack.enter_context(replaced_attribute(module, name, fused))
        yield


@torch.no_grad()
def _replacements(model: nn.Module) -> list[tuple[object, str, Callable[..., Any]]]:
    # Offloaded weights are not at hand to try anything on.
    if is_placed(model):
        return []
    known: dict[type, bool] = {}
    found: list[tuple[object, str, Callable[..., Any]]] = []
    for module in model.modules():
        fused = _fused(module)
        if fused is None:
            continue
        kind = type(module)
        if kind not in known:
            known[kind] = _agrees(module, fused)
        if known[kind]:
            found.append((module, inner_forward_slot(module), fused))
    for family in {sys.modules[type(module).__module__] for module in model.modules()}:
        own = getattr(family, ROTARY, None)
        if own is not None and _rotates_halves(own, execution_device(model)):
            found.append((family, ROTARY, _fused_rotary(own)))
    return found


def _fused(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The fused forward of a module that looks like a norm or a gated MLP."""
    weight = module._parameters.get("weight")
    eps = getattr(module, "variance_epsilon", None)
    own: Any = module.forward
    if weight is not None and weight.ndim == 1 and isinstance(eps, float):
        scale = weight

        def norm(x: Tensor) -> Tensor:
            fits = x.dtype == scale.dtype and x.shape[-1] <= LONGEST_ROW
            return rms_norm(x, scale, eps) if fits and kernels.takes(x) else own(x)

        return norm if kernels.takes(weight.detach()) else None
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    activation = getattr(module, "act_fn", None)
    if not all(isinstance(part, nn.Linear) for part in parts) or activation is None:
        return None
    gate, up, down = parts
    assert gate is not None
    assert up is not None
    assert down is not None

    def mlp(x: Tensor) -> Any:
        if not kernels.takes(x):
            return own(x)
        opened, other = gate(x), up(x)
        return down(swiglu(opened, other) if kernels.takes(opened) else silu(opened) * other)

    return mlp if kernels.takes(gate.weight.detach()) else None


def _agrees(module: nn.Module, fused: Callable[[Tensor], Tensor]) -> bool:
    """Whether both forwards give the same on random input."""
    weight = next(module.parameters())
    size = weight.shape[-1]
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(3, 5, size, generator=generator, device=weight.device).to(weight.dtype)
    return _close(fused(x), module.forward(x))


def _rotates_halves(own: Callable[..., Any], device: torch.device) -> bool:
    """Whether a function rotates queries and keys as Llama's does."""
    if device.type != "cuda":
        return False
    generator = torch.Generator(device).manual_seed(0)
    q, k = (
        torch.randn(2, heads, 3, 8, generator=generator, device=device).bfloat16()
        for heads in (2, 1)
    )
    tables = torch.randn(2, 2, 3, 8, generator=generator, device=device).bfloat16()
    try:
        expected = own(q, k, *tables)
    # Some families' functions take other arguments; those are not the one that is known here.
    except TypeError:
        return False
    return all(
        _close(found, wanted)
        for found, wanted in zip(_fused_rotary(own)(q, k, *tables), expected, strict=True)
    )


def _fused_rotary(own: Callable[..., Any]) -> Callable[..., Any]:
    def apply(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        states = (q, k)
        known = not args and not kwargs and cos.ndim == 3 and cos.dtype == q.dtype
        fits = all(kernels.takes(x) and x.ndim == 4 and x.stride(-1) == 1 for x in states)
        if not known or not fits or cos.shape[-1] != q.shape[-1]:
            rotated: tuple[Tensor, Tensor] = own(q, k, cos, sin, *args, **kwargs)
            return rotated
        return rotary(q, cos, sin), rotary(k, cos, sin)

    return apply


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    distance = (found.float() - expected.float()).norm()
    return bool(distance <= CLOSE * expected.float().norm())
