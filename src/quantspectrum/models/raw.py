"""Parameters that may be multiplied by an input without any op module holding them.

Mixtures of experts keep all experts of a layer in one tensor, and attention of
``torch.nn.MultiheadAttention`` its three projections; they cannot be scored, and leaving them out
of the list would make a report look complete that is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor, nn

from quantspectrum.models.placement import tied_names

__all__ = ["raw_parameters"]

_LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)
_ADDED = ("embed", "position", "token", "bias", "scale", "norm")
"""In the names of parameters that are added, scaled by or looked up, whatever their shape."""


def raw_parameters(model: nn.Module, ops: Collection[str]) -> Iterator[tuple[str, str]]:
    """Name each parameter of two or more dimensions that is no op's, with why it is not scored.

    Embeddings, positions, special tokens, norms and biases are left out, by class and by name.

    Args:
        model: The model.
        ops: Names of its op modules.
    """
    tied = tied_names(model)
    for path, module in model.named_modules():
        if isinstance(module, _LOOKED_UP) or "norm" in type(module).__name__.lower():
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            owned = any(prefix in ops for prefix in _prefixes(name))
            multiplies = _is_matrix(parameter) and not any(word in leaf.lower() for word in _ADDED)
            if multiplies and not owned and tied[name] == name:
                yield name, _reason(path, module, parameter)


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts)))


def _is_matrix(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) >= 2


def _reason(path: str, module: nn.Module, parameter: Tensor) -> str:
    if parameter.ndim == 3 and "expert" in f"{path}.{type(module).__name__}".lower():
        return f"fused expert tensor: the weights of {parameter.shape[0]} experts in one parameter"
    return (
        f"a parameter that {type(module).__name__} uses in its own way: whether it multiplies an "
        "input is not known"
    )
