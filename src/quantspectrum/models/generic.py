"""The last resort: any model transformers can load that takes token ids or pixels."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig

from quantspectrum.models.adapter import Layout, image_token_of
from quantspectrum.models.structure import classifier_head, output_head
from quantspectrum.models.tasks import Task, task_of

__all__ = ["GenericAdapter"]


class GenericAdapter:
    """A layout that assumes nothing: no stacks, so that whole forward passes are replayed.

    Every op is a group of its own and of component ``other``: which ones a serving engine fuses
    is not known.

    Args:
        task: What the model takes.
    """

    def __init__(self, task: Task) -> None:
        """Serve models of one task."""
        self.task = task

    def handles(self, config: PretrainedConfig) -> bool:
        """Whether the configuration is of this adapter's task."""
        return task_of(config) == self.task

    def layout(self, model: nn.Module) -> Layout:
        """The head, if there is one, and nothing else."""
        head = output_head(model) or classifier_head(model, None)
        return Layout(
            components={} if head is None else {head: "head"},
            stacks=(),
            head=head,
            image_token_id=image_token_of(model),
        )
