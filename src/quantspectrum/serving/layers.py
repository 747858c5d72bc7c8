"""The linear layers of a checkpoint as an engine builds them, and the scheme each is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quantspectrum.serving.checkpoint import Checkpoint, TensorHeader
from quantspectrum.serving.fusion import Fusion, expert_group
from quantspectrum.serving.schemes import Quantization, Scheme, matches

__all__ = ["HEADS", "Layer", "StoredOp", "layers_of", "scheme_of", "stored_ops"]

HEADS = ("lm_head", "embed_out", "output_projection")
_WEIGHTS = ("weight", "weight_packed")
_EMBEDDINGS = ("embed", "wte", "wpe")
_INTEGERS = {"I8": "int8", "U8": "int8", "F8_E4M3": "float8", "F8_E5M2": "float8"}


@dataclass(frozen=True, kw_only=True)
class StoredOp:
    """A linear op as it is on disk.

    Attributes:
        name: In the checkpoint's spelling.
        storage: ``plain``, ``int8``, ``float8`` or ``packed``.
        tensors: Its tensors by the last part of their names.
    """

    name: str
    storage: str
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict)

    def shape(self, scheme: Scheme | None) -> tuple[int, int]:
        """Outputs and inputs; of packed weights the scheme says how many are in an int32."""
        rows, columns = (self.tensors.get("weight") or self.tensors["weight_packed"]).shape
        if self.storage == "packed" and scheme is not None:
            columns = columns * 32 // scheme.weight.bits
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of the engine.

    Attributes:
        name: The engine's name.
        group: The same in the checkpoint's spelling.
        members: The ops that are fused into it, one for most.
        expected: Names of all members that the engine fuses, in the engine's spelling.
        head: Whether it is the output head, which engines do not build as a linear layer.
    """

    name: str
    group: str
    members: tuple[StoredOp, ...]
    expected: tuple[str, ...]
    head: bool


def stored_ops(checkpoint: Checkpoint) -> list[StoredOp]:
    """Every op with a matrix of weights that is no embedding, in the order of their names."""
    parts: dict[str, dict[str, TensorHeader]] = {}
    for name, header in checkpoint.tensors.items():
        op, _, leaf = name.rpartition(".")
        parts.setdefault(op, {})[leaf] = header
    found = []
    for op, tensors in sorted(parts.items()):
        weight = next((tensors[leaf] for leaf in _WEIGHTS if leaf in tensors), None)
        if weight is None or len(weight.shape) != 2 or _is_embedding(op):
            continue
        packed = "weight_packed" in tensors
        storage = "packed" if packed else _INTEGERS.get(weight.dtype, "plain")
        found.append(StoredOp(name=op, storage=storage, tensors=tensors))
    return found


def _is_embedding(op: str) -> bool:
    leaf = op.rpartition(".")[2]
    return any(part in leaf for part in _EMBEDDINGS) or leaf.endswith("embeddings")


def layers_of(ops: Iterable[StoredOp], fusion: Fusion) -> list[Layer]:
    """Put ops into the engine's layers, experts of one block into one."""
    groups: dict[str, tuple[tuple[str, ...], list[StoredOp]]] = {}
    for op in ops:
        experts = expert_group(op.name)
        group, members = (experts, ()) if experts else fusion.group(op.name)
        groups.setdefault(group, (members, []))[1].append(op)
    return [
        Layer(
            name=fusion.rename(group),
            group=group,
            members=tuple(held),
            expected=tuple(fusion.rename(m) for m in members) or tuple(
                fusion.rename(op.name) for op in held
            ),
            head=group.rpartition(".")[2] in HEADS,
        )
        for group, (members, held) in groups.items()
    ]  # fmt: skip


def scheme_of(
    name: str, quantization: Quantization, fusion: Fusion, *, head: bool
) -> Scheme | None:
    """The scheme that the configuration gives one op under the engine's names, as if unfused.

    ``ignore`` goes before targets, a name before the class. vLLM renames what has a dot in it and
    is no expression, before it compares (``CompressedTensorsConfig.apply_vllm_mapper``); a class
    fits where it is part of the layer's (``Linear`` in ``QKVParallelLinear``), which it is not of
    the head's, ``ParallelLMHead``.
    """
    if any(matches(name, _renamed(pattern, fusion)) for pattern in quantization.ignore):
        return None
    for target, scheme in quantization.targets.items():
        if matches(name, _renamed(target, fusion)):
            return scheme
    if head:
        return None
    classes = ("QKVParallelLinear", "MergedColumnParallelLinear", "RowParallelLinear")
    for target, scheme in quantization.targets.items():
        if not target.startswith("re:") and target.lower() in classes[0].lower():
            return scheme
        if target in classes:
            return scheme
    return None


def _renamed(pattern: str, fusion: Fusion) -> str:
    return fusion.rename(pattern) if "." in pattern and not pattern.startswith("re:") else pattern
