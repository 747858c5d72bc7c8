"""Finding a model's parts by looking at its modules, for families whose names are not known."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

__all__ = ["classifier_head", "components_of", "fused_attention", "longest_stack", "output_head"]

_QKV = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
_BLOCK_NAMES = ("Layer", "Block")


def longest_stack(model: nn.Module) -> str | None:
    """Name of the longest ``ModuleList`` of like modules; the first one on a tie.

    Like are modules of one class, and unlike layers of hybrid models, whose class names all end
    with ``Layer`` or ``Block``. Lists inside the entries of a longest one so far do not count.
    """
    best: str | None = None
    length = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and _alike(module):
            inside = best is not None and name.startswith(best + ".")
            if len(module) > length and not inside:
                best, length = name, len(module)
    return best


def _alike(modules: nn.ModuleList) -> bool:
    kinds = {type(child) for child in modules}
    return len(kinds) == 1 or (
        len(kinds) > 1 and all(kind.__name__.endswith(_BLOCK_NAMES) for kind in kinds)
    )


def output_head(model: nn.Module) -> str | None:
    """Name of the module that turns hidden states into logits over a vocabulary."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names.get(head) if head is not None else None


def classifier_head(model: nn.Module, stack: str | None) -> str | None:
    """Name of the last ``Linear`` outside the stack that gives one value a label."""
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == labels
        and not (stack is not None and name.startswith(stack + "."))
    ]
    return found[-1] if found else None


def components_of(model: nn.Module, stack: str | None, body: str) -> dict[str, str]:
    """Component by prefix: the child that holds the stack is the ``body``, its siblings the head.

    A model without a head, whose stack is in no child of its own, is all ``body``.
    """
    if stack is None:
        return {}
    holder = stack.split(".")[0]
    if holder != getattr(model, "base_model_prefix", None):
        return {name: body for name, _ in model.named_children()}
    return {name: body if name == holder else "head" for name, _ in model.named_children()}


def fused_attention(model: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """The projections of query, key and value that serving engines merge, by the model's names."""
    for names in _QKV:
        if any(all(hasattr(module, name) for name in names) for module in model.modules()):
            return {"qkv_proj": names}
    return {}
