"""A checkpoint's tensors by the names its modules have, read one by one: no model is loaded.

Files may name tensors otherwise than the modules of the loaded model are called (Qwen2.5-VL's
``visual.blocks…`` is ``model.visual.blocks…``). transformers renames them when it loads, by rules
that belong to each model class; the same rules are applied here, to a model on the device ``meta``,
which has names, shapes and types, and no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from quantspectrum.artifacts import ModelIdentity
from quantspectrum.errors import UserError, in_one_line
from quantspectrum.models import adapter_for
from quantspectrum.models.devices import pick_device
from quantspectrum.models.files import check_directory
from quantspectrum.models.loading import (
    ModelSpec,
    Processor,
    load_config,
    load_processor,
    model_id,
)
from quantspectrum.models.placement import tied_names
from quantspectrum.models.stored import StoredTensor, stored_tensors
from quantspectrum.models.tasks import Task, model_class
from quantspectrum.provenance import describe_parameters

__all__ = ["LazyModel", "map_names", "meta_model", "open_model"]


@dataclass(frozen=True, kw_only=True)
class LazyModel:
    """A model whose weights stay in its files.

    Attributes:
        model: The model on the device ``meta``.
        directory: Where its files are.
        tensors: What each tensor of the model's state is read from, in the model's order, tied
            ones once.
        config: Its configuration.
        processor: What makes its inputs.
        task: What it is for.
        identity: What it is, as of the model loaded in the type of its files.
        device: Where weights are quantized.
        spec: How it was asked for.
        storage_dtype: The type its files keep weights in.
    """

    model: nn.Module
    directory: Path
    tensors: Mapping[str, StoredTensor]
    config: PretrainedConfig
    processor: Processor
    task: Task
    identity: ModelIdentity
    device: torch.device
    spec: ModelSpec
    storage_dtype: torch.dtype


def open_model(spec: ModelSpec) -> LazyModel:
    """Find a checkpoint's tensors; reads headers, and 64 values of every tensor to identify it.

    Raises:
        UserError: The model cannot be found or is not supported, a tensor is missing, or its files
            store weights in another arrangement than its modules have.
    """
    if spec.gguf_file is not None:
        raise UserError("a GGUF file has to be loaded to be quantized: leave out --stream")
    check_directory(spec.model, None)
    config = load_config(spec)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"{spec.model} is quantized already; give the model it was made from")
    adapter = adapter_for(config)
    directory = _directory_of(spec)
    found = stored_tensors(directory)
    storage = _storage_dtype(config, found.values())
    model = meta_model(config, adapter.task, storage, spec.trust_remote_code)
    tensors = _tensors_of(model, found, spec)
    return LazyModel(
        model=model,
        directory=directory,
        tensors=tensors,
        config=cast("PretrainedConfig", model.config),
        processor=load_processor(spec, adapter),
        task=adapter.task,
        identity=describe_parameters(
            _parameters(model, tensors, storage),
            cast("PretrainedConfig", model.config),
            model_id=model_id(spec),
            revision=getattr(config, "_commit_hash", None) or spec.revision,
            dtype=storage,
            storage_dtype=storage,
        ),
        device=pick_device(spec.device),
        spec=spec,
        storage_dtype=storage,
    )


def meta_model(
    config: PretrainedConfig, task: Task, dtype: torch.dtype, trust_remote_code: bool = False
) -> nn.Module:
    """The model of a configuration with names, shapes and types, and no values."""
    loader = model_class(config, task)
    with torch.device("meta"):
        if hasattr(loader, "from_config"):
            model = loader.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
        else:
            model = loader._from_config(config, dtype=dtype)
    model.tie_weights()
    made: nn.Module = model.eval()
    return made


def map_names(model: nn.Module, stored: Iterable[str]) -> dict[str, str]:
    """Name in a file to the name transformers loads it under.

    Raises:
        UserError: A tensor is not only renamed but rearranged, such as experts that are merged.
    """
    rules = get_model_conversion_mapping(cast("Any", model))
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = model.state_dict()
    prefix = getattr(model, "base_model_prefix", None)
    mapped: dict[str, str] = {}
    for key in sorted(stored):
        name, converted = rename_source_key(key, renamings, converters, prefix, state)
        if converted is not None and name not in stored:
            raise UserError(
                f"{key} is rearranged when the model is loaded, so that the model cannot be "
                "quantized without loading it: leave out --stream"
            )
        mapped[key] = name
    return mapped


def _tensors_of(
    model: nn.Module, found: Mapping[str, StoredTensor], spec: ModelSpec
) -> dict[str, StoredTensor]:
    by_name = {name: found[key] for key, name in map_names(model, found).items()}
    tied = tied_names(model)
    aliases: dict[str, list[str]] = {}
    for name, first in tied.items():
        aliases.setdefault(first, []).append(name)
    tensors: dict[str, StoredTensor] = {}
    for name, expected in model.state_dict(keep_vars=True).items():
        if tied[name] != name:
            continue
        stored = next((by_name[alias] for alias in aliases[name] if alias in by_name), None)
        if stored is None:
            raise UserError(
                f"{spec.model} lacks {name}, which the model needs; the checkpoint is incomplete: "
                "fetch it again"
            )
        if stored.shape != tuple(expected.shape):
            raise UserError(
                f"{spec.model}: {stored.key} has shape {stored.shape}, where the model's {name} "
                f"has {tuple(expected.shape)}; leave out --stream"
            )
        tensors[name] = stored
    return tensors


def _parameters(
    model: nn.Module, tensors: Mapping[str, StoredTensor], dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Parameters as :func:`quantspectrum.models.placement.named_parameters` gives them."""
    for name, _ in model.named_parameters(remove_duplicate=False):
        if name in tensors:
            yield name, partial(_as, tensors[name], dtype)


def _as(tensor: StoredTensor, dtype: torch.dtype) -> Tensor:
    # Only a few values of each are looked at.
    values = tensor.mapped()
    return values.to(dtype) if values.is_floating_point() else values


def _storage_dtype(config: PretrainedConfig, found: Iterable[StoredTensor]) -> torch.dtype:
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    return next((t.dtype for t in found if t.dtype.is_floating_point), torch.float32)


def _directory_of(spec: ModelSpec) -> Path:
    """The directory of the model's files, fetched first where it is a Hub id."""
    path = Path(spec.model)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        fetched = snapshot_download(
            spec.model, revision=spec.revision, allow_patterns=["*.json", "*.safetensors"]
        )
    # What is raised is up to the network and to several libraries.
    except Exception as error:
        raise UserError(f"cannot fetch {spec.model}: {in_one_line(error)}") from error
    return Path(fetched)
