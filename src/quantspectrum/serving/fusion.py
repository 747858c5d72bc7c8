"""What serving engines fuse into one layer, and how they rename modules, by architecture.

An engine concatenates the weights of projections that take the same input. The layer that comes of it
has one scheme, so that its members must share a format. The table is vLLM 0.32.0's, read from the class
attributes ``packed_modules_mapping`` and ``hf_to_vllm_mapper`` of each architecture by
``bench/workers/vllm_fusion.py``; ``tests/serving/test_fusion.py`` compares the two. Where vLLM sets
a fusion only while it builds the model, the entry is in :data:`WHEN_BUILT` with its source. SGLang fuses
the same projections of these families (``stacked_params_mapping`` of ``srt/models/llama.py`` and
``qwen2_5_vl.py``; read, not run).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULT", "FUSIONS", "SOURCE", "WHEN_BUILT", "Fusion", "expert_group", "fusion_of"]

SOURCE = "vllm 0.32.0"

Members = tuple[str, ...]

_QKV: Mapping[str, Members] = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
_MLP: Mapping[str, Members] = {"gate_up_proj": ("gate_proj", "up_proj")}
_BERT: Mapping[str, Members] = {"qkv_proj": ("query", "key", "value")}
_MLA: Mapping[str, Members] = {"fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa")}
_BOTH = {**_QKV, **_MLP}


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What an engine does with the linear layers of one architecture.

    Attributes:
        packed: Fused layer to its members; all have one parent module.
        prefixes: Beginning of a name in a checkpoint to its beginning in the engine, tried in turn.
    """

    packed: Mapping[str, Members]
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def group(self, name: str) -> tuple[str, Members]:
        """Name of an op's fused layer and names of all its members; the op itself alone if none."""
        parent, _, leaf = name.rpartition(".")
        prefix = f"{parent}." if parent else ""
        for fused, members in self.packed.items():
            if leaf in members:
                return prefix + fused, tuple(prefix + member for member in members)
        return name, (name,)

    def rename(self, name: str) -> str:
        """The engine's name of a module or tensor."""
        for old, new in self.prefixes.items():
            if name.startswith(old):
                name = new + name[len(old) :]
        return name


DEFAULT = Fusion(packed=_BOTH)
"""For architectures that are not in the table: what nearly every decoder has fused, by its names."""

_VISUAL = {
    "model.language_model.": "language_model.model.",
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
}
_TOWER = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
_ANY_MODEL = {"model.": "language_model.model."}
_NAMED_BERT = {
    "bert.": "model.",
    "embeddings.": "model.embeddings.",
    "encoder.": "model.encoder.",
    "roberta.": "model.",
}

WHEN_BUILT: Mapping[str, Mapping[str, Members]] = {
    # DeepseekV2Model adds it where the query is of low rank (q_lora_rank).
    "DeepseekV2ForCausalLM": _MLA,
    "DeepseekV3ForCausalLM": _MLA,
    # Shared experts and dense blocks have one; the class lists it while it is built.
    "Qwen2MoeForCausalLM": _MLP,
    "Qwen3MoeForCausalLM": _MLP,
    "Qwen3VLMoeForConditionalGeneration": _MLP,
    # Its class lists nothing; its language model is Qwen2's.
    "Qwen2VLForConditionalGeneration": _BOTH,
    "StableLmForCausalLM": _BOTH,
    # models/bert.py fuses them whatever head is on top, and only BertModel's class lists it.
    "BertForMaskedLM": _BERT,
    "BertForSequenceClassification": _BERT,
}
"""Fusions that no attribute of the class tells, beside those that one does."""

_LISTED: Mapping[str, Fusion] = {
    **dict.fromkeys(
        (
            *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
            *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "MiMoForCausalLM"),
            *("CohereForCausalLM", "Cohere2ForCausalLM", "GraniteForCausalLM", "Glm4ForCausalLM"),
            *("Glm4MoeForCausalLM", "MiniCPMForCausalLM", "Exaone4ForCausalLM"),
            *("Ernie4_5ForCausalLM", "Idefics3ForConditionalGeneration"),
            *("SmolVLMForConditionalGeneration", "Llama4ForConditionalGeneration"),
        ),
        Fusion(packed=_BOTH),
    ),
    **dict.fromkeys(
        (
            *("NemotronForCausalLM", "GraniteMoeForCausalLM", "OlmoeForCausalLM"),
            *("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
        ),
        Fusion(packed=_QKV),
    ),
    **dict.fromkeys(
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "MiniCPM3ForCausalLM"),
        Fusion(packed=_MLP),
    ),
    # One Linear in the checkpoint already, for these there is nothing left to fuse.
    **dict.fromkeys(("Phi3ForCausalLM", "FalconForCausalLM"), Fusion(packed={})),
    **dict.fromkeys(
        ("GPT2LMHeadModel", "BloomForCausalLM", "StableLmForCausalLM"), Fusion(packed={})
    ),
    "BertForSequenceClassification": Fusion(packed={}),
    "BertForMaskedLM": Fusion(packed={}),
    **dict.fromkeys(("BertModel", "RobertaModel"), Fusion(packed=_BERT, prefixes=_NAMED_BERT)),
    "OPTForCausalLM": Fusion(packed=_QKV, prefixes={"decoder.": "model.decoder."}),
    "InternLM2ForCausalLM": Fusion(packed={"gate_up_proj": ("w1", "w3")}),
    "ExaoneForCausalLM": Fusion(packed={**_QKV, "gate_up_proj": ("c_fc_0", "c_fc_1")}),
    "Qwen2VLForConditionalGeneration": Fusion(packed={}, prefixes=_VISUAL | _ANY_MODEL),
    "Qwen2_5_VLForConditionalGeneration": Fusion(packed=_BOTH, prefixes=_VISUAL | _ANY_MODEL),
    "Qwen3VLForConditionalGeneration": Fusion(packed=_BOTH, prefixes=_VISUAL),
    "Qwen3VLMoeForConditionalGeneration": Fusion(packed=_QKV, prefixes=_VISUAL),
    "Qwen3_5ForConditionalGeneration": Fusion(
        packed=_BOTH
        | {"in_proj_qkvz": ("in_proj_qkv", "in_proj_z"), "in_proj_ba": ("in_proj_b", "in_proj_a")},
        prefixes=_VISUAL,
    ),
    **dict.fromkeys(
        (
            *("Gemma3ForConditionalGeneration", "LlavaForConditionalGeneration"),
            "PaliGemmaForConditionalGeneration",
        ),
        Fusion(packed=_BOTH, prefixes=_TOWER),
    ),
    "Mistral3ForConditionalGeneration": Fusion(packed=_BOTH, prefixes=_TOWER | _ANY_MODEL),
}

FUSIONS: Mapping[str, Fusion] = {
    name: Fusion(packed={**listed.packed, **WHEN_BUILT.get(name, {})}, prefixes=listed.prefixes)
    for name, listed in _LISTED.items()
}
"""By architecture, as ``config.json`` names it."""

_EXPERT = re.compile(r"(.*\.experts)\.\d+\.[^.]+$")


def fusion_of(architecture: str | None) -> Fusion:
    """The architecture's fusions, or :data:`DEFAULT`."""
    return FUSIONS.get(architecture or "", DEFAULT)


def expert_group(name: str) -> str | None:
    """The group of a projection of one expert: all experts of a block run as one layer."""
    found = _EXPERT.match(name)
    return found[1] if found else None
