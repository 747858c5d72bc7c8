"""Any causal language model: its blocks are found by structure, its fused ops in a table."""

from __future__ import annotations

from functools import partial

from torch import nn
from transformers import PretrainedConfig

from quantspectrum.models.adapter import Layout, Stack, image_token_of
from quantspectrum.models.faster_decoder import faster_decoder
from quantspectrum.models.structure import longest_stack, output_head
from quantspectrum.models.tasks import Task, task_of
from quantspectrum.serving.fusion import fusion_of

__all__ = ["CausalLMAdapter"]


class CausalLMAdapter:
    """Layout of a decoder found by looking: the longest list of like modules is the stack."""

    task: Task = "causal-lm"

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether the configuration is of a causal language model."""
        return task_of(config) == self.task

    def layout(self, model: nn.Module) -> Layout:
        """Find the stack of blocks and the head."""
        stack = longest_stack(model)
        components = {} if stack is None else {stack.split(".")[0]: "language"}
        head = output_head(model)
        if head is not None:
            components[head] = "head"
        stacks = () if stack is None else (Stack(component="language", path=stack),)
        return Layout(
            components=components,
            stacks=stacks,
            head=head,
            fused=fusion_of(type(model).__name__).packed,
            image_token_id=image_token_of(model),
            faster=partial(faster_decoder, model),
        )
