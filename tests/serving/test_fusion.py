"""The table of fused layers is vLLM's own, as `bench/workers/vllm_fusion.py` read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.serving.fusion import (
    DEFAULT,
    FUSIONS,
    SOURCE,
    WHEN_BUILT,
    expert_group,
    fusion_of,
)

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "vllm_fusion.json").read_text(encoding="utf-8")
)


def listed(architecture: str) -> dict[str, tuple[str, ...]]:
    """What the class lists, but for layers that are one in the checkpoint already."""
    mapping = GOLDEN["architectures"][architecture]["packed_modules_mapping"] or {}
    return {fused: tuple(members) for fused, members in mapping.items() if len(members) > 1}


def test_the_golden_is_of_the_version_the_table_names() -> None:
    assert f"{GOLDEN['engine']} {GOLDEN['version']}" == SOURCE
    assert len(GOLDEN["architectures"]) > 300


@pytest.mark.parametrize("architecture", sorted(FUSIONS))
def test_what_is_fused_is_what_vllm_lists_and_what_it_adds_when_built(architecture: str) -> None:
    more = WHEN_BUILT.get(architecture, {})
    assert dict(FUSIONS[architecture].packed) == {**listed(architecture), **more}


@pytest.mark.parametrize("architecture", sorted(FUSIONS))
def test_names_are_changed_as_vllm_changes_them(architecture: str) -> None:
    rules = GOLDEN["architectures"][architecture]["names"].get("orig_to_new_prefix", {})
    kept = {old: new for old, new in rules.items() if new is not None}
    assert dict(FUSIONS[architecture].prefixes) == {
        old: new for old, new in kept.items() if old in FUSIONS[architecture].prefixes
    }
    for old, new in kept.items():
        assert FUSIONS[architecture].rename(f"{old}x.y") == f"{new}x.y"


def test_what_is_said_to_be_added_when_built_is_not_listed() -> None:
    for architecture, more in WHEN_BUILT.items():
        assert not set(more) & set(listed(architecture)), architecture


def test_an_unknown_architecture_has_the_common_fusions() -> None:
    assert fusion_of("NoSuchModel") is DEFAULT
    assert fusion_of(None).group("a.k_proj") == ("a.qkv_proj", ("a.q_proj", "a.k_proj", "a.v_proj"))


def test_low_rank_projections_and_experts_are_groups() -> None:
    fusion = fusion_of("DeepseekV3ForCausalLM")
    name = "model.layers.3.self_attn.q_a_proj"
    assert fusion.group(name)[0] == "model.layers.3.self_attn.fused_qkv_a_proj"
    assert expert_group("model.layers.3.mlp.experts.17.up_proj") == "model.layers.3.mlp.experts"
    assert expert_group("model.layers.3.mlp.shared_experts.up_proj") is None


def test_a_vision_tower_is_renamed_and_its_qkv_stands_alone() -> None:
    fusion = fusion_of("Qwen2_5_VLForConditionalGeneration")
    assert fusion.rename("model.visual.blocks.0.attn.qkv") == "visual.blocks.0.attn.qkv"
    assert fusion.group("model.visual.blocks.0.attn.qkv")[1] == ("model.visual.blocks.0.attn.qkv",)
    assert fusion.group("model.visual.blocks.0.mlp.up_proj")[0].endswith("mlp.gate_up_proj")
    assert fusion.rename("model.layers.0.x") == "language_model.model.layers.0.x"
    assert fusion.rename("lm_head") == "lm_head"
