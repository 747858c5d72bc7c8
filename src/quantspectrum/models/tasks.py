"""What a model is for, told from its configuration: what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import transformers
from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

from quantspectrum.errors import UserError

__all__ = ["AUTO_CLASSES", "Task", "architecture", "model_class", "task_of"]

Task = Literal[
    "causal-lm",
    "image-text-to-text",
    "masked-lm",
    "sequence-classification",
    "image-classification",
    "text",
    "image",
]
"""``text`` and ``image`` are any other model that takes token ids or pixels, whatever it gives."""

_NAMED: dict[Task, Mapping[str, Any]] = {
    # In this order: a few names are in several mappings, such as Gemma 3's in the first two.
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "image-text-to-text": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "masked-lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "sequence-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}
AUTO_CLASSES: dict[Task, str] = {
    "causal-lm": "AutoModelForCausalLM",
    "image-text-to-text": "AutoModelForImageTextToText",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
"""Auto class of transformers that loads a task's models."""

_INPUTS: dict[str, Task] = {"input_ids": "text", "pixel_values": "image"}


def task_of(config: PretrainedConfig) -> Task:
    """The task of the architecture a configuration names, else the likeliest of its model type.

    Raises:
        UserError: transformers has no such model, or its inputs are neither token ids nor pixels.
    """
    named = architecture(config)
    for task, mapping in _NAMED.items():
        if named in _names(mapping, config.model_type):
            return _checked(task, config)
    if (own := _task_of_own_code(config)) is not None:
        return _checked(own, config)
    known = getattr(transformers, named, None) if named is not None else None
    if known is None:
        return _checked(_task_of_type(config), config)
    taken = getattr(known, "main_input_name", None)
    if taken not in _INPUTS:
        raise UserError(
            f"models of class {named} take {taken!r}; supported are models that take token ids "
            "(input_ids) or pixels (pixel_values)"
        )
    return _checked(_INPUTS[taken], config)


def architecture(config: PretrainedConfig) -> str | None:
    """Name of the class a checkpoint was made of, if its configuration has one."""
    named = getattr(config, "architectures", None)
    return named[0] if isinstance(named, list) and named else None


def model_class(config: PretrainedConfig, task: Task) -> Any:
    """What loads a model: an Auto class, or the very class where no Auto class gives it."""
    own = getattr(config, "auto_map", None) or {}
    if task in AUTO_CLASSES:
        return getattr(transformers, AUTO_CLASSES[task])
    if loader := next((key for key in own if key.startswith("AutoModel")), None):
        return getattr(transformers, loader)
    found = getattr(transformers, architecture(config) or "", None)
    return found if found is not None else transformers.AutoModel


def _names(mapping: Mapping[str, Any], model_type: str) -> tuple[str, ...]:
    names = mapping.get(model_type, ())
    return (names,) if isinstance(names, str) else tuple(names)


def _task_of_own_code(config: PretrainedConfig) -> Task | None:
    """Task of a model that brings its own code: it says which Auto class loads it."""
    own = getattr(config, "auto_map", None) or {}
    for task, loader in AUTO_CLASSES.items():
        if loader in own:
            return task
    if any(key.startswith("AutoModel") for key in own):
        # Its class is not known before its code is run; a picture has a size, a text has none.
        return "image" if hasattr(config, "image_size") else "text"
    return None


def _task_of_type(config: PretrainedConfig) -> Task:
    kind = config.model_type
    encodes = kind in _NAMED["masked-lm"] and not getattr(config, "is_decoder", False)
    # Encoders come with a causal head too, which next to no checkpoint is of.
    first: tuple[Task, ...] = ("masked-lm",) if encodes else ()
    for task in (*first, *_NAMED):
        if kind in _NAMED[task]:
            return task
    raise UserError(
        f"models of type {kind!r} are not supported; supported are the models of transformers "
        "that take token ids or pixels"
    )


def _checked(task: Task, config: PretrainedConfig) -> Task:
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{architecture(config) or config.model_type} is an encoder-decoder model, which is "
            "not supported; supported are decoders, encoders and image models"
        )
    return task
