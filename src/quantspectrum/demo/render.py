"""Pictures of scenes: integer arithmetic only, so every device draws the same bytes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from quantspectrum.demo.scenes import GRID, MAX_OBJECTS, Scenes, draw
from quantspectrum.demo.vocabulary import COLORS, SHAPES

__all__ = ["IMAGE_SIZE", "render"]

IMAGE_SIZE = 112
"""Side of a picture in pixels: 8 x 8 patches of 14."""

_RGB = {
    "red": (220, 40, 40),
    "green": (50, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 50),
    "purple": (150, 60, 190),
    "orange": (240, 130, 30),
    "cyan": (60, 200, 210),
    "white": (235, 235, 235),
}
_CELL_STEP = 37
_CELL_CENTER = 19
_JITTER = 4
_SMALL_RADIUS, _BIG_RADIUS, _RADII = 6, 11, (3, 4)
_SHADE, _NOISE = 16, 6
_DARK, _BACKGROUNDS = 16, 48

_SLOT_X, _SLOT_Y, _SLOT_RADIUS, _SLOT_SHADE, _SLOT_BACKGROUND = 100, 110, 120, 130, 150
_SLOT_NOISE = 160


def _slots(first: int, count: int = MAX_OBJECTS) -> range:
    return range(first, first + count)


def _mask(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Pixels inside one object: ``shape``, ``radius`` [N, 1, 1]; offsets [N, 1, W] and [N, H, 1]."""
    ax, ay = dx.abs(), dy.abs()
    distance = dx * dx + dy * dy
    far, near = torch.maximum(ax, ay), torch.minimum(ax, ay)
    inside = {
        "circle": distance <= radius * radius,
        "square": 8 * far <= 7 * radius,
        "triangle": (2 * ax <= dy + radius) & (dy <= radius),
        "diamond": ax + ay <= radius,
        "cross": (3 * near <= radius) & (far <= radius),
        "ring": (distance <= radius * radius) & (10 * distance >= 3 * radius * radius),
    }
    result = torch.zeros_like(distance, dtype=torch.bool)
    for index, name in enumerate(SHAPES):
        result |= (shape == index) & inside[name]
    return result


@lru_cache
def _rgb_table(device: torch.device) -> Tensor:
    """[8, 3] colours by index; kept, since copying them to a GPU anew would wait for it."""
    return torch.tensor([_RGB[name] for name in COLORS], device=device)


def _object_rgb(scenes: Scenes) -> Tensor:
    """[N, 4, 3] colour of each object: its name's colour, a little off."""
    table = _rgb_table(scenes.key.device)
    shade = draw(scenes.key, _slots(_SLOT_SHADE, 3 * MAX_OBJECTS), 2 * _SHADE + 1) - _SHADE
    return table[scenes.color] + shade.view(len(scenes), MAX_OBJECTS, 3)


def _object_radius(scenes: Scenes) -> Tensor:
    """[N, 4] radius of each object in pixels."""
    small = _SMALL_RADIUS + draw(scenes.key, _slots(_SLOT_RADIUS), _RADII[0])
    big = _BIG_RADIUS + draw(scenes.key, _slots(_SLOT_RADIUS), _RADII[1])
    return torch.where(scenes.size == 1, big, small)


def render(scenes: Scenes) -> Tensor:
    """Pictures of ``scenes``.

    Returns:
        ``[N, 112, 112, 3]`` uint8 RGB: flat dark background, objects inside their cells with
        jittered place, radius and shade (they never touch), and uniform noise of +-6 levels.
    """
    device = scenes.key.device
    center = _CELL_CENTER - _JITTER
    cx = (
        scenes.cell % GRID * _CELL_STEP
        + center
        + draw(scenes.key, _slots(_SLOT_X), 2 * _JITTER + 1)
    )
    cy = (
        scenes.cell // GRID * _CELL_STEP
        + center
        + draw(scenes.key, _slots(_SLOT_Y), 2 * _JITTER + 1)
    )
    radius, rgb, present = _object_radius(scenes), _object_rgb(scenes), scenes.present

    background = _DARK + draw(scenes.key, _slots(_SLOT_BACKGROUND, 3), _BACKGROUNDS)
    image = background[:, None, None, :].to(torch.int16)
    image = image.expand(-1, IMAGE_SIZE, IMAGE_SIZE, -1)
    axis = torch.arange(IMAGE_SIZE, device=device, dtype=torch.int32)
    narrow = [x.to(torch.int32)[:, :, None, None] for x in (scenes.shape, cx, cy, radius)]
    for place in range(MAX_OBJECTS):
        shape, x, y, r = (values[:, place] for values in narrow)
        mask = _mask(shape, axis[None, None, :] - x, axis[None, :, None] - y, r)
        mask &= present[:, place, None, None]
        image = torch.where(mask[..., None], rgb[:, place, None, None, :].to(torch.int16), image)
    noise = _noise(scenes.key)
    return (image + noise).clamp(0, 255).to(torch.uint8)


def _noise(key: Tensor) -> Tensor:
    """[N, 112, 112, 3] int16 in +-6: a hash of scene and pixel."""
    per_image = IMAGE_SIZE * IMAGE_SIZE * 3
    pixel = torch.arange(per_image, device=key.device)
    seeds = draw(key, _slots(_SLOT_NOISE, 1), 1 << 31)
    # Two multiply-shift rounds of 31-bit numbers: cheap, and under 2**63.
    x = (seeds ^ (pixel * 0x9E3779B1 & 0x7FFFFFFF)) * 0x21F0AAAD & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x735A2D97 & 0xFFFFFFFF
    x = (x >> 12) % (2 * _NOISE + 1) - _NOISE
    return x.to(torch.int16).view(len(key), IMAGE_SIZE, IMAGE_SIZE, 3)
