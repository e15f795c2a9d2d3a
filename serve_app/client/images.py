"""From whatever a caller has to an image's bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


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
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return "image.png", buffer.getvalue()
    raise TypeError(f"an image is a path, bytes, a file, a PIL image or an array, not {type(image).__name__}")
