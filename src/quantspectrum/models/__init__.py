"""Loading models and knowing their parts. A new family: one file and one entry in ``ADAPTERS``."""

from __future__ import annotations

from transformers import PretrainedConfig

from quantspectrum.errors import UserError
from quantspectrum.models.adapter import Adapter
from quantspectrum.models.causal_lm import CausalLMAdapter
from quantspectrum.models.qwen2_5_vl import Qwen25VLAdapter

__all__ = ["ADAPTERS", "adapter_for"]

ADAPTERS: tuple[Adapter, ...] = (Qwen25VLAdapter(), CausalLMAdapter())


def adapter_for(config: PretrainedConfig) -> Adapter:
    """Return the first adapter that knows the configuration.

    Raises:
        UserError: None does.
    """
    for adapter in ADAPTERS:
        if adapter.handles(config):
            return adapter
    raise UserError(
        f"models of type {config.model_type!r} are not supported; "
        "supported are Qwen2.5-VL and every causal language model of transformers"
    )
