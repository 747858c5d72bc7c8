"""Qwen2.5-VL: a vision tower with a patch merger in front of a Qwen2 language model."""

from __future__ import annotations

from functools import partial

from torch import nn
from transformers import PretrainedConfig

from quantspectrum.models.adapter import Layout, Stack, Task, image_token_of
from quantspectrum.models.faster_vision import faster_vision
from quantspectrum.serving.fusion import fusion_of

__all__ = ["Qwen25VLAdapter"]


class Qwen25VLAdapter:
    """Layout of ``Qwen2_5_VLForConditionalGeneration``.

    vLLM and SGLang merge q/k/v and gate/up of the language model and gate/up of the vision
    MLP; the vision attention's ``qkv`` is one op already.
    """

    task: Task = "image-text-to-text"

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether the configuration is a Qwen2.5-VL one."""
        return bool(config.model_type == "qwen2_5_vl")

    def layout(self, model: nn.Module) -> Layout:
        """The family's layout, whose names are fixed."""
        return Layout(
            components={
                "model.visual": "vision",
                "model.visual.merger": "merger",
                "model.language_model": "language",
                "lm_head": "head",
            },
            stacks=(
                Stack(component="vision", path="model.visual.blocks"),
                Stack(component="language", path="model.language_model.layers"),
            ),
            head="lm_head",
            fused=fusion_of("Qwen2_5_VLForConditionalGeneration").packed,
            chain=True,
            faster=partial(faster_vision, model),
            image_token_id=image_token_of(model),
        )
