"""From whatever a caller has to an image's bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

_ORIENTATION = 274
"""EXIF's tag (TIFF 6.0)."""
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_TIFF_MODES = ("CMYK", "LAB", "F", "I")


def is_url(image: Any) -> bool:
    return isinstance(image, str) and image[:8].lower().startswith(("http://", "https://"))


def named_bytes(image: Any) -> tuple[str, bytes]:
    """File name and bytes of a path, bytes, a binary file, a PIL image or a uint8 array.

    Raises `OSError` for a file that cannot be read and `TypeError` for anything else.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return path.name, path.read_bytes()
    if isinstance(image, bytes | bytearray | memoryview):
        return "image", bytes(image)
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        return (Path(name).name if isinstance(name, str) else "image"), image.read()
    if hasattr(image, "__array_interface__") and not hasattr(image, "save"):
        from PIL import Image

        image = Image.fromarray(image)
    if hasattr(image, "save"):
        return _encoded(image)
    raise TypeError(f"an image is a path, bytes, a file, a PIL image or an array, not {type(image).__name__}")


def _encoded(picture: Any) -> tuple[str, bytes]:
    """A PIL image without loss, with its orientation: the service makes of it what it makes of the file it is from."""
    from PIL import Image

    exif = Image.Exif()
    if orientation := picture.getexif().get(_ORIENTATION):
        exif[_ORIENTATION] = orientation
    kind = "PNG" if picture.mode in _PNG_MODES else "TIFF"
    if kind == "TIFF" and picture.mode not in _TIFF_MODES:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    picture.save(buffer, kind, exif=exif)
    return f"image.{kind.lower()}", buffer.getvalue()
