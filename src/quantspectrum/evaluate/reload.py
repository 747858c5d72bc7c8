"""Loading a variant into the model it was made from, which is there already.

Loading anew builds the modules, their quantization and the processor again, seconds each time at
full size. Here every tensor of the variant's files goes into the module of its name: the same
numbers that transformers and compressed-tensors load, ``code * scale`` for a quantized weight. What
does not fit exactly is loaded anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationScheme
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.placement import is_placed
from quantspectrum.provenance import describe_model

__all__ = ["load_variant"]

_ACTIVATION = ("input_scale", "input_zero_point")
_ATTRIBUTES = ("quantization_scheme", *_ACTIVATION)


def load_variant(spec: ModelSpec, like: Loaded | None) -> Loaded:
    """Load a variant, into ``like`` where that can hold it.

    Afterwards ``like`` is the variant, whether it was the baseline or another variant before.

    Args:
        spec: The variant's directory, and how to load it.
        like: A model of the same configuration, in the same type and on the same device.

    Raises:
        UserError: See :func:`quantspectrum.models.loading.load_model`.
    """
    directory = Path(spec.model)
    scheme = _scheme_of(directory, spec, like) if like is not None else None
    if like is None or scheme is None or not _fill(like.model, directory, scheme):
        return load_model(spec)
    return replace(
        like,
        spec=spec,
        identity=describe_model(
            like.model, like.config, model_id=directory.resolve().name, revision=None
        ),
    )


def _scheme_of(directory: Path, spec: ModelSpec, like: Loaded) -> dict[str, Any] | None:
    """The one scheme of the variant's quantized ops; ``None`` where it has to be loaded anew."""
    if spec.device_map is not None or is_placed(like.model) or like.spec.gguf_file is not None:
        return None
    if str(next(like.model.parameters()).dtype).removeprefix("torch.") != spec.dtype:
        return None
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    quantization = config.get("quantization_config") or {}
    groups = list((quantization.get("config_groups") or {}).values())
    known = (
        len(groups) == 1
        and quantization.get("format") == "int-quantized"
        and config.get("architectures") == [type(like.model).__name__]
    )
    if not known or _settings(config) != _settings(like.config.to_dict()):
        return None
    scheme: dict[str, Any] = groups[0]
    return scheme


def _settings(config: dict[str, Any]) -> str:
    """A configuration without what does not change the modules."""
    unimportant = {"quantization_config", "transformers_version", "dtype", "torch_dtype"}
    unimportant |= {"architectures", "_name_or_path", "name_or_path"}

    def kept(values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: kept(value) if isinstance(value, dict) else value
            for key, value in values.items()
            if key not in unimportant
        }

    return json.dumps(kept(config), sort_keys=True, default=str)


def _stored(directory: Path, device: str) -> Iterator[tuple[str, Any]]:
    """Names of all tensors, each with its file, which is open until the next name is asked for."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt", device=device) as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened


def _fill(model: nn.Module, directory: Path, scheme: dict[str, Any]) -> bool:
    """Put every tensor in its place; tells whether all fitted, before any was written."""
    device = str(next(model.parameters()).device)
    try:
        places = {
            name: torch.Size(opened.get_slice(name).get_shape())
            for name, opened in _stored(directory, "cpu")
        }
        parsed = QuantizationScheme.model_validate(scheme)
    except (OSError, SafetensorError, ValueError):
        return False
    own = _own_tensors(model)
    quantized = {name.removesuffix("_scale") for name in places if name.endswith(".weight_scale")}
    extra = {f"{weight}_scale" for weight in quantized}
    extra |= {f"{w.removesuffix('weight')}{leaf}" for w in quantized for leaf in _ACTIVATION}
    if any(name not in own and name not in extra for name in places) or quantized - set(places):
        return False
    filled = {id(own[name]) for name in places if name in own}
    if any(id(own[name]) not in filled for name, _ in model.named_parameters() if name in own):
        return False
    if any(own[name].shape != shape for name, shape in places.items() if name in own):
        return False
    _forget(model)
    _write(model, directory, device, quantized, parsed)
    return True


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without what an earlier variant brought."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return {name: t for name, t in named if name.rpartition(".")[2] not in _ACTIVATION}


@torch.no_grad()
def _write(
    model: nn.Module,
    directory: Path,
    device: str,
    quantized: set[str],
    scheme: QuantizationScheme,
) -> None:
    own = _own_tensors(model)
    waiting: dict[str, Tensor] = {}
    for name, opened in _stored(directory, device):
        value: Tensor = opened.get_tensor(name)
        op, _, leaf = name.rpartition(".")
        weight = name.removesuffix("_scale")
        if leaf in _ACTIVATION:
            _attach(model.get_submodule(op), leaf, value)
        elif name in quantized or weight in quantized:
            other = waiting.pop(weight, None)
            if other is None:
                waiting[weight] = value
                continue
            codes, scale = (value, other) if name in quantized else (other, value)
            own[weight].copy_(codes.float() * scale.float())
            model.get_submodule(op).quantization_scheme = scheme
        else:
            own[name].copy_(value)
    assert not waiting, "every code has its scale: both were counted before"


def _attach(module: nn.Module, name: str, value: Tensor) -> None:
    module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _forget(model: nn.Module) -> None:
    """Take off what an earlier variant left."""
    for module in model.modules():
        for name in _ATTRIBUTES:
            if name in module.__dict__ or name in module._parameters:
                delattr(module, name)
