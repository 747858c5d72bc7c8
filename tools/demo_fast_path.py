"""The demo model's forward for equal pictures: the same modules' weights, no Python loops.

Hugging Face's vision tower without flash-attn calls attention once per window of every picture,
and builds positions picture by picture. Here all pictures have one size, so windows are a
reshape and positions are constants. ``check_fast_path`` compares the two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as f
from demo_batches import IGNORED, IMAGE_START, IMAGE_TOKENS, PAD, Batch
from torch import Tensor, nn

__all__ = ["FastPath", "check_fast_path", "patchify"]

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_PATCH, _GRID, _MERGE, _WINDOW = 14, 8, 2, 2
_PATCHES = _GRID * _GRID


@lru_cache
def _pixel_scale(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(_MEAN, device=device), torch.tensor(_STD, device=device)


def patchify(images: Tensor) -> Tensor:
    """Patches of uint8 pictures as ``Qwen2VLImageProcessor`` makes them.

    Args:
        images: ``[S, 112, 112, 3]`` uint8.

    Returns:
        ``[S * 64, 1176]`` float32: normalized, in merge order, the frame twice.
    """
    mean, std = _pixel_scale(images.device)
    x = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    n, half = len(images), _GRID // _MERGE
    x = x.reshape(n, 3, half, _MERGE, _PATCH, half, _MERGE, _PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return x.reshape(n * _PATCHES, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _norm(x: Tensor, norm: Any) -> Tensor:
    return f.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


class FastPath(nn.Module):
    """Logits of batches for a ``Qwen2_5_VLForConditionalGeneration``, sharing its parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        device = model.device
        half, windows = _GRID // _MERGE, _GRID // _MERGE // _WINDOW
        tokens = torch.arange(half * half).view(windows, _WINDOW, windows, _WINDOW)
        order = tokens.transpose(1, 2).flatten()
        self.window_order = order.to(device)
        self.window_back = order.argsort().to(device)
        self.vision_cos, self.vision_sin = self._vision_rope(order)
        self.text_cos, self.text_sin = self._text_rope()

    def _vision_rope(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """[64, 1, head_dim] cosines and sines of the patches in window order."""
        visual = self.model.model.visual
        half = _GRID // _MERGE
        row, column = torch.meshgrid(torch.arange(_GRID), torch.arange(_GRID), indexing="ij")
        places = torch.stack([row, column], dim=-1).view(half, _MERGE, half, _MERGE, 2)
        places = places.transpose(1, 2).reshape(half * half, _MERGE * _MERGE, 2)[order]
        frequencies = visual.rotary_pos_emb.inv_freq.float().cpu()
        angles = (places.reshape(-1, 2, 1) * frequencies).flatten(1)
        angles = torch.cat([angles, angles], dim=-1)[:, None].to(self.model.device)
        return angles.cos(), angles.sin()

    def _text_rope(self, length: int = 64) -> tuple[Tensor, Tensor]:
        """[2, 1, 64, head_dim] cosines and sines: rows with a picture, rows without."""
        rotary = self.model.model.language_model.rotary_emb
        half = _GRID // _MERGE
        plain = torch.arange(length).expand(3, -1)
        after = torch.arange(length - IMAGE_START - IMAGE_TOKENS) + IMAGE_START + half
        row, column = torch.meshgrid(torch.arange(half), torch.arange(half), indexing="ij")
        picture = torch.stack([torch.zeros_like(row), row, column]).flatten(1) + IMAGE_START
        shown = torch.cat([plain[:, :IMAGE_START], picture, after.expand(3, -1)], dim=1)
        frequencies = rotary.inv_freq.float().cpu()
        angles = torch.stack([shown, plain], dim=1)[..., None] * frequencies
        sections = angles.split(list(rotary.mrope_section), dim=-1)
        angles = torch.cat([part[i % 3] for i, part in enumerate(sections)], dim=-1)
        angles = torch.cat([angles, angles], dim=-1)[:, None].to(self.model.device)
        return angles.cos(), angles.sin()

    def see(self, images: Tensor) -> Tensor:
        """``[S, 16, hidden]`` picture tokens of ``[S, 112, 112, 3]`` uint8 pictures."""
        visual, n = self.model.model.visual, len(images)
        weight = visual.patch_embed.proj.weight
        x = patchify(images).view(n, _GRID * _GRID // 4, 4, -1)[:, self.window_order]
        # float32 between the blocks, also under autocast.
        x = f.linear(x.reshape(n, _PATCHES, -1), weight.flatten(1)).float()
        for index, block in enumerate(visual.blocks):
            windows = 1 if index in visual.fullatt_block_indexes else (_GRID // 4) ** 2
            x = x + self._vision_attention(block.attn, _norm(x, block.norm1), windows)
            x = x + block.mlp(_norm(x, block.norm2))
        merger = visual.merger
        merged: Tensor = merger.mlp(_norm(x, merger.ln_q).view(n, IMAGE_TOKENS, -1))
        return merged[:, self.window_back]

    def _vision_attention(self, attention: Any, x: Tensor, windows: int) -> Tensor:
        n, length = len(x), _PATCHES // windows
        qkv = attention.qkv(x).view(n, _PATCHES, 3, attention.num_heads, -1)
        q, k, v = qkv.unbind(2)
        q = _rotate(q.float(), self.vision_cos, self.vision_sin).to(v.dtype)
        k = _rotate(k.float(), self.vision_cos, self.vision_sin).to(v.dtype)
        shape = (n * windows, length, attention.num_heads, -1)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in (q, k, v))
        out = f.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = attention.proj(out.transpose(1, 2).reshape(n, _PATCHES, -1))
        return mixed

    def forward(self, batch: Batch) -> Tensor:
        """``[B, 64, vocabulary]`` logits."""
        language = self.model.model.language_model
        x = language.embed_tokens(batch.tokens)
        seen = self.see(batch.images).to(x.dtype)
        shown = 2 * len(seen)
        start, end = IMAGE_START, IMAGE_START + IMAGE_TOKENS
        pictured = torch.cat([x[:shown, :start], seen.repeat(2, 1, 1), x[:shown, end:]], dim=1)
        x = torch.cat([pictured, x[shown:]])
        counts = (shown, len(x) - shown)
        cos, sin = (
            torch.cat([part[i].expand(n, -1, -1) for i, n in enumerate(counts)])
            for part in (self.text_cos, self.text_sin)
        )
        for layer in language.layers:
            normed = _norm(x, layer.input_layernorm)
            x = x + self._text_attention(layer.self_attn, normed, cos[:, None], sin[:, None])
            x = x + layer.mlp(_norm(x, layer.post_attention_layernorm))
        logits: Tensor = self.model.lm_head(_norm(x, language.norm))
        return logits

    def _text_attention(self, attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (*x.shape[:2], -1, attention.head_dim)
        q, k, v = (
            proj(x).view(shape).transpose(1, 2)
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = (
            _rotate(q, cos.to(q.dtype), sin.to(q.dtype)),
            _rotate(k, cos.to(k.dtype), sin.to(k.dtype)),
        )
        k, v = (part.repeat_interleave(attention.num_key_value_groups, dim=1) for part in (k, v))
        out = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed: Tensor = attention.o_proj(out.transpose(1, 2).flatten(2))
        return mixed


@torch.no_grad()
def check_fast_path(fast: FastPath, batch: Batch, tolerance: float = 1e-3) -> float:
    """Relative L2 distance to the unmodified forward's logits at all real tokens.

    Raises:
        RuntimeError: Above ``tolerance`` (float32), or not a number.
    """
    model, shown = fast.model, 2 * len(batch.images)
    logits = fast(batch)
    real = _real_tokens(batch)
    grid = torch.tensor([[1, _GRID, _GRID]] * shown, device=batch.tokens.device)
    first = model(
        input_ids=batch.tokens[:shown],
        attention_mask=real[:shown].long(),
        mm_token_type_ids=(batch.tokens[:shown] == model.config.image_token_id).int(),
        pixel_values=patchify(batch.images).repeat(2, 1),
        image_grid_thw=grid,
    ).logits
    rest = model(input_ids=batch.tokens[shown:], attention_mask=real[shown:].long()).logits
    expected = torch.cat([first, rest])[real].double()
    error = float((logits[real].double() - expected).norm() / expected.norm())
    if not error <= tolerance:
        raise RuntimeError(f"the fast forward is off by {error:.1e} (relative L2)")
    return error


def _real_tokens(batch: Batch) -> Tensor:
    """[B, 64] bool: everything before the padding (a passage's own end token is real)."""
    return (batch.tokens != PAD) | (batch.labels != IGNORED)
