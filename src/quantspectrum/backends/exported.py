"""A checkpoint that another framework exported, read under the names of the loaded model.

Frameworks write tensors under the names of the source checkpoint, of the modules, or of something
between (INC's AutoRound export of Qwen2.5-VL says ``model.layers`` for what transformers calls
``model.language_model.layers``). Here each tensor is found again by the end of its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantspectrum.backends.compressed_tensors import count_quantized
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan

__all__ = ["Exported", "adopt_codes", "check_bytes", "match_names", "stored_weights"]


def match_names(found: Mapping[str, object] | set[str], own: set[str]) -> dict[str, str]:
    """Names in an export to the model's own: equal, or the one own name that ends alike.

    ``visual.blocks.0.attn.qkv`` is ``model.visual.blocks.0.attn.qkv``, and ``model.layers.0.mlp``
    is ``model.language_model.layers.0.mlp``, for which its first part is left out.

    Raises:
        UserError: A name fits none or several, or two fit the same.
    """
    matched: dict[str, str] = {}
    for name in found:
        if name in own:
            matched[name] = name
            continue
        for end in (name, name.partition(".")[2]):
            fitting = [other for other in own if end and other.endswith("." + end)]
            if fitting:
                break
        if len(fitting) != 1:
            raise UserError(
                f"the export names a tensor {name}, which fits {len(fitting)} of the model's; "
                "this is a fault of the backend: please report it"
            )
        matched[name] = fitting[0]
    if len(set(matched.values())) < len(matched):
        raise UserError(
            "the export names a tensor of the model twice; this is a fault of the backend: "
            "please report it"
        )
    return matched


class Exported:
    """Tensors of an exported directory, read one at a time, by the ops and names of the model.

    Raises:
        UserError: The export holds no tensors, or one that fits none of the model's.
    """

    def __init__(self, directory: Path, loaded: Loaded) -> None:
        """Index the shards."""
        shards = sorted(directory.glob("*.safetensors"))
        if not shards:
            raise UserError(f"{directory} holds no safetensors: the framework exported nothing")
        self._shard: dict[str, Path] = {}
        for shard in shards:
            with safe_open(shard, framework="pt") as file:
                self._shard |= dict.fromkeys(file.keys(), shard)
        own = set(loaded.model.state_dict(keep_vars=True))
        own |= {
            f"{name.removesuffix('.weight')}.weight_scale"
            for name in own
            if name.endswith(".weight")
        }
        self._name = {mine: theirs for theirs, mine in match_names(set(self._shard), own).items()}

    @property
    def names(self) -> set[str]:
        """The model's names of what is there."""
        return set(self._name)

    def read(self, name: str) -> Tensor:
        """The tensor of that name of the model."""
        theirs = self._name[name]
        with safe_open(self._shard[theirs], framework="pt") as file:
            tensor: Tensor = file.get_tensor(theirs)
        return tensor

    def quantized(self) -> set[str]:
        """Ops whose weight is stored as int8 codes."""
        found = set()
        for mine, theirs in self._name.items():
            if mine.endswith(".weight"):
                with safe_open(self._shard[theirs], framework="pt") as file:
                    if file.get_slice(theirs).get_dtype() == "I8":
                        found.add(mine.removesuffix(".weight"))
        return found


def adopt_codes(exported: Exported, plans: Mapping[str, OpPlan], directory: Path) -> float:
    """Put an export's codes and scales into a checkpoint of the same ops that is ours.

    Everything else of the export must be what the checkpoint holds already.

    Returns:
        Share of the output channels whose scale is negative.

    Raises:
        UserError: Other ops are quantized than planned, or another tensor was changed.
    """
    _check_ops(exported, plans)
    negative = channels = 0
    for shard in sorted(directory.glob("*.safetensors")):
        tensors = load_file(shard)
        for name, ours in tensors.items():
            op, _, leaf = name.rpartition(".")
            if name not in exported.names:
                raise UserError(f"the export lacks {name}; please report this fault")
            theirs = exported.read(name)
            if op in plans and leaf in ("weight", "weight_scale"):
                theirs = theirs.reshape(ours.shape).to(ours.dtype).contiguous()
                if leaf == "weight_scale":
                    negative += int((theirs < 0).sum())
                    channels += theirs.numel()
                tensors[name] = theirs
            elif not torch.equal(theirs.to(ours.dtype), ours):
                raise UserError(f"the framework changed {name}, which the profile keeps")
        partial = shard.with_suffix(".partial")
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(shard)
    assert count_quantized(directory) == len(plans)
    return negative / channels


def _check_ops(exported: Exported, plans: Mapping[str, OpPlan]) -> None:
    found = exported.quantized()
    if missing := sorted(plans.keys() - found):
        raise UserError(
            f"the framework left {len(missing)} of {len(plans)} ops in high precision, "
            f"{missing[0]} first; leave them out of the profile or use another backend"
        )
    if extra := sorted(found - plans.keys()):
        raise UserError(
            f"the framework quantized {len(extra)} ops that the profile keeps, {extra[0]} first; "
            "this is a fault of the backend: please report it"
        )


def check_bytes(directory: Path, predicted: int) -> None:
    """Refuse a checkpoint whose tensors are not as large as was predicted.

    Raises:
        UserError: They differ by more than 1 %.
    """
    found = 0
    for shard in sorted(directory.glob("*.safetensors")):
        with shard.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        found += shard.stat().st_size - 8 - header
    if abs(found - predicted) > 0.01 * predicted:
        raise UserError(
            f"the variant's tensors have {found} bytes where {predicted} were predicted; "
            "this is a fault of the backend: please report it"
        )


@contextmanager
def stored_weights(loaded: Loaded, plans: Mapping[str, OpPlan], directory: Path) -> Iterator[None]:
    """The model with the weights ``codes * scale`` of a checkpoint in its planned ops.

    The weights are put back on leaving, also after an exception.
    """
    kept: dict[str, Tensor] = {}
    try:
        for shard in sorted(directory.glob("*.safetensors")):
            with safe_open(shard, framework="pt") as file:
                names = set(file.keys())
                for op in plans:
                    if f"{op}.weight" not in names:
                        continue
                    codes = file.get_tensor(f"{op}.weight").float()
                    scale = _scale(directory, op).float()
                    parameter = loaded.model.get_parameter(f"{op}.weight")
                    kept[op] = parameter.data
                    parameter.data = (codes * scale).to(parameter.device, parameter.dtype)
        yield
    finally:
        for op, data in kept.items():
            loaded.model.get_parameter(f"{op}.weight").data = data


def _scale(directory: Path, op: str) -> Tensor:
    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            if f"{op}.weight_scale" in file.keys():  # noqa: SIM118
                scale: Tensor = file.get_tensor(f"{op}.weight_scale")
                return scale
    raise AssertionError(f"no scale of {op}")
