"""Loading models and knowing their parts. A new family: one file and one entry in ``ADAPTERS``."""

from __future__ import annotations

from transformers import PretrainedConfig

from quantspectrum.models.adapter import Adapter
from quantspectrum.models.causal_lm import CausalLMAdapter
from quantspectrum.models.encoder import EncoderAdapter
from quantspectrum.models.generic import GenericAdapter
from quantspectrum.models.qwen2_5_vl import Qwen25VLAdapter
from quantspectrum.models.vision import VisionAdapter

__all__ = ["ADAPTERS", "adapter_for"]

ADAPTERS: tuple[Adapter, ...] = (
    Qwen25VLAdapter(),
    CausalLMAdapter(),
    EncoderAdapter("masked-lm"),
    EncoderAdapter("sequence-classification"),
    VisionAdapter(),
    GenericAdapter("image-text-to-text"),
    GenericAdapter("text"),
    GenericAdapter("image"),
)


def adapter_for(config: PretrainedConfig) -> Adapter:
    """Return the first adapter that knows the configuration.

    Raises:
        UserError: The model is of a kind that no adapter can serve.
    """
    return next(adapter for adapter in ADAPTERS if adapter.handles(config))
