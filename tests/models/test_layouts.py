from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    T5Config,
    ViTConfig,
)

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Layout, Stack, fused_siblings, group_name
from quantspectrum.models.structure import classifier_head, longest_stack, output_head


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


TASKS = {
    "qwen3 moe": "causal-lm",
    "qwen2.5-vl": "image-text-to-text",
    "bert": "masked-lm",
    "albert": "masked-lm",
    "bert classifier": "sequence-classification",
    "swin": "image-classification",
    "unknown text": "text",
    "unknown image": "image",
}


@pytest.mark.parametrize("family", TASKS)
def test_the_architecture_says_the_task(family: str) -> None:
    model: Any = models_tiny.family(family)
    assert adapter_for(model.config).task == TASKS[family]


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (LlamaConfig(), "causal-lm"),
        (ViTConfig(), "image-classification"),
        (BertConfig(), "masked-lm"),
        (BertConfig(is_decoder=True), "causal-lm"),
        (BertConfig(architectures=["BertLMHeadModel"]), "causal-lm"),
        (BertConfig(architectures=["BertForTokenClassification"]), "text"),
        (LlamaConfig(architectures=["LlamaForSequenceClassification"]), "sequence-classification"),
        (LlamaConfig(architectures=["SomeonesOwnLlama"]), "causal-lm"),
        (PretrainedConfig(auto_map={"AutoModelForMaskedLM": "code.Model"}), "masked-lm"),
        (PretrainedConfig(auto_map={"AutoModel": "code.Model"}), "text"),
        (PretrainedConfig(auto_map={"AutoModel": "code.Model"}, image_size=8), "image"),
    ],
)
def test_a_configuration_says_the_task(config: PretrainedConfig, task: str) -> None:
    assert adapter_for(config).task == task


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (PretrainedConfig(model_type="nonsense"), "type 'nonsense' are not supported; supported"),
        (PretrainedConfig(architectures=["WhisperModel"]), "take 'input_features'; supported are"),
        (T5Config(architectures=["T5Model"]), "T5Model is an encoder-decoder model, which is not"),
    ],
)
def test_an_unsupported_model_is_refused(config: PretrainedConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        adapter_for(config)


STACKS = {
    "qwen3 moe": ("language", "model.layers", 2),
    "bert": ("encoder", "bert.encoder.layer", 2),
    "roberta": ("encoder", "roberta.encoder.layer", 2),
    "albert": ("encoder", "albert.encoder.albert_layer_groups", 1),
    "distilbert": ("encoder", "distilbert.transformer.layer", 2),
    "bert classifier": ("encoder", "bert.encoder.layer", 2),
    "vit": ("vision", None, 2),
    "dinov2": ("vision", "dinov2.encoder.layer", 2),
    "swin": ("vision", "swin.encoder.layers", 2),
}


@pytest.mark.parametrize("family", STACKS)
def test_the_stack_of_blocks_is_found(family: str) -> None:
    model = models_tiny.family(family)
    component, path, blocks = STACKS[family]
    (stack,) = layout_of(model).stacks
    # Where transformers keeps the layers of a ViT depends on its version.
    assert stack == Stack(component=component, path=path or stack.path)
    assert len(list(model.get_submodule(stack.path).children())) == blocks


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "cls.predictions.decoder"),
        ("roberta", "lm_head.decoder"),
        ("bert classifier", "classifier"),
        ("vit", "classifier"),
        ("swin", "classifier"),
        ("unknown text", None),
    ],
)
def test_the_head_is_found(family: str, head: str | None) -> None:
    layout = layout_of(models_tiny.family(family))
    assert layout.head == head
    assert head is None or layout.component(head) == "head"


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_a_layout_names_modules_that_exist(family: str) -> None:
    model = models_tiny.family(family)
    layout = layout_of(model)
    names = dict(model.named_modules())
    assert set(layout.components) <= set(names)
    assert {stack.path for stack in layout.stacks} <= set(names)
    assert layout.head is None or layout.head in names


@pytest.mark.parametrize("family", ["bert", "albert", "bert classifier", "vit", "dinov2", "swin"])
def test_query_key_and_value_of_one_block_are_one_group(family: str) -> None:
    model = models_tiny.family(family)
    layout = layout_of(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    groups = Counter(group_name(name, layout) for name in linears)
    attention = [name for name in linears if name.rpartition(".")[2] in {"key", "k_proj"}]
    assert sorted(groups.values(), reverse=True)[: len(attention)] == [3] * len(attention)
    assert max(groups.values()) == 3


def test_a_model_of_unknown_structure_has_no_stack_and_no_groups() -> None:
    for family in ("unknown text", "unknown image"):
        layout = layout_of(models_tiny.family(family))
        assert (layout.stacks, layout.fused) == ((), {})


def test_image_tokens_are_known_where_there_are_any() -> None:
    assert layout_of(models_tiny.qwen2_5_vl()).image_token_id == models_tiny.IMAGE
    assert layout_of(models_tiny.causal_lm()).image_token_id is None


def test_an_untied_head_of_a_masked_language_model_is_kept() -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, tie_word_embeddings=False,
    )  # fmt: skip
    assert layout_of(BertForMaskedLM(config)).head == "cls.predictions.decoder"


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


class DenseLayer(nn.Linear):
    pass


class SparseBlock(nn.Linear):
    pass


def test_unlike_layers_of_a_hybrid_model_are_a_stack() -> None:
    mixed = nn.ModuleList([DenseLayer(2, 2), SparseBlock(2, 2), DenseLayer(2, 2)])
    assert longest_stack(modules(mixed=mixed, like=linears(2))) == "mixed"


def test_the_classifier_is_the_last_op_that_gives_one_value_a_label() -> None:
    model = modules(
        stack=linears(3), pooler=nn.Linear(2, 2), out=nn.Linear(2, 2), more=nn.Linear(2, 4)
    )
    model.config = PretrainedConfig(num_labels=2)
    assert classifier_head(model, "stack") == "out"
    model.config = PretrainedConfig(num_labels=3)
    assert classifier_head(model, "stack") is None
