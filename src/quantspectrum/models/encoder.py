"""Encoders of text, such as BERT: masked language models and classifiers of sequences."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from quantspectrum.models.adapter import Layout, Stack
from quantspectrum.models.structure import (
    classifier_head,
    components_of,
    fused_attention,
    longest_stack,
    output_head,
)
from quantspectrum.models.tasks import Task, task_of

__all__ = ["EncoderAdapter"]


class EncoderAdapter:
    """Layout found by looking: the longest list of like modules is the stack.

    vLLM merges ``query``, ``key`` and ``value`` (``q_proj``, ``k_proj`` and ``v_proj``) of the
    encoders it serves, and gate and up of those that have a gated MLP. A classifier on top of a
    decoder is laid out the same way, with its blocks as ``language``.

    Args:
        task: ``masked-lm`` or ``sequence-classification``.
    """

    def __init__(self, task: Task) -> None:
        """Serve models of one task."""
        self.task = task

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether the configuration is of this adapter's task."""
        return task_of(config) == self.task

    def layout(self, model: nn.Module) -> Layout:
        """Find the stack of blocks and the head."""
        stack = longest_stack(model)
        kind = getattr(getattr(model, "config", None), "model_type", None)
        body = "encoder" if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "language"
        masked = self.task == "masked-lm"
        return Layout(
            components=components_of(model, stack, body),
            stacks=() if stack is None else (Stack(component=body, path=stack),),
            head=output_head(model) if masked else classifier_head(model, stack),
            fused={**fused_attention(model), "gate_up_proj": ("gate_proj", "up_proj")},
        )
