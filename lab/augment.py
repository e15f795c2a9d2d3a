"""What happens to a picture on its way: cropped screenshots, re-saved files, other cameras."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from lab.scenes import SIZE, Scene, told, visible
from lab.sprites import Box

_LEAST_SEEN = 0.5
"""Share of a thing that no change of the picture may hide, beyond what its composer hid."""


def _warp(rng: np.random.Generator, image: Image.Image, boxes: list[list[Box]]) -> tuple[Image.Image, list[list[Box]]]:
    """Framed, moved, stretched and turned a little, as pictures of pictures are."""
    low, high = (0.62, 0.85) if rng.random() < 0.2 else (0.82, 1.06)
    scale, aspect = rng.uniform(low, high), math.exp(rng.uniform(-0.12, 0.12))
    angle = math.radians(rng.uniform(-6, 6))
    wide, tall = scale * math.sqrt(aspect), scale / math.sqrt(aspect)
    slack = max(0.0, 1 - scale) / 3 + 0.02
    middle = 0.5 + rng.uniform(-slack, slack, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * (wide, tall)
    back = np.linalg.inv(turn)
    offset = SIZE * (0.5 - back @ middle)
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    fill = tuple(int(v) for v in rng.integers(0, 256, 3))
    warped = image.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill
    )

    def moved(box: Box) -> Box:
        left, top, right, bottom = box
        x, y = turn @ ((left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5) + middle
        half_w, half_h = (right - left) / 2 * wide, (bottom - top) / 2 * tall
        return x - half_w, y - half_h, x + half_w, y + half_h

    return warped, [[moved(box) for box in group] for group in boxes]


def _enhance(rng: np.random.Generator, image: Image.Image, most: float) -> Image.Image:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(float(rng.uniform(1 - most, 1 + most)))
    return image


def _resave(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(30, 92)))
    return Image.open(buffer).convert("RGB")


def _soften(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    if rng.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    side = int(SIZE * rng.uniform(0.6, 0.95))
    return image.resize((side, side), Image.Resampling.BILINEAR).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def augment(rng: np.random.Generator, image: Image.Image, scene: Scene) -> tuple[np.ndarray, Scene]:
    """Returns the changed picture, uint8 [SIZE, SIZE, 3], and what is then to be seen where."""
    resampling = Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.BICUBIC
    image = image.resize((SIZE, SIZE), resampling)
    if rng.random() < 0.5:
        boxes = [list(group.boxes) for group in scene.groups]
        warped, moved = _warp(rng, image, boxes)
        before, after = (
            min([visible(box) for group in every for box in group], default=1.0) for every in (boxes, moved)
        )
        if after >= min(_LEAST_SEEN, before):
            image, scene = warped, told(scene, moved)
    colored = any(group.color for group in scene.groups)  # a red that is much darker is a brown
    if rng.random() < 0.4:
        image = _enhance(rng, image, 0.12 if colored else 0.35)
    if rng.random() < 0.03 and not colored:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.15:
        image = _soften(rng, image)
    if rng.random() < 0.25:
        image = _resave(rng, image)
    pixels = np.asarray(image)
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(2, 12), (*pixels.shape[:2], 1 if rng.random() < 0.3 else 3))
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels, scene
