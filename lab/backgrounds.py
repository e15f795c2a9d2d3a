"""Backgrounds of a scene: drawn ones with the words that describe them, plain ones, and those that have no words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lab import photographs

Draw = Callable[[np.random.Generator, int], Image.Image]


@dataclass(frozen=True, slots=True)
class Background:
    """`phrase` places things on it ("on the green grass") and is empty if it has no words; `name` names it."""

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


def _plain(rng: np.random.Generator, size: int) -> Image.Image:
    return Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(0, 256, 3)))


def _gradient(rng: np.random.Generator, size: int) -> Image.Image:
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    corners[0, 1] = corners[0, 0] if rng.random() < 0.5 else corners[0, 1]
    return Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR)


def _clouds(rng: np.random.Generator, size: int) -> Image.Image:
    """Noise of several scales, as the spectra of photographs have it."""
    field = np.zeros((size, size, 3))
    grey = rng.random() < 0.4
    strength = rng.uniform(0.6, 1.4)
    for cells in (2, 4, 8, 16, 32, 64):
        layer = rng.normal(0, 1, (cells, cells, 1 if grey else 3)) * np.ones(3)
        small = Image.fromarray(np.clip(127 + 42 * layer, 0, 255).astype(np.uint8))
        field += (np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), float) - 127) / cells**strength
    spread = rng.uniform(20, 60) / max(1e-6, field.std())
    return Image.fromarray(np.clip(field * spread + rng.uniform(60, 200, 3), 0, 255).astype(np.uint8))


def _leaves(rng: np.random.Generator, size: int) -> Image.Image:
    """Shapes without a name over one another (dead leaves: Lee, Mumford and Huang 2001)."""
    image = _clouds(rng, size) if rng.random() < 0.5 else _gradient(rng, size)
    draw = ImageDraw.Draw(image)
    base = rng.uniform(30, 225, 3)
    for _ in range(int(rng.integers(8, 50))):
        radius = size * 0.04 / rng.uniform(0.08, 1.0)
        x, y = rng.uniform(0, size, 2)
        corners = 2 * int(rng.integers(3, 6))  # jagged, so that none is a plain shape with a name
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(-0.25, 0.25, corners)
        reach = radius * np.where(
            np.arange(corners) % 2, rng.uniform(0.3, 0.6, corners), rng.uniform(0.8, 1.3, corners)
        )
        points = [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(angles, reach, strict=True)]
        fill = tuple(int(v) for v in np.clip(base + rng.normal(0, 55, 3), 0, 255))
        draw.polygon(points, fill=fill)
    return image


def _photograph(rng: np.random.Generator, size: int) -> Image.Image:
    every = photographs.training()
    return photographs.crop(rng, every[int(rng.integers(len(every)))], size)


def _stripes(rng: np.random.Generator, size: int) -> Image.Image:
    first, second = rng.integers(0, 256, (2, 3))
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40) * size / 128
    y, x = np.mgrid[:size, :size]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    crossed = rng.random() < 0.4
    if crossed:
        wave = wave * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    hard = rng.random() < 0.5 and not crossed  # squares have a name
    share = (wave[..., None] > 0) if hard else (wave[..., None] + 1) / 2
    return Image.fromarray((first * share + second * (1 - share)).astype(np.uint8))


_WITHOUT_WORDS: tuple[tuple[Draw, float], ...] = (
    (_gradient, 0.2),
    (_clouds, 0.15),
    (_leaves, 0.2),
    (_photograph, 0.35),
    (_stripes, 0.1),
)


def _unknown(rng: np.random.Generator, size: int) -> Image.Image:
    draws, shares = zip(*_WITHOUT_WORDS, strict=True)
    return draws[int(rng.choice(len(draws), p=shares))](rng, size)


NAMED: tuple[Background, ...] = (
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
"""The drawn ones."""
PLAIN = len(NAMED)
"""Number of the background of one color."""
UNNAMED = PLAIN + 1
"""Number of the backgrounds without words: gradients, noise, patterns and photographs."""
BACKGROUNDS: tuple[Background, ...] = (
    *NAMED,
    Background("a plain background", "before a plain background", _plain),
    Background("unknown", "", _unknown),
)
