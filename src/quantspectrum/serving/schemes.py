"""The schemes of a compressed-tensors ``quantization_config``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantspectrum.errors import UserError

__all__ = ["Numbers", "Quantization", "Scheme", "matches", "quantization_of"]

_ACTIVATION_FORMATS = ("naive-quantized", "int-quantized", "float-quantized")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """``QuantizationArgs``: how the numbers of one tensor are represented."""

    bits: int
    kind: str
    strategy: str
    group_size: int | None
    symmetric: bool
    dynamic: bool


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What a group of the configuration makes of a layer.

    Attributes:
        group: Name of the group, which is no part of what the scheme is.
        format: Its own compression format, or that of the whole configuration.
        weight: How weights are represented.
        activation: How inputs are; ``None`` where they are not quantized.
        output: Whether outputs are quantized.
    """

    group: str = field(compare=False)
    format: str
    weight: Numbers
    activation: Numbers | None
    output: bool = False

    @property
    def storage(self) -> str:
        """What its weights are on disk: ``int8``, ``float8`` or ``packed``."""
        if self.format == "pack-quantized":
            return "packed"
        return "float8" if self.weight.kind == "float" else "int8"

    @property
    def stores_activations(self) -> bool:
        """Whether its format is one of those that go with quantized activations."""
        return self.format in _ACTIVATION_FORMATS

    def __str__(self) -> str:
        """In short, for people."""
        weight = f"{self.weight.kind}{self.weight.bits} weights"
        if self.activation is None:
            return weight
        how = "dynamic" if self.activation.dynamic else "static"
        return f"{weight}, {how} {self.activation.kind}{self.activation.bits} inputs"


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The whole configuration: targets to schemes in the order they are tried, and exceptions."""

    format: str
    targets: Mapping[str, Scheme]
    ignore: tuple[str, ...]
    more: tuple[str, ...]


def matches(name: str, pattern: str) -> bool:
    """Whether a name is a pattern's, which is a name or ``re:`` and an expression for its start."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    return name == pattern


def quantization_of(config: Mapping[str, Any]) -> Quantization:
    """Read a ``quantization_config`` of method ``compressed-tensors``.

    Raises:
        UserError: Something is missing or not what the format has there.
    """
    whole = str(config.get("format"))
    targets: dict[str, Scheme] = {}
    groups = config.get("config_groups") or {}
    if not isinstance(groups, dict):
        raise UserError("quantization_config: config_groups is no object; write it again")
    for name, group in groups.items():
        where = f"quantization_config.config_groups.{name}"
        if not isinstance(group, dict) or not isinstance(group.get("targets"), list):
            raise UserError(f"{where} has no list of targets; write it again")
        weight = _numbers(group.get("weights"), f"{where}.weights")
        if weight is None:
            raise UserError(f"{where} has no weights; write it again")
        scheme = Scheme(
            group=str(name),
            format=str(group.get("format") or whole),
            weight=weight,
            activation=_numbers(group.get("input_activations"), f"{where}.input_activations"),
            output=bool(group.get("output_activations")),
        )
        targets |= {str(target): scheme for target in group["targets"]}
    known = ("transform_config", "kv_cache_scheme", "sparsity_config")
    return Quantization(
        format=whole,
        targets=targets,
        ignore=_strings(config.get("ignore") or []),
        more=tuple(key for key in known if config.get(key)),
    )


def _strings(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _numbers(args: Any, where: str) -> Numbers | None:
    if not args:
        return None
    try:
        group_size = args.get("group_size")
        strategy = args.get("strategy")
        if strategy is None:
            strategy = "group" if group_size else "tensor"
        return Numbers(
            bits=int(args.get("num_bits", 8)),
            kind=str(args.get("type", "int")),
            strategy=str(strategy),
            group_size=int(group_size) if group_size and int(group_size) > 0 else None,
            symmetric=bool(args.get("symmetric", True)),
            dynamic=bool(args.get("dynamic", False)),
        )
    except (AttributeError, TypeError, ValueError) as failure:
        raise UserError(f"{where} is not readable ({failure}); write it again") from failure
