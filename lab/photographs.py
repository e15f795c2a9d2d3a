"""Photographs that installed Python packages ship: what the embedded models must say that they do not know.

Those of `TRAINING` stand behind drawn things and among the negatives; those of `HELD_OUT` are seen in evaluation only.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from PIL import Image

TRAINING: Mapping[str, tuple[str, ...]] = {
    "foolbox": ("foolbox/data/imagenet_",),
    "gradio": (
        "gradio/media_assets/images/cheetah.jpg",
        "gradio/media_assets/images/groot.jpeg",
        "gradio/media_assets/images/lion.jpg",
        "gradio/media_assets/images/tower.jpg",
        "gradio/test_data/cheetah2.jpg",
    ),
    "matplotlib": ("matplotlib/mpl-data/sample_data/grace_hopper.jpg",),
}
"""Distribution → how the paths of its photographs begin."""
HELD_OUT: Mapping[str, tuple[str, ...]] = {
    "scikit-image": tuple(
        f"skimage/data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "ihc.png",
            "moon.png",
            "motorcycle_left.png",
            "retina.jpg",
            "rocket.jpg",
        )
    ),
    "scikit-learn": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
}
_LONGEST = 512
"""Longest side in pixels at which a photograph is kept."""


class PhotographsMissing(RuntimeError):
    """A package whose photographs are needed is not installed."""


def files(packages: Mapping[str, tuple[str, ...]]) -> list[Path]:
    """The photographs in the order of their names. Raises `PhotographsMissing`."""
    found = []
    for name, beginnings in packages.items():
        try:
            shipped = distribution(name).files or []
        except PackageNotFoundError as error:
            raise PhotographsMissing(f"Install {name}: its photographs are needed (pip install {name}).") from error
        for beginning in beginnings:
            matching = sorted(Path(str(path.locate())) for path in shipped if str(path).startswith(beginning))
            if not matching:
                raise PhotographsMissing(
                    f"This version of {name} ships no {beginning}*; constraints.txt has one that does."
                )
            found += matching
    return found


@functools.cache
def training() -> tuple[Image.Image, ...]:
    return tuple(_read(path) for path in files(TRAINING))


@functools.cache
def held_out() -> tuple[Image.Image, ...]:
    return tuple(_read(path) for path in files(HELD_OUT))


def _read(path: Path) -> Image.Image:
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    image.thumbnail((_LONGEST, _LONGEST))
    return image


def crop(rng: np.random.Generator, photograph: Image.Image, size: int, least: float = 0.25) -> Image.Image:
    """A part of a photograph, `size` × `size`; `least` is the smallest side as a share of the photograph's."""
    width, height = photograph.size
    side = rng.uniform(least, 1.0) * min(width, height)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    part = photograph.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part
