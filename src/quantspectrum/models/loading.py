"""Loading a model with its processor, from a Hub id, a directory or a GGUF file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from quantspectrum.artifacts import ModelIdentity
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError, in_one_line
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Adapter, Layout
from quantspectrum.models.devices import (
    CPU_OFFLOAD,
    Places,
    check_device_map,
    device_map_option,
    offload_to_cpu,
    offloads,
    pick_device,
)
from quantspectrum.models.files import check_directory, check_safetensors
from quantspectrum.models.limits import max_tokens
from quantspectrum.models.placement import input_device
from quantspectrum.models.tasks import Task, model_class
from quantspectrum.provenance import describe_model

__all__ = [
    "Loaded",
    "ModelSpec",
    "Processor",
    "check_safetensors",
    "check_unquantized",
    "load_config",
    "load_model",
    "load_processor",
    "model_id",
    "pick_device",
]

Processor: TypeAlias = ProcessorMixin | PreTrainedTokenizerBase | BaseImageProcessor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What to load and how.

    Attributes:
        model: Hub id or local directory.
        revision: Hub branch, tag or commit.
        gguf_file: Name of a GGUF file inside it; its weights are dequantized.
        dtype: ``auto`` is bfloat16 on a GPU and float32 on a CPU, where it is faster.
        device: ``auto`` is the first GPU, or the CPU. A device map decides in its place, but for
            ``cpu-offload``.
        device_map: How accelerate spreads the weights: ``auto``, ``balanced``,
            ``balanced_low_0`` or ``sequential`` over the GPUs, then the CPU and the disk; a JSON
            file of module names and devices; ``cpu-offload`` keeps all on the CPU and computes on
            ``device``.
        offload_folder: Where what a device map puts on disk is kept.
        trust_remote_code: Run code that comes with the model. Off unless asked for.
    """

    model: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    offload_folder: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run, in evaluation mode, and everything that belongs to it.

    Attributes:
        model: The model.
        processor: What makes its inputs: a tokenizer, an image processor, or both in one.
        config: Its configuration.
        adapter: What knows its family.
        layout: Where its parts are.
        identity: What it is, for the record.
        device: Where its inputs go.
        spec: How it was loaded.
        storage_dtype: The type its checkpoint keeps weights in; they may be loaded in a wider
            one without their values changing.
    """

    model: nn.Module
    processor: Processor
    config: PretrainedConfig
    adapter: Adapter
    layout: Layout
    identity: ModelIdentity
    device: torch.device
    spec: ModelSpec
    storage_dtype: torch.dtype

    @property
    def task(self) -> Task:
        """What the model is for."""
        return self.adapter.task

    @property
    def takes_images(self) -> bool:
        """Whether the model can be shown pictures with a text."""
        return self.task == "image-text-to-text"

    @property
    def takes_text(self) -> bool:
        """Whether the model takes text, and not pictures alone."""
        return self.task not in ("image-classification", "image")

    @property
    def max_tokens(self) -> int | None:
        """Most tokens the model has positions for, where more would be an error; else ``None``."""
        return None if self.generates else max_tokens(self.model, self.processor)

    @property
    def classifies(self) -> bool:
        """Whether the model gives each sample a class."""
        return self.task in ("image-classification", "sequence-classification")

    @property
    def generates(self) -> bool:
        """Whether the model writes text, token after token."""
        return self.task in ("causal-lm", "image-text-to-text")


def load_model(spec: ModelSpec) -> Loaded:
    """Load a model and its processor.

    Raises:
        UserError: Nothing is there, it is not a supported model, a file is broken or lacks
            weights, or only unsafe (pickled) weights are present.
    """
    device = pick_device(spec.device)
    dtype = _pick_dtype(spec.dtype, device)
    check_directory(spec.model, spec.gguf_file)
    config = load_config(spec)
    adapter = adapter_for(config)
    placed = _placement(spec, config)
    model = _load_weights(spec, model_class(config, adapter.task), dtype, device, placed)
    model.eval().requires_grad_(False)
    if placed == CPU_OFFLOAD:
        offload_to_cpu(model, device)
    return Loaded(
        model=model,
        processor=load_processor(spec, adapter),
        config=model.config,
        adapter=adapter,
        layout=adapter.layout(model),
        identity=describe_model(
            model,
            model.config,
            model_id=model_id(spec),
            revision=getattr(model.config, "_commit_hash", None) or spec.revision,
            storage_dtype=_storage_dtype(config, dtype, spec),
        ),
        device=input_device(model, device),
        spec=spec,
        storage_dtype=_storage_dtype(config, dtype, spec),
    )


def _storage_dtype(config: PretrainedConfig, loaded: torch.dtype, spec: ModelSpec) -> torch.dtype:
    source = config.dtype
    if spec.gguf_file is not None or not isinstance(source, torch.dtype):
        return loaded
    return source if loaded == torch.float32 else loaded


def model_id(spec: ModelSpec) -> str:
    """The model's name in records: its Hub id, or its directory's name."""
    path = Path(spec.model)
    if not path.is_dir():
        return spec.model
    # Its directory is called "model", which as a title would say nothing.
    return "quantspectrum-demo" if path.resolve() == model_dir().resolve() else path.resolve().name


def _pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def load_config(spec: ModelSpec) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        UserError: It cannot be read.
    """
    kwargs: dict[str, Any] = {"gguf_file": spec.gguf_file} if spec.gguf_file else {}
    try:
        return AutoConfig.from_pretrained(
            spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **kwargs
        )
    # The file is the user's, and what its wrong values raise is up to each model's own code.
    except Exception as error:
        here = "" if Path(spec.model).exists() else "no directory of that name is here, and "
        raise UserError(f"cannot load {spec.model}: {here}{_told(error)}") from error


def _placement(spec: ModelSpec, config: PretrainedConfig) -> Places | None:
    if spec.device_map is None:
        return None
    placed = device_map_option(spec.device_map)
    if offloads(placed) and getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{spec.model} is quantized, and compressed-tensors does not load such a model with "
            "weights offloaded; use --device cpu, or a device map of GPUs alone"
        )
    return placed


def _load_weights(
    spec: ModelSpec,
    loader: Any,
    dtype: torch.dtype,
    device: torch.device,
    placed: Places | None,
) -> Any:
    kwargs: dict[str, Any] = (
        {"gguf_file": spec.gguf_file} if spec.gguf_file else {"use_safetensors": True}
    )
    if placed is not None and placed != CPU_OFFLOAD:
        kwargs |= {"device_map": placed, "offload_folder": spec.offload_folder}
    # Without a GPU there is nothing to place, and placing needs the accelerate package.
    elif placed is None and device.type != "cpu":
        kwargs["device_map"] = {"": device}
    try:
        with _QuietTransformers():
            model, info = loader.from_pretrained(
                spec.model,
                revision=spec.revision,
                dtype=dtype,
                trust_remote_code=spec.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
    except torch.OutOfMemoryError as error:
        raise UserError(f"{spec.model} does not fit on {device}; use --device cpu") from error
    # A configuration with wrong values makes the model's code raise whatever it happens to.
    except Exception as error:
        raise UserError(f"cannot load {spec.model}: {_told(error)}") from error
    if isinstance(placed, dict):
        check_device_map(model, placed, str(spec.device_map))
    _check_all_loaded(spec, info)
    return model


def _check_all_loaded(spec: ModelSpec, info: dict[str, Any]) -> None:
    """Refuse a checkpoint that leaves weights as they were initialised."""
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{spec.model} lacks {len(missing)} weights the model needs, {missing[0]} first; "
            "the checkpoint is incomplete: fetch it again"
        )
    if mismatched := sorted(str(entry[0]) for entry in info["mismatched_keys"]):
        raise UserError(
            f"{spec.model} has {len(mismatched)} weights of another shape than its config.json "
            f"says, {mismatched[0]} first; fetch it again"
        )


def load_processor(spec: ModelSpec, adapter: Adapter) -> Processor:
    """What makes the model's inputs.

    Raises:
        UserError: It cannot be read.
    """
    auto: Any = _PROCESSORS.get(adapter.task, AutoTokenizer)
    kwargs: dict[str, Any] = {"gguf_file": spec.gguf_file} if spec.gguf_file else {}
    try:
        processor = auto.from_pretrained(
            spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **kwargs
        )
    # The tokenizers library raises bare exceptions.
    except Exception as error:
        raise UserError(f"cannot load the processor of {spec.model}: {_told(error)}") from error
    assert isinstance(processor, Processor)
    return processor


_PROCESSORS: dict[Task, Any] = {
    "image-text-to-text": AutoProcessor,
    "image-classification": AutoImageProcessor,
    "image": AutoImageProcessor,
}


class _QuietTransformers:
    """Silence the loading report of transformers: missing weights are an error of our own."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("transformers")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def _told(error: Exception) -> str:
    """An error of a library in one line, with its type where the text alone would be a riddle."""
    text = in_one_line(error)
    return text if " " in text else f"{type(error).__name__} {text}"


def check_unquantized(loaded: Loaded) -> None:
    """Refuse a model that is a variant already.

    Raises:
        UserError: Some of its ops are quantized.
    """
    if any(hasattr(module, "quantization_scheme") for module in loaded.model.modules()):
        raise UserError(
            f"{loaded.spec.model} is quantized already; give the model it was made from"
        )
