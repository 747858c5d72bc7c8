"""Any causal language model: its blocks are found by structure, its fused ops by their names."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from quantspectrum.models.adapter import Layout, Stack, Task

__all__ = ["CausalLMAdapter"]


class CausalLMAdapter:
    """Layout of a decoder found by looking: the longest list of like modules is the stack."""

    task: Task = "causal-lm"

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether transformers has a causal language model for the configuration."""
        return config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

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
            fused={
                "qkv_proj": ("q_proj", "k_proj", "v_proj"),
                "gate_up_proj": ("gate_proj", "up_proj"),
            },
        )


def longest_stack(model: nn.Module) -> str | None:
    """Name of the longest ``ModuleList`` whose entries are all of one class; first one on a tie."""
    best: str | None = None
    length = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1:
            inside = best is not None and name.startswith(best + ".")
            if len(module) > length and not inside:
                best, length = name, len(module)
    return best


def output_head(model: nn.Module) -> str | None:
    """Name of the module that turns hidden states into logits."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names.get(head) if head is not None else None
