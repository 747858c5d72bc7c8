"""Synthetic pictures made by counting: the same pixels on every machine and library version."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["disc", "gradient", "squares"]

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards, blue along both and wraps around."""
    y, x = np.indices((height, width))
    channels = [x * 255 // (width - 1), y * 255 // (height - 1), (x * 3 + y * 5) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def disc(size: int, color: Color) -> Image.Image:
    """A disc in the middle of a white square, half as wide as the picture."""
    y, x = np.indices((size, size))
    inside = (2 * x - size + 1) ** 2 + (2 * y - size + 1) ** 2 <= (size // 2) ** 2
    return _paint(np.asarray(inside), color)


def squares(size: int, count: int, color: Color) -> Image.Image:
    """A row of ``count`` equal squares on white, with gaps as wide as they are."""
    side = size // (2 * count + 1)
    y, x = np.indices((size, size))
    inside = (x // side % 2 == 1) & (x // side < 2 * count) & (abs(2 * y - size) < side)
    return _paint(np.asarray(inside), color)


def _paint(inside: np.ndarray, color: Color) -> Image.Image:
    pixels = np.where(inside[..., None], np.array(color), np.array(WHITE))
    return Image.fromarray(pixels.astype(np.uint8))
