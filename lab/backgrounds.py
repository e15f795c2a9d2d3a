"""Procedural backgrounds of a scene, each with the words that describe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Draw = Callable[[np.random.Generator, int], Image.Image]


@dataclass(frozen=True, slots=True)
class Background:
    """`phrase` places things on it ("on the green grass"); `name` names it ("the green grass")."""

    name: str
    phrase: str
    draw: Draw


def _noise(rng: np.random.Generator, size: int, colour: tuple[int, int, int], spread: float, grain: int) -> Image.Image:
    cells = max(2, size // grain)
    field = rng.normal(0.0, spread, (cells, cells, 1)) + np.array(colour) + rng.normal(0.0, 8.0, 3)
    small = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BILINEAR)


def _grass(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (70, 150, 55), 16, 4)
    draw = ImageDraw.Draw(image)
    for x, y, tall in rng.integers(0, size, (90, 3)):
        draw.line((x, y, x + tall % 3 - 1, y - 2 - tall % 5), fill=(40, 110 + int(tall) % 60, 30))
    return image


def _sand(rng: np.random.Generator, size: int) -> Image.Image:
    return _noise(rng, size, (222, 196, 130), 12, 2)


def _snow(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (232, 238, 246), 5, 12)
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers(0, size, (25, 2)):
        draw.ellipse((x, y, x + 2, y + 2), fill=(200, 214, 236))
    return image


def _water(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (50, 120, 200), 8, 10)
    draw = ImageDraw.Draw(image)
    for x, y, wide in rng.integers(0, size, (30, 3)):
        draw.arc((x, y, x + 6 + wide % 10, y + 6), 200, 340, fill=(150, 200, 240))
    return image


def _bricks(rng: np.random.Generator, size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), (200, 190, 180))
    draw = ImageDraw.Draw(image)
    tall, wide = int(rng.integers(9, 14)), int(rng.integers(20, 30))
    for row in range(size // tall + 1):
        for column in range(-1, size // wide + 2):
            x, y = column * wide + (row % 2) * wide // 2, row * tall
            shade = int(rng.normal(0, 10))
            draw.rectangle((x, y, x + wide - 2, y + tall - 2), fill=(165 + shade, 75 + shade, 60 + shade))
    return image


def _wood(rng: np.random.Generator, size: int) -> Image.Image:
    image = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(image)
    plank = int(rng.integers(14, 22))
    for x in range(0, size, plank):
        shade = int(rng.normal(0, 10))
        draw.rectangle((x, 0, x + plank, size), fill=(160 + shade, 112 + shade, 66 + shade))
        draw.line((x, 0, x, size), fill=(90, 60, 35))
    return image


def _night(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (18, 20, 52), 5, 20)
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers(0, size, (40, 2)):
        draw.point((x, y), fill=(235, 235, 215))
    return image


def _road(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (108, 108, 112), 7, 2)
    draw = ImageDraw.Draw(image)
    y, dash = int(rng.integers(size // 3, 2 * size // 3)), int(rng.integers(12, 22))
    for x in range(0, size, 2 * dash):
        draw.rectangle((x, y, x + dash, y + 3), fill=(235, 235, 235))
    return image


def _carpet(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (160, 30, 45), 6, 2)
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(12, 20))
    for x in range(0, size, step):
        for y in range(0, size, step):
            draw.polygon(((x, y + 3), (x + 3, y), (x + 6, y + 3), (x + 3, y + 6)), outline=(205, 160, 80))
    return image


def _paper(rng: np.random.Generator, size: int) -> Image.Image:
    image = _noise(rng, size, (248, 246, 236), 2, 8)
    draw = ImageDraw.Draw(image)
    for y in range(int(rng.integers(4, 9)), size, int(rng.integers(9, 13))):
        draw.line((0, y, size, y), fill=(150, 180, 220))
    return image


BACKGROUNDS: tuple[Background, ...] = (
    Background("the green grass", "on the green grass", _grass),
    Background("the yellow sand", "on the yellow sand", _sand),
    Background("the white snow", "in the white snow", _snow),
    Background("the blue water", "on the blue water", _water),
    Background("the brick wall", "before the brick wall", _bricks),
    Background("the wooden floor", "on the wooden floor", _wood),
    Background("the night sky", "under the night sky", _night),
    Background("the grey road", "on the grey road", _road),
    Background("the red carpet", "on the red carpet", _carpet),
    Background("the lined paper", "on the lined paper", _paper),
)
