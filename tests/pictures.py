"""Image files for tests: ordinary ones of every format, and hostile ones."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 64


def picture(mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that promises a size and holds almost nothing."""
    body = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", body) + _chunk(b"IDAT", zlib.compress(b"\0" * 64)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 40_000_000, zip=True)
    return encoded(picture(), "PNG", pnginfo=info)


def _flat(size: tuple[int, int]) -> bytes:
    return encoded(Image.new("1", size), "PNG")


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", exif=exif)


@functools.cache
def hostile() -> dict[str, tuple[bytes, set[int]]]:
    """Name → (bytes, HTTP statuses that are right for them)."""
    jpeg, png = encoded(picture(), "JPEG"), encoded(picture(), "PNG")
    webp, gif = encoded(picture(), "WEBP"), encoded(picture(), "GIF")
    frames = [picture(size=(32, 32)) for _ in range(20)]
    grey16 = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 16)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    return {
        "empty": (b"", {400}),
        "one byte": (b"\xff", {415}),
        "zeros": (bytes(10_000), {415}),
        "text": (b"hello, this is no image " * 50, {415}),
        "html as jpg": (b"<!doctype html><html><body>404</body></html>", {415}),
        "svg": (svg, {415}),
        "pdf": (b"%PDF-1.7\n" + bytes(500), {415}),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n" * 20, {415}),
        "zip": (b"PK\x03\x04" + bytes(500), {415}),
        "json": (b'{"image": 1}', {415}),
        "jpeg without a body": (jpeg[:200], {400, 415}),
        "jpeg cut in the middle": (jpeg[: len(jpeg) // 2], {400}),
        "jpeg magic only": (b"\xff\xd8\xff\xe0", {400, 415}),
        "png cut in the middle": (png[: len(png) // 2], {400}),
        "png magic only": (png[:8], {400, 415}),
        "png with a wrong checksum": (png[:40] + bytes([png[40] ^ 255]) + png[41:], {400, 415}),
        "webp cut in the middle": (webp[: len(webp) // 2], {400, 415}),
        "gif cut after its header": (gif[:20], {400, 415}),
        "tiff cut in the middle": (encoded(picture(), "TIFF")[:100], {400, 415}),
        "bmp cut in the middle": (encoded(picture(), "BMP")[:500], {400}),
        "bmp of negative size": (
            b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<Iii", 40, -5, -5) + bytes(60),
            {400, 413, 415},
        ),
        "header of 60000×60000": (png_header(60_000, 60_000), {413}),
        "header of 0×0": (png_header(0, 0), {400, 415}),
        "header beyond 31 bits": (png_header(2**31 - 1, 2**31 - 1), {400, 413, 415}),
        "7100×7100 in 6 kB": (_flat((7100, 7100)), {413}),
        "6000×6000 in 5 kB": (_flat((6000, 6000)), {200}),
        "1×60000": (_flat((1, 60_000)), {200}),
        "60000×1": (_flat((60_000, 1)), {200}),
        "1×1": (_flat((1, 1)), {200}),
        "text chunk of 40 MB": (_text_bomb(), {200, 400}),
        "animated gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), {200}),
        "animated webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), {200}),
        "multi-page tiff": (encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), {200}),
        "cmyk jpeg": (encoded(picture("CMYK"), "JPEG"), {200}),
        "16-bit png": (encoded(grey16, "PNG"), {200}),
        "float tiff": (encoded(picture("F"), "TIFF"), {200}),
        "rotated jpeg": (_exif(6), {200}),
        "impossible orientation": (_exif(99), {200}),
        "jpeg with text behind it": (jpeg + svg * 100, {200}),
    }


def tiny(number: int) -> bytes:
    """A PNG of a few pixels that is another one for each number below 1000."""
    return encoded(Image.new("RGB", (10 + number % 10, 9), (number % 251, number // 251, 7)), "PNG")
