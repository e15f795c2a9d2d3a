"""From whatever a caller sends as an image to pixels at the model's size.

Decoding is bounded before it starts: bytes by the reader, pixels by the header. The content decides
the format, never a name or a declared type.
"""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from serve_app.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from serve_app.limits import Limits
from serve_app.service.budget import Budget
from serve_app.types import ModelInfo, Pixels, Size

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are read; of animations and multi-page files the first frame."""

Image.init()  # registers every plugin: `open(formats=…)` needs them and is called from several threads

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_MOST_PROFILE_BYTES = 1_000_000

MOST_LENGTHS = 32
"""Most times that the longer side of a picture that keeps its proportions is as long as the shorter."""
LARGE_PIXELS = 16_000_000
"""Larger pictures are shrunk before they are resized, to no less than `GAP` times the size that is wanted: what differs
then from a resize of the whole is rounding."""
GAP = 4
STRIP_PIXELS = 1_000_000
PATIENCE_S = 10.0
"""How long an image waits for the memory to decode it."""
_BYTES_A_PIXEL = {"JPEG": 4, "MPO": 4, "PNG": 5, "BMP": 5, "GIF": 6, "TIFF": 9, "AVIF": 10, "WEBP": 17}
"""Peak of decoding, at least what `python -m bench.memory` measures: Pillow keeps RGB in 4 bytes, WebP's decoder has
several copies."""
_PROGRESSIVE_BYTES = 6
"""Of a pixel's coefficients, which a progressive JPEG is decoded from whole: two of each component."""

_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_UNSIGNED_16 = 65535
_ROWS = 64

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, TIFF 6.0 tag 274; 1 is upright."""
_SIDEWAYS = {_TURNS[value] for value in (5, 6, 7, 8)}


def read(image: Any, limits: Limits, model: ModelInfo, budget: Budget | None = None) -> Pixels:
    """As `read_all`, for one model."""
    return read_all(image, limits, (model.size,), budget)[model.size]


def read_all(image: Any, limits: Limits, sizes: Collection[Size], budget: Budget | None = None) -> dict[Size, Pixels]:
    """Decodes bytes, a PIL image or a uint8 array ([H, W], [H, W, 3] or [H, W, 4]) once, for several models.

    Files are decoded within `decode_memory_bytes` of the budget, if there is one.

    Raises `InvalidImage`, `UnsupportedImage`, `ImageTooLarge`, and `Overloaded` if there is no memory for a while.
    Blocks: call it in a thread.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        picture, cost = _opened(bytes(image), limits, max(max(size.width, size.height) for size in sizes))
        with (budget or Budget()).hold(cost, limits.decode_memory_bytes, PATIENCE_S):
            try:
                return _at_all(_loaded(picture), sizes)
            finally:
                picture.close()  # its memory is free before the next one's is taken
    if isinstance(image, Image.Image):
        picture = image
        _check_pixels(picture, limits)
    elif isinstance(image, np.ndarray):
        picture = _from_array(image)
        _check_pixels(picture, limits)
    else:
        raise InvalidImage(f"An image is bytes, a PIL image or a uint8 array, not {type(image).__name__}.")
    return _at_all(picture, sizes)


def _at_all(picture: Image.Image, sizes: Collection[Size]) -> dict[Size, Pixels]:
    return {size: _pixels(picture, size) for size in sizes}


def _pixels(picture: Image.Image, size: Size) -> Pixels:
    if size.fit == "exact":
        sized, shape = _prepared(picture, (size.width, size.height)), b""
    else:
        width, height = _within(picture, max(size.width, size.height))
        least = max(width, height) // MOST_LENGTHS  # processors enlarge the shorter side without bound
        sized = _prepared(picture, (max(width, least), max(height, least)))
        shape = f"{sized.width}×{sized.height} ".encode()
    data = sized.tobytes()
    return Pixels(hashlib.blake2b(shape + data, digest_size=16).hexdigest(), sized.height, sized.width, data)


def check(data: bytes, limits: Limits) -> None:
    """Raises as `read` does, as far as an image's beginning tells."""
    _opened(data, limits, 1)


def thumbnail(data: bytes, limits: Limits, side: int) -> Image.Image:
    """The image as a model sees it (upright, RGB, on white) but in its own proportions, the longer side at most `side`
    pixels. Raises as `read` does."""
    picture = _loaded(_opened(data, limits, side)[0])
    return _prepared(picture, _within(picture, side))


def _within(picture: Image.Image, side: int) -> tuple[int, int]:
    """(width, height) of the upright picture in its own proportions, the longer at most `side`; no more than it has."""
    width, height = picture.size[::-1] if _turn(picture) in _SIDEWAYS else picture.size
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _opened(data: bytes, limits: Limits, side: int) -> tuple[Image.Image, int]:
    """The picture, not decoded yet, and the bytes of memory that decoding it takes.

    A large JPEG will be decoded at an eighth to a half of its size, still at least `GAP` times `side`.
    """
    if not data:
        raise InvalidImage("The image is empty.")
    if len(data) > limits.max_image_bytes:
        raise ImageTooLarge(f"The image has {len(data)} bytes; at most {limits.max_image_bytes} are accepted.")
    try:
        picture = Image.open(io.BytesIO(_without_texts(data)), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedImage(f"The image is in none of the formats {', '.join(FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"The image has more than {limits.max_image_pixels} pixels.") from error
    except Exception as error:  # broken headers surface as errors of many kinds
        raise InvalidImage(f"The image cannot be opened: {_reason(error)}.") from error
    _check_pixels(picture, limits)
    full = picture.width * picture.height
    if full > LARGE_PIXELS:
        picture.draft(None, (GAP * side, GAP * side))  # of other formats nothing
    cost = picture.width * picture.height * _BYTES_A_PIXEL.get(picture.format or "", 17)
    return picture, cost + (full * _PROGRESSIVE_BYTES if "progressive" in picture.info else 0)


def _loaded(picture: Image.Image) -> Image.Image:
    """The picture, decoded. Raises `InvalidImage`."""
    try:
        picture.load()
    except Exception as error:  # as above, for broken bodies
        raise InvalidImage(f"The image cannot be decoded: {_reason(error)}.") from error
    return picture


def _without_texts(data: bytes) -> bytes:
    """A PNG without its texts and without a colour profile that is too large: Pillow refuses pictures for them.

    Image editors and generators write megabytes of text there (https://www.w3.org/TR/png-3/#11textinfo).
    """
    if not data.startswith(_PNG):
        return data
    kept, start = [data[: len(_PNG)]], len(_PNG)
    while start + 12 <= len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        end = start + 12 + length
        if kind not in _TEXTS and not (kind == b"iCCP" and _is_large_profile(data[start + 8 : end - 4])):
            kept.append(data[start:end])
        start = end
    kept.append(data[start:])
    return b"".join(kept)


def _is_large_profile(chunk: bytes) -> bool:
    """Whether the profile in an iCCP chunk (name, NUL, method, deflated bytes) is broken or beyond a megabyte."""
    inflated = zlib.decompressobj()
    try:
        inflated.decompress(chunk.partition(b"\0")[2][1:], _MOST_PROFILE_BYTES)
    except zlib.error:
        return True
    return not inflated.eof


def _check_pixels(picture: Image.Image, limits: Limits) -> None:
    if picture.width * picture.height > limits.max_image_pixels:
        raise ImageTooLarge(
            f"The image has {picture.width}×{picture.height} pixels; at most {limits.max_image_pixels} are accepted."
        )
    if 0 in picture.size:
        raise InvalidImage("The image has no pixels.")


def _from_array(array: np.ndarray) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped:
        raise InvalidImage(
            "An array must be uint8 of shape [H, W], [H, W, 3] or [H, W, 4]; "
            f"this is {array.dtype} {list(array.shape)}."
        )
    if 0 in array.shape:
        raise InvalidImage("The image has no pixels.")
    return Image.fromarray(np.ascontiguousarray(array))


def _prepared(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    try:
        return _sized(picture, size)
    except Exception as error:  # Pillow's decoders raise many kinds of errors for broken files
        raise InvalidImage(f"The image cannot be decoded: {_reason(error)}.") from error


def _sized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """RGB at `size` (width, height), upright, 8 bits a channel, on white if it is transparent."""
    turn = _turn(picture)
    before_turn = size[::-1] if turn in _SIDEWAYS else size
    small = _plain(picture, before_turn).resize(before_turn, Image.Resampling.BICUBIC)
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
    return (small if turn is None else small.transpose(turn)).convert("RGB")


def _plain(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture as L, RGB or RGBA. A large one is shrunk by whole factors on the way, to no less than `GAP` times
    `size`, strip by strip, so that there is never a second copy of it."""
    convert = _conversion(picture)
    across, down = (max(1, have // (GAP * want)) for have, want in zip(picture.size, size, strict=True))
    if across == down == 1 or picture.width * picture.height <= LARGE_PIXELS:
        return convert(picture)
    small: Image.Image | None = None
    rows = down * max(1, STRIP_PIXELS // (picture.width * down))
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(picture.height, top + rows)))
        strip = convert(strip).reduce((across, down))
        if small is None:
            small = Image.new(strip.mode, (strip.width, -(-picture.height // down)))
        small.paste(strip, (0, top // down))
    assert small is not None
    return small


def _conversion(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes the picture, or a strip of it, L, RGB or RGBA; nothing if it is that."""
    if picture.mode in _WIDE_MODES:
        low, high = _range(picture)
        return lambda strip: _narrow(strip, low, high)
    mode = "RGBA" if picture.has_transparency_data else {"L": "L", "1": "L"}.get(picture.mode, "RGB")
    return lambda strip: strip if strip.mode == mode else strip.convert(mode)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright, by its EXIF orientation."""
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the picture itself
        return None


def _range(picture: Image.Image) -> tuple[float, float]:
    """Black and white of a wide mode: the full range of 16-bit grey; of wider integers and floats what they use."""
    low, high = math.inf, -math.inf
    for values in _strips(picture):
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if picture.mode != "F" and low >= 0 and high <= _UNSIGNED_16:
        return 0.0, float(_UNSIGNED_16) if high > 255 or picture.mode != "I" else 255.0
    return low, high


def _strips(picture: Image.Image) -> Iterator[np.ndarray]:
    """Finite values of the picture, a few rows at a time: [rows, width]."""
    for top in range(0, picture.height, _ROWS):
        values = np.asarray(picture.crop((0, top, picture.width, min(picture.height, top + _ROWS))))
        yield np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if picture.mode == "F" else values


def _narrow(picture: Image.Image, low: float, high: float) -> Image.Image:
    scaled = np.empty(picture.size[::-1], np.uint8)
    for number, values in enumerate(_strips(picture)):
        share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
        scaled[number * _ROWS : number * _ROWS + len(values)] = (share * 255).round()
    return Image.fromarray(scaled)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160].rstrip(".")
