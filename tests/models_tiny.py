"""Tiny models with random weights, a byte-level tokenizer and hand-made batches: no files needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    YolosConfig,
    YolosForObjectDetection,
)

from processors_tiny import (
    ENCODER_PAD,
    IM_END,
    IMAGE,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    encoder_tokenizer,
    image_processor,
    processor,
    tokenizer,
)
from quantspectrum.artifacts import DataIdentity
from quantspectrum.data.encode import Batch
from quantspectrum.models import adapter_for
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.provenance import describe_model

# The formats that every stage, from scores to checkpoints, handles.
FORMATS = ("w8a8", "w8a8-static", "w8a8-static-affine")

PICTURE = 8
"""Patches along each side of a hand-made picture: four windows of the vision tower."""

_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": IM_END,
    "pad_token_id": PAD,
    # Larger than usual, so that two random layers give logits that depend on the input.
    "initializer_range": 0.1,
}

CAUSAL_LMS = ("llama", "qwen2", "qwen3")
"""Names of the plain decoders that :func:`causal_lm` makes."""


def causal_lm(family: str = "llama", *, seed: int = 0, **settings: Any) -> nn.Module:
    """A two-layer decoder in float32; ``settings`` go over those of the configuration."""
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[family]
    extra = {"head_dim": 16} if family == "qwen3" else {}
    torch.manual_seed(seed)
    return _random(model(config(**_DECODER | extra | {"tie_word_embeddings": False} | settings)))


def gpt2(*, seed: int = 0) -> nn.Module:
    """A two-layer GPT-2, whose projections are ``Conv1D`` and whose head is tied."""
    torch.manual_seed(seed)
    return _random(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=64,
                n_layer=2,
                n_head=4,
                n_positions=256,
                bos_token_id=PAD,
                eos_token_id=PAD,
            )
        )
    )


def qwen2_5_vl(*, seed: int = 0, tied: bool = False) -> nn.Module:
    """A Qwen2.5-VL with a windowed and a full-attention vision block and two language layers."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLConfig(
        text_config=_DECODER | {"rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
            "initializer_range": 0.1,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    return _random(Qwen2_5_VLForConditionalGeneration(config))


def qwen3_moe(*, seed: int = 0) -> nn.Module:
    """A decoder whose experts are fused tensors, four a layer of which two run per token."""
    moe = {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    return _random(Qwen3MoeForCausalLM(Qwen3MoeConfig(**_DECODER | moe)))


def detector(*, seed: int = 0) -> nn.Module:
    """Logits and boxes: an output that is compared, and one that is not."""
    size = [_VISION["image_size"]] * 2
    config = YolosConfig(**_VISION | {"image_size": size, "num_detection_tokens": 5})
    torch.manual_seed(seed)
    return _random(YolosForObjectDetection(config))


_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": ENCODER_PAD,
    "initializer_range": 0.1,
}
_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
    "initializer_range": 0.1,
}


def bert(*, seed: int = 0, **settings: Any) -> nn.Module:
    """A two-layer BERT with its head for masked tokens."""
    torch.manual_seed(seed)
    return _random(BertForMaskedLM(BertConfig(**_ENCODER | settings)))


def _swin() -> nn.Module:
    config = SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[1, 2], window_size=4,
        num_labels=5,
    )  # fmt: skip
    return SwinForImageClassification(config)


def _distilbert() -> nn.Module:
    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=64,
        hidden_dim=96,
        n_layers=2,
        n_heads=4,
        pad_token_id=ENCODER_PAD,
    )
    return DistilBertForMaskedLM(config)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: causal_lm("llama"),
    "qwen2": lambda: causal_lm("qwen2"),
    "qwen3": lambda: causal_lm("qwen3"),
    "qwen3 moe": qwen3_moe,
    "qwen2.5-vl": lambda: qwen2_5_vl(),
    "bert": bert,
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**_ENCODER)),
    "albert": lambda: AlbertForMaskedLM(AlbertConfig(**_ENCODER, embedding_size=32)),
    "distilbert": _distilbert,
    "bert classifier": lambda: BertForSequenceClassification(BertConfig(**_ENCODER, num_labels=3)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**_VISION)),
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**_VISION)),
    "swin": _swin,
    "unknown text": lambda: T5EncoderModel(
        T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4)
    ),
    "unknown image": lambda: ViTModel(ViTConfig(**_VISION)),
}
"""Makers of a tiny model of every kind that can be served; see :func:`family`."""


def family(name: str, *, seed: int = 0) -> nn.Module:
    """A model of :data:`FAMILIES`, in float32."""
    torch.manual_seed(seed)
    return _random(FAMILIES[name]())


def _random(model: nn.Module) -> nn.Module:
    """Give biases and norms random values too: zeros and ones would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    # What `save_pretrained` writes, so that a model is known in memory as it is on disk.
    model.config.architectures = [type(model).__name__]
    return model.eval().requires_grad_(False)


def processor_for(model: nn.Module) -> Any:
    """The processor that goes with a model of this module."""
    task = adapter_for(model.config).task
    if task == "image-text-to-text":
        return processor()
    if task in ("image-classification", "image"):
        return image_processor()
    return tokenizer() if task == "causal-lm" else encoder_tokenizer()


def loaded(model: nn.Module, **changes: Any) -> Loaded:
    """The model as if :func:`quantspectrum.models.loading.load_model` had loaded it on the CPU."""
    config: Any = model.config
    adapter = adapter_for(config)
    dtype = next(model.parameters()).dtype
    made: dict[str, Any] = {
        "model": model,
        "processor": processor_for(model),
        "config": config,
        "adapter": adapter,
        "layout": adapter.layout(model),
        "identity": describe_model(model, config, model_id="tiny", revision=None),
        "device": torch.device("cpu"),
        "spec": ModelSpec(model="tiny", device="cpu", dtype=str(dtype).removeprefix("torch.")),
        "storage_dtype": dtype,
    }
    return Loaded(**made | changes)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the parameters in place, and not the float32 buffers of the rotary embeddings."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def save(model: nn.Module, directory: Path, dtype: torch.dtype | None = None) -> Path:
    """Write model and processor as Hugging Face does, cast to ``dtype`` first if it is given."""
    if dtype is not None:
        cast(model, dtype)
    model.save_pretrained(directory)
    processor_for(model).save_pretrained(directory)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Overwrite keys of a saved ``config.json``."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def text_batch(
    lengths: Sequence[int] = (7, 12), *, seed: int = 0, name: str = "text", vision: bool = False
) -> Batch:
    """Random bytes, one row a length, padded on the right; ``vision`` adds the token types."""
    rng = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.full((len(lengths), width), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(0, 256, (length,), generator=rng)
    return _batch(ids, lengths, name, {"mm_token_type_ids": ids * 0} if vision else {})


def image_batch(lengths: Sequence[int] = (9, 5), *, seed: int = 0, name: str = "image") -> Batch:
    """One random picture a row, then random bytes, padded on the right."""
    rng = torch.Generator().manual_seed(seed)
    tokens = (PICTURE // 2) ** 2
    picture = [VISION_START, *[IMAGE] * tokens, VISION_END]
    whole = [len(picture) + length for length in lengths]
    ids = torch.full((len(lengths), max(whole)), PAD)
    for row, length in enumerate(lengths):
        text = torch.randint(0, 256, (length,), generator=rng)
        ids[row, : whole[row]] = torch.cat([torch.tensor(picture), text])
    grid = torch.tensor([[1, PICTURE, PICTURE]] * len(lengths))
    pixels = torch.randn(len(lengths) * PICTURE**2, 3 * 2 * 14 * 14, generator=rng)
    media = {"pixel_values": pixels, "image_grid_thw": grid}
    return _batch(ids, whole, name, media | {"mm_token_type_ids": (ids == IMAGE).long()})


def pixel_batch(count: int = 3, *, seed: int = 0, name: str = "pixels") -> Batch:
    """Random pictures of 32 x 32 pixels for classifiers, which have no tokens."""
    rng = torch.Generator().manual_seed(seed)
    return Batch(
        inputs={"pixel_values": torch.randn(count, 3, 32, 32, generator=rng)},
        target=torch.zeros(count, 0, dtype=torch.bool),
        sample_ids=tuple(f"{name}:{row}" for row in range(count)),
        kinds=("image+text",) * count,
    )


def _batch(ids: Tensor, lengths: Sequence[int], name: str, more: dict[str, Tensor]) -> Batch:
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    target = mask.bool().clone()
    target[:, 0] = False
    return Batch(
        inputs={"input_ids": ids, "attention_mask": mask, **more},
        target=target,
        sample_ids=tuple(f"{name}:{row}" for row in range(len(lengths))),
        kinds=("image+text" if "pixel_values" in more else "text",) * len(lengths),
    )


def identities(*batches: Batch) -> tuple[DataIdentity, ...]:
    """Data identities such as a scan over these batches would carry."""
    names = ",".join(name for batch in batches for name in batch.sample_ids)
    return (
        DataIdentity(
            source="made up", split="selection", samples=names.count(",") + 1, sha256=names
        ),
    )


@torch.inference_mode()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    """The model's plain forward pass."""
    found = model(**batch.inputs, use_cache=False).logits
    assert isinstance(found, Tensor)
    return found


def forwards(model: nn.Module) -> dict[str, object]:
    """Every forward that an instance carries in place of its class's."""
    return {n: m.__dict__["forward"] for n, m in model.named_modules() if "forward" in m.__dict__}


def hooks(model: nn.Module) -> int:
    """Number of forward hooks and pre-hooks anywhere in the model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def weights(model: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Where every parameter lies and a copy of its values."""
    return {n: (p.data_ptr(), p.detach().clone()) for n, p in model.named_parameters()}
