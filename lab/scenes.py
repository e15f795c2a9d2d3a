"""Scenes of known content: a few kinds of objects in distinct cells on a background.

`draw_scene(seed)` returns the image and its ground truth; the same seed gives the same scene.
The sprites are the glyphs of Noto Color Emoji (SIL Open Font License 1.1; Debian package
`fonts-noto-color-emoji`).
"""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab.backgrounds import BACKGROUNDS
from lab.objects import KINDS, Kind

SIZE = 128
"""Side of a drawn scene in pixels."""

TRAIN_SEED, HELD_OUT_SEED, CALIBRATION_SEED = 1, 2, 3
"""First part of a scene's seed, `(stream, index)`: the streams never meet."""

SAMPLE_SCENE = (HELD_OUT_SEED, 7)

FONT = Path(os.environ.get("DEMO_EMOJIFONT", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"))
_STRIKE = 109  # the only bitmap size that the font holds

_CELLS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}


class FontMissing(RuntimeError):
    """The emoji font that draws the objects is not installed."""


@dataclass(frozen=True, slots=True)
class Group:
    """All objects of one kind in a scene."""

    noun: str
    count: int
    size: str
    """"large" or "small"."""
    cell: str
    """"center" or one of "top left", "top right", "bottom left", "bottom right"."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """Left, top, right, bottom of each object, as shares of the picture's side."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be seen. `groups`: large before small, then in reading order; no kind appears twice."""

    background: int
    groups: tuple[Group, ...]

    @property
    def nouns(self) -> set[str]:
        return {group.noun for group in self.groups}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        groups = (Group(**{**group, "boxes": tuple(map(tuple, group["boxes"]))}) for group in data["groups"])
        return cls(data["background"], tuple(groups))


@functools.cache
def _sprite(glyph: str) -> Image.Image:
    if not FONT.is_file():
        raise FontMissing(
            f"The emoji font {FONT} is missing: install Debian's fonts-noto-color-emoji or set DEMO_EMOJIFONT."
        )
    font = ImageFont.truetype(str(FONT), _STRIKE)
    image = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
    ImageDraw.Draw(image).text((_STRIKE // 4, _STRIKE // 4), glyph, font=font, embedded_color=True)
    return image.crop(image.getchannel("A").getbbox())


def _paste(
    canvas: Image.Image, kind: Kind, rng: np.random.Generator, side: float, x: float, y: float
) -> tuple[float, ...]:
    sprite = _sprite(kind.glyph)
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = side / max(sprite.size)
    sprite = sprite.resize(tuple(max(4, round(length * scale)) for length in sprite.size), Image.Resampling.HAMMING)
    turned = sprite.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getchannel("A").getbbox())
    turned.thumbnail((side * 1.1, side * 1.1))
    wide, tall = turned.size
    left = int(np.clip(round(x - wide / 2), 0, canvas.width - wide))
    top = int(np.clip(round(y - tall / 2), 0, canvas.height - tall))
    canvas.paste(turned, (left, top), turned)
    return tuple(round(v / canvas.width, 4) for v in (left, top, left + wide, top + tall))


def reading_order(group: Group) -> int:
    """Row by row, left to right."""
    return [*_CELLS, "center"].index(group.cell)


def _sides(rng: np.random.Generator, alone: bool, count: int) -> tuple[str, float]:
    if count > 1:
        return "small", float(rng.uniform(0.21, 0.25))
    if rng.random() < 0.5:
        return "small", float(rng.uniform(0.23, 0.29))
    return "large", float(rng.uniform(0.50, 0.68) if alone else rng.uniform(0.39, 0.48))


_OFFSETS = {1: ((0.0, 0.0),), 2: ((-0.12, 0.03), (0.12, -0.03)), 3: ((-0.12, 0.1), (0.12, 0.1), (0.0, -0.11))}


def draw_scene(seed: tuple[int, int], kinds: tuple[Kind, ...] = KINDS) -> tuple[Image.Image, Scene]:
    """Draws the scene of `seed`, a pair (stream, index).

    Returns the RGB image, SIZE × SIZE, and the truth. Raises `FontMissing`.
    """
    rng = np.random.default_rng(seed)
    background = int(rng.integers(len(BACKGROUNDS)))
    canvas = BACKGROUNDS[background].draw(rng, SIZE)
    amount = int(rng.choice(4, p=(0.2, 0.3, 0.3, 0.2))) + 1
    chosen = [kinds[i] for i in rng.choice(len(kinds), amount, replace=False)]
    cells = [list(_CELLS)[i] for i in rng.choice(4, amount, replace=False)]
    if amount == 1 and rng.random() < 0.4:
        cells = ["center"]
    groups = []
    for kind, cell in zip(chosen, cells, strict=True):
        count = int(rng.choice((1, 2, 3), p=(0.7, 0.18, 0.12)))
        size, side = _sides(rng, alone=cell == "center", count=count)
        column, row = _CELLS.get(cell, (0.5, 0.5))
        x, y = 0.25 + 0.5 * column, 0.25 + 0.5 * row
        slack = max(0.0, 0.24 - side / 2) * (0.7 if count == 1 else 0.2)
        x, y = x + float(rng.uniform(-slack, slack)), y + float(rng.uniform(-slack, slack))
        boxes = tuple(
            _paste(canvas, kind, rng, side * SIZE, (x + dx) * SIZE, (y + dy) * SIZE) for dx, dy in _OFFSETS[count]
        )
        groups.append(Group(kind.noun, count, size, cell, boxes))
    groups.sort(key=lambda group: (group.size != "large", reading_order(group)))
    return canvas, Scene(background, tuple(groups))
