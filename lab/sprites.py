"""The pictures of single things: glyphs of Noto Color Emoji (SIL Open Font License 1.1) and plain shapes.

The font is Debian's package `fonts-noto-color-emoji`.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab.objects import COLORS, Kind

FONT = Path(os.environ.get("DEMO_EMOJIFONT", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"))
_STRIKE = 109  # the only bitmap size that the font holds
_TURN = 20
"""Most degrees by which a thing is turned."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the picture's side; beyond 0 and 1 where the edge cuts a thing."""


class FontMissing(RuntimeError):
    """The emoji font that draws the objects is not installed."""


@functools.cache
def glyph(text: str) -> Image.Image:
    if not FONT.is_file():
        raise FontMissing(
            f"The emoji font {FONT} is missing: install Debian's fonts-noto-color-emoji or set DEMO_EMOJIFONT."
        )
    font = ImageFont.truetype(str(FONT), _STRIKE)
    image = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
    ImageDraw.Draw(image).text((_STRIKE // 4, _STRIKE // 4), text, font=font, embedded_color=True)
    return image.crop(image.getchannel("A").getbbox())


@functools.cache
def _shape(noun: str, color: str) -> Image.Image:
    side = 4 * _STRIKE
    image = Image.new("RGBA", (side, side), (*COLORS[color], 0))
    draw = ImageDraw.Draw(image)
    middle, reach = side / 2, side / 2 - 2
    if noun == "circle":
        draw.ellipse((2, 2, side - 2, side - 2), fill=COLORS[color])
    elif noun == "square":
        draw.rectangle((2, 2, side - 2, side - 2), fill=COLORS[color])
    elif noun == "cross":
        for box in ((side / 3, 2, 2 * side / 3, side - 2), (2, side / 3, side - 2, 2 * side / 3)):
            draw.rectangle(box, fill=COLORS[color])
    else:
        corners, turn = {"triangle": (3, -90), "hexagon": (6, 0)}[noun]
        draw.regular_polygon((middle, middle, reach), corners, rotation=turn + 90, fill=COLORS[color])
    image = image.resize((_STRIKE, _STRIKE), Image.Resampling.LANCZOS)
    return image.crop(image.getchannel("A").getbbox())


def sprite(kind: Kind, color: str = "") -> Image.Image:
    """The picture of one thing, RGBA. Raises `FontMissing`."""
    return glyph(kind.glyph) if kind.glyph else _shape(kind.noun, color)


def turned(rng: np.random.Generator, image: Image.Image, side: float) -> Image.Image:
    """`image`, mirrored or not and turned a little, with a longest side of about `side` pixels."""
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = side / max(image.size)
    image = image.resize(tuple(max(4, round(length * scale)) for length in image.size), Image.Resampling.HAMMING)
    image = image.rotate(float(rng.uniform(-_TURN, _TURN)), Image.Resampling.BICUBIC, expand=True)
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((side * 1.1, side * 1.1))
    return image


def paste(
    canvas: Image.Image,
    image: Image.Image,
    rng: np.random.Generator,
    side: float,
    x: float,
    y: float,
    cut: bool = False,
) -> Box:
    """Pastes a thing of about `side` pixels with its middle at (x, y), inside the picture unless `cut`."""
    thing = turned(rng, image, side)
    wide, tall = thing.size
    left, top = round(x - wide / 2), round(y - tall / 2)
    if not cut:
        left = int(np.clip(left, 0, max(0, canvas.width - wide)))
        top = int(np.clip(top, 0, max(0, canvas.height - tall)))
    canvas.paste(thing, (left, top), thing)
    width, height = canvas.size
    return tuple(  # type: ignore[return-value]
        round(v / whole, 4) for v, whole in ((left, width), (top, height), (left + wide, width), (top + tall, height))
    )
