"""Image classifiers with a stack of blocks or stages: ViT, DeiT, DINOv2, Swin and others."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig

from quantspectrum.models.adapter import Layout, Stack
from quantspectrum.models.structure import (
    classifier_head,
    components_of,
    fused_attention,
    longest_stack,
)
from quantspectrum.models.tasks import Task, task_of

__all__ = ["VisionAdapter"]


class VisionAdapter:
    """Layout found by looking; a hierarchical model's stack is that of its stages.

    Query, key and value are one group under either of transformers' spellings, as vLLM merges
    them in the vision towers it serves.
    """

    task: Task = "image-classification"

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether the configuration is of an image classifier."""
        return task_of(config) == self.task

    def layout(self, model: nn.Module) -> Layout:
        """Find the stack and the classifier."""
        stack = longest_stack(model)
        return Layout(
            components=components_of(model, stack, "vision"),
            stacks=() if stack is None else (Stack(component="vision", path=stack),),
            head=classifier_head(model, stack),
            fused=fused_attention(model),
        )
