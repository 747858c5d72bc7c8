from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig, PretrainedConfig, ViTConfig

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Layout, Stack, fused_siblings, group_name
from quantspectrum.models.causal_lm import longest_stack, output_head


def layout_of(model: Any) -> Layout:
    return adapter_for(model.config).layout(model)


@pytest.mark.parametrize("family", models_tiny.CAUSAL_LMS)
def test_causal_lm_layout(family: str) -> None:
    model = models_tiny.causal_lm(family)
    layout = layout_of(model)
    assert layout.stacks == (Stack(component="language", path="model.layers"),)
    assert layout.head == "lm_head"
    assert layout.component("model.layers.1.mlp.up_proj") == "language"
    assert layout.component("lm_head") == "head"
    assert layout.block("model.layers.1.mlp.up_proj") == 1
    assert layout.block("lm_head") is None


def test_gpt2_layout() -> None:
    layout = layout_of(models_tiny.gpt2())
    assert layout.stacks == (Stack(component="language", path="transformer.h"),)
    assert layout.head == "lm_head"
    assert layout.block("transformer.h.1.mlp.c_fc") == 1
    assert layout.component("transformer.h.1.mlp.c_fc") == "language"


def test_a_decoder_in_a_deeper_module_is_found() -> None:
    config = OPTConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=3, ffn_dim=32, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    layout = layout_of(AutoModelForCausalLM.from_config(config))
    assert layout.stacks == (Stack(component="language", path="model.decoder.layers"),)
    assert layout.block("model.decoder.layers.2.fc1") == 2


def test_qwen2_5_vl_layout_names_modules_that_exist(vl: nn.Module) -> None:
    layout = layout_of(vl)
    names = dict(vl.named_modules())
    assert set(layout.components) <= set(names)
    assert [len(list(names[stack.path].children())) for stack in layout.stacks] == [2, 2]
    assert isinstance(names[layout.head or ""], nn.Linear)


@pytest.mark.parametrize(
    ("name", "component", "block"),
    [
        ("model.visual.patch_embed.proj", "vision", None),
        ("model.visual.blocks.0.attn.qkv", "vision", 0),
        ("model.visual.blocks.1.mlp.down_proj", "vision", 1),
        ("model.visual.merger.mlp.2", "merger", None),
        ("model.language_model.layers.1.self_attn.k_proj", "language", 1),
        ("lm_head", "head", None),
        ("model.visualizer.proj", "other", None),
        ("audio.proj", "other", None),
    ],
)
def test_qwen2_5_vl_components(vl: nn.Module, name: str, component: str, block: int | None) -> None:
    layout = layout_of(vl)
    assert (layout.component(name), layout.block(name)) == (component, block)


def test_every_op_of_qwen2_5_vl_has_a_component(vl: nn.Module) -> None:
    layout = layout_of(vl)
    linears = [name for name, module in vl.named_modules() if isinstance(module, nn.Linear)]
    assert {layout.component(n) for n in linears} == {"vision", "merger", "language", "head"}


def test_adapters_know_their_task(vl: nn.Module, llama: nn.Module) -> None:
    models: list[Any] = [vl, llama]
    assert [adapter_for(m.config).task for m in models] == ["image-text-to-text", "causal-lm"]


@pytest.mark.parametrize("config", [ViTConfig(), PretrainedConfig(model_type="nonsense")])
def test_an_unsupported_model_is_refused(config: PretrainedConfig) -> None:
    with pytest.raises(UserError, match=f"'{config.model_type}' are not supported; supported are"):
        adapter_for(config)


@pytest.mark.parametrize(
    ("name", "group", "members"),
    [
        ("a.attn.k_proj", "a.attn.qkv_proj", ("a.attn.q_proj", "a.attn.k_proj", "a.attn.v_proj")),
        ("a.mlp.up_proj", "a.mlp.gate_up_proj", ("a.mlp.gate_proj", "a.mlp.up_proj")),
        ("q_proj", "qkv_proj", ("q_proj", "k_proj", "v_proj")),
        ("a.attn.o_proj", "a.attn.o_proj", ("a.attn.o_proj",)),
        ("a.q_proj.inner", "a.q_proj.inner", ("a.q_proj.inner",)),
    ],
)
def test_fused_ops(vl: nn.Module, name: str, group: str, members: tuple[str, ...]) -> None:
    assert fused_siblings(name, layout_of(vl)) == (group, members)
    assert group_name(name, layout_of(vl)) == group


def modules(**named: nn.Module) -> nn.Module:
    holder = nn.Module()
    for name, module in named.items():
        holder.add_module(name, module)
    return holder


def linears(count: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(2, 2) for _ in range(count)])


def test_the_longest_list_of_like_modules_is_the_stack() -> None:
    assert longest_stack(modules(a=linears(2), b=linears(3), c=linears(3))) == "b"


def test_a_list_of_unlike_modules_is_no_stack() -> None:
    mixed = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)])
    assert longest_stack(modules(mixed=mixed, like=linears(2))) == "like"


def test_lists_inside_the_blocks_are_no_stack() -> None:
    blocks = nn.ModuleList([modules(experts=linears(8)) for _ in range(2)])
    assert longest_stack(modules(layers=blocks)) == "layers"


def test_a_model_without_blocks_has_no_stack() -> None:
    assert longest_stack(modules(op=nn.Linear(2, 2))) is None


def test_a_model_that_names_no_head_has_none() -> None:
    assert output_head(modules(op=nn.Linear(2, 2))) is None
