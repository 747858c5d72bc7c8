"""A checkpoint that another framework exported, read under the names of the loaded model.

Frameworks write tensors under the names of the source checkpoint, of the modules, or of something
between (INC's AutoRound export of Qwen2.5-VL says ``model.layers`` for what transformers calls
``model.language_model.layers``). Here each tensor is found again by the end of its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantspectrum.artifacts import Verification
from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.quantize import MAX_RELATIVE_L2
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan

__all__ = ["Exported", "adopt", "check_bytes", "match_names", "stored_weights", "verified"]


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
        """Ops whose weight is stored as codes of 8 bits."""
        found = set()
        for mine, theirs in self._name.items():
            if mine.endswith(".weight"):
                with safe_open(self._shard[theirs], framework="pt") as file:
                    if file.get_slice(theirs).get_dtype() in ("I8", "F8_E4M3"):
                        found.add(mine.removesuffix(".weight"))
        return found


def adopt(
    exported: Exported, loaded: Loaded, plans: Mapping[str, OpPlan], directory: Path
) -> dict[str, float]:
    """Write a checkpoint of the model with an export's codes and scales of the planned ops.

    It is laid out as those of backend ``compressed-tensors``. What else the export holds must be
    what the model holds already.

    Returns:
        ``negative_scales``: the share of output channels whose scale is negative.

    Raises:
        UserError: Other ops are quantized than planned, or another tensor was changed.
    """
    _check_ops(exported, plans)
    compressed_tensors.write(loaded, {}, directory)
    weight_map: dict[str, str] = {}
    negative = channels = 0
    for shard in sorted(directory.glob("*.safetensors")):
        tensors = load_file(shard)
        for name, ours in list(tensors.items()):
            op, _, leaf = name.rpartition(".")
            if leaf == "weight" and op in plans:
                scale = exported.read(f"{op}.weight_scale").float().reshape(-1, 1)
                tensors[name], tensors[f"{op}.weight_scale"] = exported.read(name), scale
                tensors |= _input_scale(op, plans[op])
                negative += int((scale < 0).sum())
                channels += scale.numel()
            elif name in exported.names and not _same(exported.read(name), ours):
                raise UserError(f"the framework changed {name}, which the profile keeps")
        partial = shard.with_suffix(".partial")
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(shard)
        weight_map |= dict.fromkeys(tensors, shard.name)
    config = compressed_tensors.quantization_config(loaded, plans)
    _write_json(directory / "config.json", quantization_config=config)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        size = compressed_tensors.predicted_bytes(loaded, plans)
        _write_json(index, metadata={"total_size": size}, weight_map=weight_map)
    return {"negative_scales": negative / channels}


def _input_scale(op: str, plan: OpPlan) -> dict[str, Tensor]:
    act = plan.format.activation
    if act is None or act.dynamic:
        return {}
    assert act.symmetric
    return {f"{op}.input_scale": plan.input_qparams()[0].reshape(1)}


def _same(theirs: Tensor, ours: Tensor) -> bool:
    return torch.equal(theirs.to(ours.dtype), ours)


def _write_json(path: Path, **changes: Any) -> None:
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


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


def verified(
    loaded: Loaded,
    plans: Mapping[str, OpPlan],
    directory: Path,
    *,
    worst: float,
    distances: Mapping[str, float],
) -> Verification:
    """The record of a checkpoint that transformers loaded back as it should be.

    Args:
        loaded: The model.
        plans: How its ops are quantized.
        directory: The checkpoint.
        worst: Its distance from its own codes simulated, relative L2.
        distances: Other distances, by what they are to.

    Raises:
        UserError: Its tensors are not as large as was predicted.
    """
    predicted = compressed_tensors.predicted_bytes(loaded, plans)
    return Verification(
        relative_l2=worst,
        bound=MAX_RELATIVE_L2,
        loader="transformers",
        quantized_tensors=len(plans),
        predicted_bytes=predicted,
        tensor_bytes=check_bytes(directory, predicted),
        distances=dict(distances),
    )


def check_bytes(directory: Path, predicted: int) -> int:
    """Refuse a checkpoint whose tensors are not as large as was predicted; returns their bytes.

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
    return found


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
                    parameter = loaded.model.get_parameter(f"{op}.weight")
                    kept[op] = parameter.data
                    # Loaders bring the scale to the weight's type before they multiply.
                    codes, scale = (
                        values.to(parameter.device, parameter.dtype)
                        for values in (file.get_tensor(f"{op}.weight"), _scale(directory, op))
                    )
                    parameter.data = codes * scale
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
